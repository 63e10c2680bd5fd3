//! Disks that are full, and disks that turn read-only in the middle of things: clients are told so, nothing that was there is
//! hurt, the sessions live on, and once there is room again, all works again.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::path::Path;

use common::mounts::{Mount, format, may_mount};
use common::{Client, Server, assert_same_bytes, eventually, noise, skip};
use tempfile::TempDir;

/// Bytes of the disks: more than sockets hold.
const SIZE: u64 = 24 << 20;

/// A disk of its own for a server, which is told to use all of it.
struct SmallDisk {
    mount: Mount,
    home: TempDir,
}

impl SmallDisk {
    fn ext4() -> Option<Self> {
        if !may_mount() {
            return None;
        }
        let home = tempfile::tempdir().unwrap();
        let (image, at) = (home.path().join("image"), home.path().join("disk"));
        fs::create_dir(&at).unwrap();
        let made = format(&image, SIZE, &["mkfs.ext4", "-q", "-F", "-m0"]);
        match made.and_then(|()| Mount::image(&image, "ext4", "noatime", &at)) {
            Ok(mount) => Some(Self { mount, home }),
            Err(why) => {
                skip(format_args!("no ext4 here: {why}"));
                None
            }
        }
    }

    fn memory() -> Option<Self> {
        if !may_mount() {
            return None;
        }
        let home = tempfile::tempdir().unwrap();
        let at = home.path().join("disk");
        fs::create_dir(&at).unwrap();
        let mount = Mount::memory(&at, &format!("size={SIZE}"));
        Some(Self { mount, home })
    }

    fn serve(&self) -> Server {
        let root = self.home.path().join("disk/root");
        fs::create_dir(&root).unwrap();
        let user = "[anonymous]\nroot = \"{root}\"\naccess = \"read-write\"\n";
        Server::build()
            .configuration(&format!("min_free = \"0\"\n{user}"))
            .serving(&root)
            .start()
    }
}

fn client(server: &Server) -> Client {
    let mut client = server.connect();
    client.login_as("ftp", "x").expect(230);
    client.expect("TYPE I", 200);
    client
}

/// Sends much more than the disk holds; the final reply's text.
fn store_too_much(client: &mut Client, command: &str) -> String {
    let mut data = client.epsv();
    client.expect(command, 150);
    let part = noise(1 << 20);
    // The server breaks the connection off once the disk is full.
    assert!((0..(2 * SIZE) >> 20).any(|_| data.write_all(&part).is_err()));
    let reply = client.reply().expect(452);
    reply.text()
}

/// An upload for which there is no room, which the server may break off.
fn refused_for_room(client: &mut Client, command: &str, contents: &[u8]) {
    let mut data = client.epsv();
    client.expect(command, 150);
    let _ = data.write_all(contents);
    drop(data);
    client.reply().expect(452);
}

fn free(at: &Path) -> u64 {
    let disk = nix::sys::statvfs::statvfs(at).unwrap();
    disk.blocks_available() * disk.fragment_size()
}

/// What must hold on a full disk of any kind.
fn a_full_disk(disk: &SmallDisk) {
    let server = disk.serve();
    let root = server.path("");
    let mut session = client(&server);
    let (old, other) = (noise(1_000_001), noise(500_003));
    session.stor("target", &old);
    session.stor("other", &other);
    let before = free(&root);

    // The target stays what it was, and so does all else.
    assert!(store_too_much(&mut session, "STOR target").contains("bytes are free"));
    session.expect("NOOP", 200);
    assert_same_bytes(&session.retr("target"), &old);
    assert_same_bytes(&session.retr("other"), &other);
    server.wait_for_log("disk is full");

    // What has arrived takes the room until it is stored over: with what fits.
    assert!(free(&root) < 2 << 20, "{} bytes are free", free(&root));
    let another = noise(3_000_000);
    refused_for_room(&mut session, "STOR another", &another);
    let new = noise(900_007);
    session.stor("target", &new);
    assert_same_bytes(&session.retr("target"), &new);
    session.stor("another", &another);
    session.expect("DELE another", 250);
    eventually("the room is there again", || free(&root) + 200_000 > before);

    // A new file: what has arrived of it is removed by name.
    store_too_much(&mut session, "STOR fresh");
    assert!(!server.exists("fresh"));
    session.expect("DELE fresh", 250);
    eventually("the room is there again", || free(&root) + 200_000 > before);
    session.stor("another", &another);
    assert_same_bytes(&session.retr("another"), &another);
    assert_same_bytes(&session.retr("other"), &other);
}

