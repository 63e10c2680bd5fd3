//! Roots and folders whose disk must be mounted (setting: `require_mount`): while it is not, nothing is shown and nothing
//! written; when it is, everything goes on by itself; and nobody who is idle keeps it from being unmounted.

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::mounts::{Mount, may_mount};
use common::{Client, Server, assert_same_bytes, eventually, noise, run_client, tree};

/// A disk, in memory.
fn memory(at: &Path) -> Mount {
    Mount::memory(at, "size=16m")
}

/// A server whose root, or whose folder `/disk`, must be mounted at the directory `disk`, in which a file lies that belongs
/// to the disk of the system.
fn guarded(folder: bool, more: &str) -> (Server, PathBuf) {
    guarded_by("", folder, more)
}

/// The same with keys of the server.
fn guarded_by(keys: &str, folder: bool, more: &str) -> (Server, PathBuf) {
    let builder = Server::build();
    let root = builder.root().to_owned();
    let disk = root.join("disk");
    fs::create_dir(&disk).unwrap();
    fs::write(disk.join("below"), "of the system").unwrap();
    let table = if folder {
        format!(
            "[anonymous]\nroot = \"{{root}}\"\naccess = \"read-write\"\n{more}\
             [[anonymous.folder]]\npath = \"/disk\"\nroot = \"{{root}}/disk\"\nrequire_mount = true\n"
        )
    } else {
        format!(
            "[anonymous]\nroot = \"{{root}}/disk\"\naccess = \"read-write\"\nrequire_mount = true\n{more}"
        )
    };
    let table = format!("{keys}{table}");
    (builder.configuration(&table).start(), disk)
}

#[track_caller]
fn log_in(server: &Server) -> Client {
    let mut client = server.connect();
    client.login_as("anonymous", "me@here").expect(230);
    client.expect("TYPE I", 200);
    client
}

/// Everything that touches files below the path ends in 450.
#[track_caller]
fn expect_nothing_works(client: &mut Client, path: &str) {
    for line in [
        "CWD {}/",
        "MKD {}/made",
        "RMD {}/below",
        "RMDA {}/below",
        "DELE {}/below",
        "RNFR {}/below",
        "SIZE {}/below",
        "MDTM {}/below",
        "MLST {}/below",
        "MLST {}/",
        "MFMT 20200101000000 {}/below",
        "SITE CHMOD 600 {}/below",
        "AVBL {}/",
        "STAT {}/",
        "STAT {}/below",
    ] {
        client.expect(line.replace("{}", path), 450).says("mounted");
    }
    for line in [
        "LIST {}/",
        "LIST {}/*",
        "NLST {}/",
        "NLST {}/*",
        "MLSD {}/",
        "RETR {}/below",
    ] {
        let (bytes, reply) = client.download(line.replace("{}", path));
        reply.expect(450).says("mounted");
        assert!(bytes.is_empty());
    }
    for line in ["STOR {}/new", "APPE {}/below"] {
        let line = line.replace("{}", path);
        client.upload(line, b"x").expect(450).says("mounted");
    }
}

/// Nothing was written to the directory below the disk.
#[track_caller]
fn expect_untouched(disk: &Path) {
    let names: Vec<PathBuf> = tree(disk).into_keys().collect();
    assert_eq!(names, [Path::new("below")]);
    assert_eq!(fs::read_dir(disk).unwrap().count(), 1);
    assert_eq!(fs::read(disk.join("below")).unwrap(), b"of the system");
}

#[test]
fn without_its_disk_a_root_shows_and_takes_nothing_and_comes_back_by_itself() {
    if !may_mount() {
        return;
    }
    let (server, disk) = guarded(false, "quota = \"8MB\"\nversions = 2\n");
    server.wait_for_log("waits for its disk");
    let mut client = log_in(&server);
    client.expect("PWD", 257);
    for _ in 0..2 {
        expect_nothing_works(&mut client, "");
        client.upload("STOU", b"x").expect(450);
        server.wait_for_log("require_mount");
        expect_untouched(&disk);
        // The disk comes, and the same session goes on.
        let mounted = memory(&disk);
        client.stor("file", b"on the disk");
        client.stor("file", b"on the disk, again");
        assert_eq!(client.list("NLST"), ["file"]);
        assert_eq!(client.retr("file"), b"on the disk, again");
        client.expect("MKD made", 257);
        client.expect("CWD made", 250);
        client.expect("CWD /", 250);
        assert!(disk.join(".thriftpd/quota").exists(), "counted on the disk");
        let mut other = log_in(&server);
        other.expect("RNFR file", 350);
        // Both sessions are idle.
        mounted.unmount();
        other.expect("RNTO other", 450).says("mounted");
    }
    expect_nothing_works(&mut client, "");
    expect_untouched(&disk);
}

