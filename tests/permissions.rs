//! Who may do what: the presets, folders, the anonymous account, and nobody before login.

mod common;

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};

use common::{Client, Server};
use thriftpd::ftp::commands::{VERBS, When};

/// A server whose anonymous account has this access, with a file and a directory in it.
fn with_access(access: &str) -> (Server, Client) {
    let server = Server::build()
        .configuration(&format!(
            "[anonymous]\nroot = \"{{root}}\"\naccess = \"{access}\"\n"
        ))
        .start();
    server.write("file", "old");
    server.write("dir/inner", "x");
    let mut client = server.connect();
    client.login_as("anonymous", "me@here").expect(230);
    client.expect("TYPE I", 200);
    (server, client)
}

#[test]
fn read_only_downloads_and_changes_nothing() {
    let (server, mut client) = with_access("read-only");
    assert_eq!(client.retr("file"), b"old");
    assert_eq!(client.list("NLST"), ["dir", "file"]);
    client.upload("STOR new", b"x").expect(550);
    client.upload("STOR file", b"x").expect(550);
    client.upload("APPE file", b"x").expect(550);
    client.upload("STOU", b"x").expect(550);
    for line in [
        "DELE file",
        "MKD made",
        "RMD dir",
        "RMDA dir",
        "RNFR file",
        "SITE CHMOD 600 file",
        "MFMT 20200101000000 file",
    ] {
        client.expect(line, 550).says("permission");
    }
    client.expect("MFF Modify=20200101000000; file", 550);
    client.expect("MLST file", 250).says("perm=r;");
    client.expect("MLST dir", 250).says("perm=el;");
    assert_eq!(server.read("file"), b"old");
    server.wait_for_log("setting: access or permissions");
}

#[test]
fn upload_only_takes_files_and_shows_none() {
    let (server, mut client) = with_access("upload-only");
    client.upload("STOR new", b"new").expect(226);
    assert_eq!(server.read("new"), b"new");
    client.upload("STOR file", b"x").expect(550);
    client.download("RETR file").1.expect(550);
    client.download("LIST").1.expect(550);
    client.download("MLSD").1.expect(550);
    client.expect("STAT file", 550);
    client.expect("MKD made", 257);
    client.expect("CWD made", 250);
    client.expect("DELE ../new", 550);
    assert_eq!(server.read("file"), b"old");
}

#[test]
fn add_only_never_changes_what_is_there() {
    let (server, mut client) = with_access("add-only");
    client.upload("STOR new", b"new").expect(226);
    client
        .upload("STOR new", b"other")
        .expect(550)
        .says("overwrite");
    client.upload("APPE new", b"other").expect(550);
    client.expect("REST 1", 350);
    client.upload("STOR new", b"other").expect(550);
    client.expect("RNFR new", 550);
    client.expect("DELE new", 550);
    client.upload("STOU new", b"stou").expect(226);
    assert_eq!(server.read("new"), b"new");
    let tree = common::tree(&server.path(""));
    let unique = tree.iter().find(|(_, contents)| *contents == b"stou");
    let (name, _) = unique.expect("STOU has made a file of its own");
    assert!(name.to_str().unwrap().starts_with("new."), "{name:?}");
}

#[test]
fn a_list_of_permissions_is_taken_at_its_word() {
    let server = Server::build()
        .configuration("[anonymous]\nroot = \"{root}\"\npermissions = [\"list\", \"rename\"]\n")
        .start();
    server.write("one", "1");
    server.write("two", "2");
    let mut client = server.connect();
    client.login_as("ftp", "").expect(230);
    client.expect("RNFR one", 350);
    // Without `overwrite` a rename replaces nothing.
    client.expect("RNTO two", 550);
    assert_eq!(server.read("two"), b"2");
    client.expect("RNFR one", 350);
    client.expect("RNTO three", 250);
    client.expect("DELE two", 550);
}

#[test]
fn folders_show_in_listings_and_have_their_own_permissions() {
    let server = Server::build()
        .configuration(
            "[anonymous]\nroot = \"{root}\"\naccess = \"read-write\"\n\
             [[anonymous.folder]]\npath = \"/photos\"\nroot = \"{home}/photos\"\naccess = \"read\"\n\
             [[anonymous.folder]]\npath = \"/far/below\"\nroot = \"{home}/below\"\n\
             [[anonymous.folder]]\npath = \"/gone\"\nroot = \"{home}/not-there\"\n",
        )
        .start();
    let photos = server.directory("photos");
    let below = server.directory("below");
    std::fs::write(photos.join("p.jpg"), "jpg").unwrap();
    server.write("own", "x");
    let mut client = server.connect();
    client.login_as("anonymous", "").expect(230);
    client.expect("TYPE I", 200);
    assert_eq!(client.list("NLST"), ["far", "gone", "own", "photos"]);
    assert_eq!(client.list("NLST far"), ["far/below"]);
    assert_eq!(client.list("NLST /photos"), ["/photos/p.jpg"]);
    assert!(
        client
            .list("MLSD")
            .iter()
            .any(|line| line.contains("type=dir;") && line.ends_with(" photos"))
    );
    client.expect("CWD /far", 250);
    client.expect("CWD below", 250);
    client.stor("stored", b"x");
    assert!(below.join("stored").exists());
    assert_eq!(client.retr("/photos/p.jpg"), b"jpg");
    client.upload("STOR /photos/new", b"x").expect(550);
    client.upload("STOR /far/new", b"x").expect(550);
    client.expect("DELE /photos/p.jpg", 550);
    client.expect("CWD /gone", 550);
    for line in [
        "RMD /photos",
        "RMD /far",
        "RMDA /far",
        "RNFR /photos",
        "DELE /photos",
        "MKD /photos",
    ] {
        let reply = client.command(line);
        if reply.code == 350 {
            client.expect("RNTO /elsewhere", 550);
        } else {
            reply.expect(550);
        }
    }
    client.expect("RNFR /own", 350);
    client.expect("RNTO /far/below/own", 550).says("folder");
    assert!(server.exists("own"));
}