/// Several sessions fill a disk at once; each is told, none is hurt.
fn a_full_disk_and_several_sessions(disk: &SmallDisk) {
    const SESSIONS: usize = 6;
    let server = disk.serve();
    let root = server.path("");
    for number in 0..SESSIONS {
        client(&server).stor(&format!("f{number}"), &noise(10_000 + number));
    }
    let before = free(&root);
    std::thread::scope(|scope| {
        for number in 0..SESSIONS {
            let mut client = client(&server);
            scope.spawn(move || {
                let name = format!("f{number}");
                store_too_much(&mut client, &format!("STOR {name}"));
                // Others may hold all the room now, but what is there can be read.
                assert_same_bytes(&client.retr(&name), &noise(10_000 + number));
                client.expect("NOOP", 200);
            });
        }
    });
    // Each who begins anew gives room back, and so there is enough for all.
    for number in 0..SESSIONS {
        let (mut client, name) = (client(&server), format!("f{number}"));
        assert_same_bytes(&server.read(&name), &noise(10_000 + number));
        let mut data = client.epsv();
        client.expect(format!("STOR {name}"), 150);
        let _ = data.write_all(&noise(20_000 + number));
        drop(data);
        client.reply().expect_one_of(&[226, 452]);
    }
    for number in 0..SESSIONS {
        let (mut client, name) = (client(&server), format!("f{number}"));
        client.stor(&name, &noise(20_000 + number));
        assert_same_bytes(&client.retr(&name), &noise(20_000 + number));
    }
    eventually("the room is there again", || free(&root) + 500_000 > before);
    let left = common::tree(&root).into_keys();
    assert_eq!(left.count(), SESSIONS, "no partial file is left");
}

#[test]
fn a_full_ext4_hurts_nothing_and_gives_its_room_back() {
    if let Some(disk) = SmallDisk::ext4() {
        a_full_disk(&disk);
    }
}

#[test]
fn a_full_tmpfs_hurts_nothing_and_gives_its_room_back() {
    if let Some(disk) = SmallDisk::memory() {
        a_full_disk(&disk);
    }
}

#[test]
fn several_sessions_on_a_full_ext4_are_all_told_and_unhurt() {
    if let Some(disk) = SmallDisk::ext4() {
        a_full_disk_and_several_sessions(&disk);
    }
}

#[test]
fn several_sessions_on_a_full_tmpfs_are_all_told_and_unhurt() {
    if let Some(disk) = SmallDisk::memory() {
        a_full_disk_and_several_sessions(&disk);
    }
}

#[test]
fn a_full_disk_is_452_with_the_bytes_that_are_free() {
    if !may_mount() {
        return;
    }
    let builder = Server::build();
    let _disk = Mount::memory(builder.root(), "size=1m");
    let server = builder.start();
    let mut client = server.client();
    assert!(store_too_much(&mut client, "STOR big").contains("bytes are free"));
    client.expect("NOOP", 200);
    client.expect("DELE big", 250);
    client.stor("small", &noise(100_000));
    assert_same_bytes(&server.read("small"), &noise(100_000));
    client.expect("ALLO 100000000", 552).says("are free");
    client.expect("ALLO 1000", 200);
}

#[test]
fn a_disk_that_turns_read_only_refuses_uploads_and_goes_on_with_downloads() {
    let Some(disk) = SmallDisk::ext4() else {
        return;
    };
    let server = disk.serve();
    let (mut session, mut reader) = (client(&server), client(&server));
    let contents = noise(9_000_001);
    session.stor("file", &contents);
    let mut data = reader.epsv();
    reader.expect("RETR file", 150);
    let mut found = vec![0; 100_000];
    data.read_exact(&mut found).unwrap();

    disk.mount.remount("ro");
    for command in ["STOR file", "STOR new", "APPE file", "STOU"] {
        let refused = session.upload(command, b"x");
        refused.expect_one_of(&[550, 553]).says("read-only");
    }
    for command in ["MKD made", "DELE file"] {
        session.expect(command, 550).says("read-only");
    }
    session.expect("RNFR file", 350);
    session
        .command("RNTO other")
        .expect_one_of(&[550, 553])
        .says("read-only");
    data.read_to_end(&mut found).unwrap();
    reader.reply().expect(226);
    assert_same_bytes(&found, &contents);
    assert_same_bytes(&session.retr("file"), &contents);

    disk.mount.remount("rw");
    session.stor("file", b"new");
    session.expect("MKD made", 257);
    session.stor("made/file", b"new");
    assert_eq!(server.read("file"), b"new");
    assert_eq!(session.retr("made/file"), b"new");
}

#[test]
fn a_disk_that_fails_under_an_upload_ends_it_without_a_promise() {
    let Some(disk) = SmallDisk::ext4() else {
        return;
    };
    let server = disk.serve();
    let (mut session, mut reader) = (client(&server), client(&server));
    let (old, new) = (noise(1_000_001), noise(2_000_003));
    session.stor("file", &old);
    // One that is still coming, and one of which only the end is missing.
    let mut coming = session.epsv();
    session.expect("STOR file", 150);
    coming.write_all(&new[..1_000_000]).unwrap();
    let mut other = client(&server);
    let mut ending = other.epsv();
    other.expect("STOR other", 150);
    ending.write_all(b"all").unwrap();
    eventually("both are under way", || {
        let sizes = common::tree(&server.path(""));
        sizes.values().map(Vec::len).sum::<usize>() == old.len() + 1_000_000 + 3
    });

    // As the kernel does after an error of the device.
    disk.mount.remount("abort");
    drop(ending);
    let codes = [451, 550, 553];
    other.reply().expect_one_of(&codes);
    // The server breaks the connection off.
    let _ = coming.write_all(&new[1_000_000..]);
    drop(coming);
    session.reply().expect_one_of(&codes);
    for client in [&mut session, &mut other] {
        client.expect("NOOP", 200);
        client.upload("STOR file", b"x").expect_one_of(&codes);
    }
    assert_same_bytes(&reader.retr("file"), &old);
    assert!(!server.log_text().contains("STOR other 3 bytes complete"));
}