#[test]
fn without_its_disk_a_folder_is_shown_and_not_entered_and_the_rest_works() {
    if !may_mount() {
        return;
    }
    let (server, disk) = guarded(true, "");
    let mut client = log_in(&server);
    expect_nothing_works(&mut client, "/disk");
    client.stor("beside", b"in the root");
    assert_eq!(client.list("NLST"), ["beside", "disk"]);
    let mounted = memory(&disk);
    client.stor("/disk/file", b"on the disk");
    assert_eq!(client.list("NLST /disk"), ["/disk/file"]);
    client.expect("CWD /disk", 250);
    assert_eq!(client.retr("file"), b"on the disk");
    mounted.unmount();
    client.expect("CWD .", 450);
    expect_nothing_works(&mut client, "/disk");
    assert_eq!(client.retr("/beside"), b"in the root");
    expect_untouched(&disk);
}

#[test]
fn a_directory_bound_there_counts_as_a_disk() {
    if !may_mount() {
        return;
    }
    let (server, disk) = guarded(false, "");
    let elsewhere = server.directory("elsewhere");
    let mut client = log_in(&server);
    client.upload("STOR file", b"x").expect(450);
    let bound = Mount::with(&["--bind", elsewhere.to_str().unwrap()], &disk);
    client.stor("file", b"bound");
    assert_eq!(fs::read(elsewhere.join("file")).unwrap(), b"bound");
    bound.unmount();
    client.upload("STOR file", b"x").expect(450);
    expect_untouched(&disk);
}

#[test]
fn an_upload_under_way_when_the_disk_is_detached_ends_on_that_disk() {
    if !may_mount() {
        return;
    }
    // In the sandbox a detached disk has no path by which it was allowed, and the upload is refused in the end.
    let keys = "sandbox = \"off\"\n";
    let (server, disk) = guarded_by(keys, false, "quota = \"8MB\"\nversions = 2\n");
    let image = server.directory("images").join("ext4");
    fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
    run_client(Command::new("mkfs.ext4").arg("-q").arg(&image), 60).succeeded();
    let image = image.to_str().unwrap();
    let mount = || Mount::with(&["-o", "loop", image], &disk);
    let mounted = mount();
    let mut client = log_in(&server);
    let contents = noise(1_000_000);
    client.stor("file", b"old");
    let mut uploads = Vec::new();
    for name in ["file", "other"] {
        let mut client = log_in(&server);
        let mut data = client.epsv();
        client.expect(format!("STOR {name}"), 150);
        data.write_all(&contents[..500_000]).unwrap();
        uploads.push((client, data));
    }
    let half = || {
        let partials = tree(&disk).into_iter().filter(|(path, _)| {
            let name = path.to_str().unwrap();
            name.ends_with(".partial")
        });
        partials.filter(|(_, bytes)| bytes.len() == 500_000).count() == 2
    };
    eventually("half of each has arrived", half);
    mounted.detach();
    expect_nothing_works(&mut client, "");
    for (mut client, mut data) in uploads {
        data.write_all(&contents[500_000..]).unwrap();
        drop(data);
        client.reply().expect(226);
        client.upload("STOR more", b"x").expect(450);
    }
    expect_untouched(&disk);
    let mounted = mount();
    for name in ["file", "other"] {
        assert_same_bytes(&client.retr(name), &contents);
    }
    drop(client);
    mounted.unmount();
    expect_untouched(&disk);
}

#[test]
fn the_server_starts_before_the_disk_has_even_a_directory_and_check_tells_of_it() {
    if !may_mount() {
        return;
    }
    let builder = Server::build();
    let disk = builder.root().join("comes-later");
    let builder = builder.configuration(
        "[anonymous]\nroot = \"{root}/comes-later\"\naccess = \"read-write\"\nrequire_mount = true\n",
    );
    let server = builder.start();
    let mut client = log_in(&server);
    expect_nothing_works(&mut client, "");
    let configuration = server.home().join("thriftpd.toml");
    let check = || {
        let mut check = Command::new(env!("CARGO_BIN_EXE_thriftpd"));
        // Not the port of everybody.
        let text = fs::read_to_string(&configuration).unwrap();
        let own = server.home().join("check.toml");
        fs::write(&own, format!("listen = [\"127.0.0.1:0\"]\n{text}")).unwrap();
        run_client(check.arg("check").arg("--config").arg(own), 20).succeeded()
    };
    let told = check().text();
    let waits = format!("waits for its disk: {}", disk.display());
    assert!(told.contains(&waits), "{told}");
    fs::create_dir(&disk).unwrap();
    assert!(check().text().contains(&waits));
    expect_nothing_works(&mut client, "");
    let mounted = memory(&disk);
    assert!(!check().text().contains("waits"));
    client.stor("file", b"x");
    mounted.unmount();
    assert_eq!(fs::read_dir(&disk).unwrap().count(), 0);
}