#[test]
fn nothing_outside_the_root_can_be_reached() {
    let server = Server::start();
    std::fs::write(server.home().join("secret"), "secret").unwrap();
    symlink("../secret", server.path("out")).unwrap();
    symlink(server.home(), server.path("outdir")).unwrap();
    symlink("/", server.path("top")).unwrap();
    server.write("inside", "in");
    symlink("inside", server.path("link")).unwrap();
    let mut client = server.client();
    for path in [
        "../secret",
        "/../secret",
        "out",
        "outdir/secret",
        "top/etc/passwd",
        "../../../../../../etc/passwd",
        "/etc/passwd",
    ] {
        client.download(format!("RETR {path}")).1.expect(550);
        client.expect(format!("SIZE {path}"), 550);
        client.expect(format!("MLST {path}x"), 550);
        client.expect(format!("SITE CHMOD 777 {path}"), 550);
        client.expect(format!("MFMT 20200101000000 {path}"), 550);
    }
    client.expect("CWD outdir", 550);
    client.expect("MKD outdir/made", 550);
    client.upload("STOR out", b"x").expect(550);
    client.upload("STOR outdir/made", b"x").expect(550);
    assert_eq!(
        std::fs::read(server.home().join("secret")).unwrap(),
        b"secret"
    );
    // The link itself is the user's to remove, what it points to is not.
    client.expect("DELE out", 250);
    client.expect("RMDA outdir", 550);
    assert!(server.home().join("secret").exists());
    assert_eq!(client.retr("link"), b"in");
    // The root is the top: a link to / leads to it.
    assert_eq!(client.retr("top/inside"), b"in");
}

#[test]
fn fifos_sockets_and_devices_never_hang_a_session() {
    let server = Server::start();
    let fifo = CString::new(server.path("fifo").as_os_str().as_bytes()).unwrap();
    nix::unistd::mkfifo(fifo.as_c_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(server.path("socket")).unwrap();
    let mut client = server.client();
    for name in ["fifo", "socket"] {
        client.download(format!("RETR {name}")).1.expect(550);
        client
            .upload(format!("STOR {name}"), b"x")
            .expect_one_of(&[550, 553]);
        client
            .upload(format!("APPE {name}"), b"x")
            .expect_one_of(&[550, 553]);
        client.expect(format!("SIZE {name}"), 550);
        client.expect(format!("SITE CHMOD 600 {name}"), 550);
    }
    assert_eq!(client.list("LIST").len(), 2);
    client.expect("DELE fifo", 250);
}

#[test]
fn before_login_every_verb_but_a_few_is_refused() {
    let server = Server::start();
    for verb in VERBS.iter().filter(|verb| verb.when == When::AfterLogin) {
        let mut client = server.connect();
        client.expect(format!("{} x", verb.name), 530);
        client.expect("USER t", 331);
        client.expect(format!("{} x", verb.name), 530);
    }
    assert!(!server.exists("x"));
}

#[test]
fn modes_and_group_of_new_files_are_as_configured() {
    let server = Server::build()
        .configuration(
            "umask = \"027\"\n[anonymous]\nroot = \"{root}\"\naccess = \"read-write\"\n\
             file_mode = \"0664\"\ndirectory_mode = \"0775\"\ngroup = \"65534\"\n",
        )
        .start();
    let mut client = server.connect();
    client.login_as("ftp", "").expect(230);
    client.stor("file", b"x");
    client.expect("MKD dir", 257);
    for (name, mode) in [("file", 0o640), ("dir", 0o750)] {
        let made = std::fs::metadata(server.path(name)).unwrap();
        assert_eq!(made.mode() & 0o7777, mode, "{name}");
        // Only root can give files to a group that is not its own.
        assert!(made.gid() == 65534 || !common::is_root());
    }
    client.expect("SITE CHMOD 4755 file", 504);
    client.expect("SITE CHMOD 600 file", 200);
    assert_eq!(
        std::fs::metadata(server.path("file")).unwrap().mode() & 0o7777,
        0o600
    );
}
