//! Room on the disk: what is announced is set aside before the first byte, some stays free, and finished files are continued
//! in a clone where there are clones.

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use common::{Mounted, Server, assert_same_bytes, eventually, noise};

/// The one partial file that is there.
fn partial(server: &Server) -> Option<PathBuf> {
    let mut names = fs::read_dir(server.path("")).unwrap();
    names.find_map(|entry| {
        let path = entry.unwrap().path();
        path.to_str().unwrap().ends_with(".partial").then_some(path)
    })
}

/// What is tried on each kind of file system that is there.
const KINDS: [(&str, &[&str], u64); 3] = [
    ("ext4", &["mkfs.ext4", "-q"], 64 << 20),
    ("btrfs", &["mkfs.btrfs", "-q"], 200 << 20),
    ("xfs", &["mkfs.xfs", "-q"], 400 << 20),
];

#[test]
fn what_was_announced_is_taken_before_the_first_byte_and_the_rest_given_back() {
    for (kind, mkfs, size) in KINDS {
        let builder = Server::build();
        let Some(_disk) = Mounted::with(kind, mkfs, size, &builder) else {
            continue;
        };
        let server = builder.start();
        let mut client = server.client();
        let mut data = client.epsv();
        client.expect("ALLO 20000000", 200);
        client.expect("STOR file", 150);
        let file = partial(&server).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().len(), 0);
        let taken = fs::metadata(&file).unwrap().blocks() * 512;
        assert!(taken >= 20_000_000, "{kind}: {taken}");
        data.write_all(&noise(1000)).unwrap();
        drop(data);
        client.reply().expect(226);
        let taken = fs::metadata(server.path("file")).unwrap().blocks() * 512;
        assert!(taken < 100_000, "{kind}: {taken}");
    }
}

#[test]
fn want_of_room_is_found_out_before_the_first_byte() {
    let builder = Server::build();
    let Some(_disk) = Mounted::ext4(&builder) else {
        return;
    };
    let server = builder.start();
    let (mut client, mut other) = (server.client(), server.client());
    client.expect("ALLO 999999999999", 552).says("are free");
    let free = client.expect("AVBL", 213);
    let free: u64 = std::str::from_utf8(free.last()).unwrap().parse().unwrap();
    // There was room when it was asked for, and somebody else has taken it.
    client.expect(format!("ALLO {free}"), 200);
    other.stor("small", &noise(1_000_000));
    let _data = client.epsv();
    let reply = client.command("STOR large").expect(552).says("are free");
    reply.says(&format!("{free} bytes are needed"));
    assert!(partial(&server).is_none());
    client.stor("small", &noise(1_000_000));
}

#[test]
fn what_was_set_aside_for_an_upload_that_is_cut_off_is_given_back() {
    let builder = Server::build();
    let Some(_disk) = Mounted::ext4(&builder) else {
        return;
    };
    let server = builder.start();
    let mut client = server.client();
    let mut data = client.epsv();
    client.expect("ALLO 20000000", 200);
    client.expect("STOR file", 150);
    data.write_all(&noise(5000)).unwrap();
    eventually("it arrives", || {
        fs::metadata(partial(&server).unwrap()).unwrap().len() == 5000
    });
    client.send("ABOR");
    client.reply().expect(426);
    client.reply().expect(226);
    let left = fs::metadata(partial(&server).unwrap()).unwrap();
    assert_eq!(left.len(), 5000);
    assert!(left.blocks() * 512 < 100_000, "{}", left.blocks());
    client.expect("REST 5000", 350);
    client.upload("STOR file", b"rest").expect(226);
    let whole = [noise(5000), b"rest".to_vec()].concat();
    assert_same_bytes(&server.read("file"), &whole);
}

#[test]
fn so_much_of_the_disk_stays_free() {
    let builder = Server::build().configuration(
        "min_free = \"600kB\"\n[anonymous]\nroot = \"{root}\"\naccess = \"read-write\"\n",
    );
    let Some(_disk) = Mounted::in_memory(&builder, "size=1000k") else {
        return;
    };
    let server = builder.start();
    let mut client = server.visitor();
    client.stor("fits", &noise(300_000));
    let data = client.epsv();
    client.expect("STOR more", 150);
    let mut data = data;
    let _ = data.write_all(&noise(2_000_000));
    drop(data);
    client.reply().expect(452).says("bytes are free");
    server.wait_for_log("setting: min_free");
    client.expect("ALLO 500000", 552);
    let disk = nix::sys::statvfs::statvfs(&server.path("")).unwrap();
    assert!(disk.blocks_free() * disk.fragment_size() >= 600_000);
    assert_same_bytes(&client.retr("fits"), &noise(300_000));
    client.command("DELE more");
    client.expect("DELE fits", 250);
    client.stor("fits", &noise(300_000));
}

/// A finished file that is continued while somebody watches.
fn continue_a_file(server: &Server, at_once: bool) {
    let mut client = server.client();
    client.stor("file", &noise(100_000));
    let mut data = client.epsv();
    client.expect("APPE file", 150);
    data.write_all(b"more").unwrap();
    let size = || fs::metadata(server.path("file")).unwrap().len();
    if at_once {
        eventually("it grows", || size() == 100_004);
    } else {
        eventually("the clone grows", || {
            partial(server).is_some_and(|path| fs::metadata(path).unwrap().len() == 100_004)
        });
        assert_eq!(size(), 100_000);
    }
    client.send("ABOR");
    client.reply().expect(426);
    client.reply().expect(226);
    drop(data);
    assert!(partial(server).is_none(), "nothing is left of it");
    if at_once {
        assert_eq!(size(), 100_004);
    } else {
        assert_same_bytes(&server.read("file"), &noise(100_000));
    }
    client.expect("REST 100000", 350);
    client.upload("STOR file", b"and so on").expect(226);
    client.upload("APPE file", b", on").expect(226);
    client.expect("REST 50000", 350);
    let reader = server.read("file");
    client.upload("STOR file", &noise(60_000)).expect(226);
    assert_eq!(reader.len(), 100_013);
    let whole = [&noise(100_000)[..50_000], &noise(60_000)].concat();
    assert_same_bytes(&server.read("file"), &whole);
    client.expect("REST 110001", 350);
    client.upload("STOR file", b"x").expect(554);
    assert_same_bytes(&server.read("file"), &whole);
}

#[test]
fn finished_files_are_continued_in_a_clone_where_the_file_system_can_clone() {
    for (kind, mkfs, size) in &KINDS[1..] {
        let builder = Server::build();
        let Some(_disk) = Mounted::with(kind, mkfs, *size, &builder) else {
            continue;
        };
        continue_a_file(&builder.start(), false);
    }
}

#[test]
fn finished_files_are_continued_in_place_elsewhere() {
    let builder = Server::build();
    let Some(_disk) = Mounted::ext4(&builder) else {
        return;
    };
    continue_a_file(&builder.start(), true);
}
