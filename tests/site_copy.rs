//! SITE CPFR, CPTO and COPY: copies within the server; SITE SYMLINK.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use thriftpd::accounts::Password;

use common::{
    Client, PASSWORD, Server, USER, assert_same_bytes, eventually, noise, root_may, run_client,
    skip, the_program,
};

/// A server whose anonymous user has these lines, with the root and, at `/other`, a second directory.
fn serving(lines: &str, folder: &str) -> (Server, Client) {
    let builder = Server::build();
    let other = builder.root().parent().unwrap().join("other");
    fs::create_dir(other).unwrap();
    let server = builder
        .configuration(&format!(
            "[anonymous]\nroot = \"{{root}}\"\n{lines}\
             [[anonymous.folder]]\npath = \"/other\"\nroot = \"{{home}}/other\"\n{folder}"
        ))
        .start();
    let client = log_in(&server);
    (server, client)
}

#[track_caller]
fn log_in(server: &Server) -> Client {
    let mut client = server.connect();
    client.login_as("anonymous", "me@here").expect(230);
    client.expect("TYPE I", 200);
    client
}

const READ_WRITE: &str = "access = \"read-write\"\n";

/// Hidden names in a directory.
fn hidden(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(".thriftpd")).collect()
}

#[test]
fn a_file_is_copied_whole_under_a_new_name_with_the_time_of_now() {
    let (server, mut client) = serving(READ_WRITE, "");
    let contents = noise(9_000_001);
    server.write("dir/a file", &contents);
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let source = File::open(server.path("dir/a file")).unwrap();
    source.set_modified(long_ago).unwrap();
    client
        .expect("SITE COPY \"dir/a file\" one", 250)
        .says("9000001");
    client.expect("site copy \"dir/a file\" \"dir/the \"\"other\"\"\"", 250);
    client.expect("SITE CPFR dir/a file", 350);
    client.expect("SITE CPTO dir/a third", 250).says("9000001");
    for name in ["one", "dir/the \"other\"", "dir/a third", "dir/a file"] {
        assert_same_bytes(&server.read(name), &contents);
    }
    let copied = fs::metadata(server.path("one")).unwrap();
    assert!(copied.modified().unwrap() > long_ago + Duration::from_secs(1));
    server.write("empty", "");
    client
        .expect("SITE COPY empty nothing", 250)
        .says("0 bytes");
    assert_eq!(server.read("nothing"), b"");
    server.wait_for_log("SITE COPY /dir/a file /one");
    assert_eq!(hidden(&server.path("")), [""; 0]);
}

#[test]
fn holes_are_copied_as_what_they_read_as() {
    let (server, mut client) = serving(READ_WRITE, "");
    let source = File::create(server.path("holes")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&source, b"middle", 6 << 20).unwrap();
    source.set_len(11 << 20).unwrap();
    client.expect("SITE COPY holes copy", 250);
    client.expect("SITE COPY holes /other/copy", 250);
    let copies = [server.path("copy"), server.home().join("other/copy")];
    for copy in copies {
        assert_same_bytes(&fs::read(copy).unwrap(), &server.read("holes"));
    }
}

#[test]
fn a_copy_may_cross_folders_and_replaces_as_an_upload_does() {
    let (server, mut client) = serving(READ_WRITE, "");
    let other = server.home().join("other");
    server.write("file", "from the root");
    client.expect("SITE COPY file /other/copy", 250);
    assert_eq!(fs::read(other.join("copy")).unwrap(), b"from the root");
    // What is replaced keeps its mode, and whoever reads it the old contents.
    fs::set_permissions(other.join("copy"), fs::Permissions::from_mode(0o600)).unwrap();
    let before = fs::metadata(other.join("copy")).unwrap();
    server.write("file", "anew");
    client.expect("SITE CPFR file", 350);
    client.expect("SITE CPTO /other/copy", 250);
    let after = fs::metadata(other.join("copy")).unwrap();
    assert_eq!(fs::read(other.join("copy")).unwrap(), b"anew");
    assert_eq!(after.mode() & 0o777, 0o600);
    assert_ne!(after.ino(), before.ino(), "in one step");
}

#[test]
fn what_is_no_other_file_is_refused() {
    let (server, mut client) = serving(READ_WRITE, "");
    server.write("file", "contents");
    server.write("dir/inner", "x");
    symlink("file", server.path("link")).unwrap();
    fs::hard_link(server.path("file"), server.path("hard")).unwrap();
    for to in ["file", "link", "hard", "./dir/../file"] {
        client.expect(format!("SITE COPY file {to}"), 550);
    }
    assert_eq!(server.read("file"), b"contents");
    client.expect("SITE COPY dir copy", 550).says("directory");
    client.expect("SITE CPFR dir", 550).says("directory");
    client.expect("SITE COPY file dir", 550).says("directory");
    client.expect("SITE COPY missing copy", 550);
    client.expect("SITE CPFR missing", 550);
    client.expect("SITE COPY file none/copy", 550);
    client.expect("SITE COPY file .thriftpd-x", 553);
    for malformed in ["file", "file  copy", "a b c", "\"file copy", "\"file\"copy"] {
        client
            .expect(format!("SITE COPY {malformed}"), 501)
            .says("one space")
            .says("quotes");
    }
    client.expect("SITE COPY", 501);
    // Nothing may come between that is not answered at once.
    client.expect("SITE CPTO copy", 503);
    for between in ["PWD", "SITE IDLE", "XYZ", "SITE CPTO"] {
        client.expect("SITE CPFR file", 350);
        client.command(between);
        client.expect("SITE CPTO copy", 503);
    }
    client.expect("SITE CPFR file", 350);
    client.expect("SITE CPTO copy", 250);
    client.expect("SITE CPTO copy", 503);
    client
        .expect("SITE HELP", 214)
        .says("SITE COPY <from> <to>");
    client.expect("HELP SITE", 214).says("CPFR").says("SYMLINK");
}

#[test]
fn a_file_written_in_place_is_not_copied_onto_itself_either() {
    let (server, mut client) = serving("access = \"read-write\"\nuploads = \"direct\"\n", "");
    server.write("file", "contents");
    symlink("file", server.path("link")).unwrap();
    fs::hard_link(server.path("file"), server.path("hard")).unwrap();
    for to in ["file", "link", "hard"] {
        client.expect(format!("SITE COPY file {to}"), 550);
    }
    assert_eq!(server.read("file"), b"contents");
    client.expect("SITE COPY file copy", 250);
    assert_eq!(server.read("copy"), b"contents");
}

#[test]
fn permissions_of_both_ends_hold() {
    let (server, mut client) = serving("access = \"read-only\"\n", "access = \"add-only\"\n");
    let other = server.home().join("other");
    server.write("file", "x");
    fs::write(other.join("there"), "y").unwrap();
    client.expect("SITE COPY file copy", 550).says("upload");
    client
        .expect("SITE COPY file /other/there", 550)
        .says("overwrite");
    client
        .expect("SITE COPY /other/there copy", 550)
        .says("upload");
    client.expect("SITE COPY file /other/copy", 250);
    assert_eq!(fs::read(other.join("there")).unwrap(), b"y");
    let (server, mut client) = serving(READ_WRITE, "access = \"upload-only\"\n");
    fs::write(server.home().join("other/there"), "y").unwrap();
    client
        .expect("SITE COPY /other/there copy", 550)
        .says("download");
    client
        .expect("SITE CPFR /other/there", 550)
        .says("download");
    assert!(!server.exists("copy"));
    server.connect().expect("SITE COPY a b", 530);
}

#[test]
fn a_quota_bounds_copies() {
    let (server, mut client) = serving("access = \"read-write\"\nquota = \"5MB\"\n", "");
    let contents = noise(2_000_000);
    client.stor("file", &contents);
    client.expect("SITE COPY file copy", 250);
    client.expect("SITE COPY file third", 552).says("quota");
    client.expect("SITE COPY file /other/third", 552);
    assert!(!server.exists("third") && hidden(&server.path("")) == [".thriftpd"]);
    client.expect("SITE COPY file copy", 250);
    client.stor("small", &noise(900_000));
}

#[test]
fn a_copy_that_does_not_fit_is_refused_before_it_begins() {
    let (server, mut client) = serving(READ_WRITE, "");
    let file = File::create(server.path("big")).unwrap();
    // Larger than any disk of today, and than some file systems let a file be.
    if file.set_len(1 << 50).is_err() && file.set_len(15 << 40).is_err() {
        skip("no file can be that large here");
        return;
    }
    let shares_blocks = || {
        let mut cp = std::process::Command::new("cp");
        cp.args(["--reflink=always", "big", "shared"]);
        cp.current_dir(server.path(""))
            .output()
            .unwrap()
            .status
            .success()
    };
    if shares_blocks() {
        skip("a copy takes no room here");
        return;
    }
    fs::remove_file(server.path("shared")).ok();
    client.expect("SITE COPY big copy", 552).says("needed");
    assert!(!server.exists("copy") && hidden(&server.path("")).is_empty());
}

/// A file system that shares blocks, gone with the value.
struct Sharing(PathBuf);

impl Drop for Sharing {
    fn drop(&mut self) {
        let mut umount = std::process::Command::new("umount");
        let _ = umount.arg("-l").arg(&self.0).status();
    }
}

#[test]
fn where_blocks_can_be_shared_a_copy_takes_no_room_but_quota() {
    let has_xfs = Path::new("/usr/sbin/mkfs.xfs").exists() || Path::new("/sbin/mkfs.xfs").exists();
    if !root_may("to mount a file system that shares blocks") {
        return;
    }
    if !has_xfs {
        return skip("mkfs.xfs is not installed");
    }
    let builder = Server::build();
    let (root, image) = (
        builder.root().to_owned(),
        builder.root().with_extension("xfs"),
    );
    File::create(&image).unwrap().set_len(320 << 20).unwrap();
    let run = |line: &str| {
        let mut shell = the_program("sh", &root);
        run_client(shell.args(["-c", line]), 60)
    };
    let (at, image) = (root.display(), image.display());
    run(&format!("mkfs.xfs -q {image}")).succeeded();
    if !run(&format!("mount -o loop {image} {at}")).status.success() {
        skip("this kernel has no xfs");
        return;
    }
    let sharing = Sharing(root.clone());
    let server = builder
        .configuration(
            "[anonymous]\nroot = \"{root}\"\naccess = \"read-write\"\nquota = \"450MB\"\n",
        )
        .start();
    // Unmounted before the server's directory is removed.
    let _sharing = sharing;
    let contents = noise(140 << 20);
    server.write("file", &contents);
    let mut client = log_in(&server);
    for name in ["one", "two"] {
        client.expect(format!("SITE COPY file {name}"), 250);
        assert_same_bytes(&server.read(name), &contents);
    }
    // One takes the place of another without coming on top.
    client.expect("SITE COPY file two", 250);
    client.expect("SITE COPY file three", 552).says("quota");
    assert!(!server.exists("three"));
}

/// A big file that costs nothing, on a file system that cannot share blocks with the server's root: each byte is copied.
struct Big(tempfile::TempDir);

impl Big {
    /// So much that it takes its time, and not more than there is room for.
    fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let directory = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        let big = Self(directory.unwrap());
        let file = File::create(big.0.path().join("big")).unwrap();
        let disk = nix::sys::statvfs::statvfs(&std::env::temp_dir()).unwrap();
        let free = disk.blocks_available() * disk.fragment_size();
        file.set_len((free / 2).min(16 << 30)).unwrap();
        big
    }

    fn server(&self) -> Server {
        let folder = self.0.path().display();
        // Without flushing, so that the disk need not see most of it.
        Server::build()
            .configuration(&format!(
                "durable = false\n[timeouts]\nshutdown_grace = \"1s\"\n\
                 [[user]]\nname = \"{USER}\"\npassword = \"{}\"\nroot = \"{{root}}\"\n\
                 [[user.folder]]\npath = \"/big\"\nroot = \"{folder}\"\n",
                Password::from_clear(PASSWORD).unwrap().to_phc()
            ))
            .start()
    }
}

/// The partial file, once something is in it.
#[track_caller]
fn wait_for_bytes(server: &Server) -> PathBuf {
    let mut found = None;
    eventually("the copy grows", || {
        found = hidden(&server.path("")).pop().map(|name| server.path(name));
        let grown = |path: &PathBuf| fs::metadata(path).is_ok_and(|facts| facts.len() > 1 << 20);
        found.as_ref().is_some_and(grown)
    });
    found.unwrap()
}

#[test]
fn a_long_copy_is_told_of_and_ends_with_abor_and_leaves_nothing() {
    let big = Big::new();
    let server = big.server();
    let mut client = server.client();
    server.write("copy", "the old one");
    client.send("SITE COPY big/big copy");
    wait_for_bytes(&server);
    assert_eq!(server.read("copy"), b"the old one");
    client.send("STAT");
    client
        .reply()
        .expect(211)
        .says("bytes so far")
        .says("SITE COPY");
    client.send("NOOP");
    client.reply().expect(200);
    let mut other = server.client();
    other.expect("SITE WHO", 200).says("SITE COPY");
    client.send("ABOR");
    client.reply().expect(426);
    client.reply().expect(226);
    assert_eq!(server.read("copy"), b"the old one");
    assert_eq!(hidden(&server.path("")), [""; 0]);
    // What was sent behind it is answered behind it.
    client.expect("PWD", 257);
    client.expect("SIZE copy", 213).says("11");
}

#[test]
fn a_long_copy_ends_with_its_client_and_with_the_server() {
    let big = Big::new();
    let server = big.server();
    let mut client = server.client();
    client.send("SITE COPY big/big copy");
    wait_for_bytes(&server);
    client.reset();
    server.wait_for_log("control connection lost");
    eventually("nothing is left", || hidden(&server.path("")).is_empty());
    let mut client = server.client();
    client.expect("SITE CPFR big/big", 350);
    client.send("SITE CPTO copy");
    wait_for_bytes(&server);
    server.signal(nix::sys::signal::Signal::SIGTERM);
    client.reply().expect(426).says("shutting down");
    assert!(server.wait().success());
    assert_eq!(hidden(&server.path("")), [""; 0]);
    assert!(!server.exists("copy"));
}

// ---- links

const WITH_LINKS: &str =
    "permissions = [\"list\", \"download\", \"upload\", \"delete\", \"symlink\"]\n";

#[test]
fn a_link_leads_to_the_same_file_for_clients_and_for_the_host() {
    let (server, mut client) = serving(WITH_LINKS, "");
    server.write("dir/deep/file", "contents");
    server.write("top file", "of the top");
    fs::create_dir_all(server.path("elsewhere/below")).unwrap();
    symlink("dir/deep", server.path("way")).unwrap();
    for (target, link, written) in [
        ("dir/deep/file", "link", "dir/deep/file"),
        (
            "/dir/deep/file",
            "elsewhere/below/link",
            "../../dir/deep/file",
        ),
        ("dir/deep/file", "dir/deep/beside", "file"),
        ("\"top file\"", "\"dir/a link\"", "../top file"),
        ("dir/deep", "elsewhere/to", "../dir/deep"),
        ("dir", "dir/deep/up", ".."),
        // Where it really lies, whatever way it was named, and whatever the way to the link.
        ("way/file", "elsewhere/real", "../dir/deep/file"),
        ("link", "way/again", "file"),
    ] {
        client.expect(format!("SITE SYMLINK {target} {link}"), 250);
        let (link, target) = (link.trim_matches('"'), target.trim_matches('"'));
        let host = server.path(link);
        assert_eq!(fs::read_link(&host).unwrap(), Path::new(written), "{link}");
        let real = server.path(target.trim_start_matches('/'));
        assert_eq!(host.canonicalize().unwrap(), real.canonicalize().unwrap());
        if real.is_file() {
            assert_eq!(client.retr(link), fs::read(&real).unwrap());
        }
    }
    assert_eq!(client.list("NLST elsewhere/to").len(), 4);
    client.expect("CWD dir", 250);
    client.expect("SITE SYMLINK deep/file from-here", 250);
    assert_eq!(client.retr("/dir/from-here"), b"contents");
    client.expect("DELE from-here", 250);
    assert_eq!(server.read("dir/deep/file"), b"contents");
}

#[test]
fn links_that_would_lead_out_or_replace_something_are_refused() {
    let (server, mut client) = serving(WITH_LINKS, WITH_LINKS);
    server.write("file", "x");
    fs::write(server.home().join("secret"), "outside").unwrap();
    fs::write(server.home().join("other/there"), "y").unwrap();
    fs::create_dir(server.path(".thriftpd")).unwrap();
    fs::write(server.path(".thriftpd/state"), "ours").unwrap();
    symlink("../secret", server.path("escape")).unwrap();
    symlink(server.home().join("secret"), server.path("absolute")).unwrap();
    symlink("..", server.path("up")).unwrap();
    symlink(".thriftpd/state", server.path("ours")).unwrap();
    symlink("loop", server.path("loop")).unwrap();
    let secret = server.home().join("secret");
    let before = fs::read_dir(server.path("")).unwrap().count();
    for target in [
        "../secret",
        "/../../secret",
        "/etc/passwd",
        secret.to_str().unwrap(),
        "escape",
        "absolute",
        "up/secret",
        "missing",
        "ours",
        ".thriftpd/state",
        "loop",
        // In another folder, and the root itself.
        "other/there",
        "other",
        "/",
    ] {
        let reply = client.command(format!("SITE SYMLINK {target} link"));
        reply.expect_one_of(&[550, 553]);
    }
    client.expect("SITE SYMLINK other/there other/link", 250);
    for link in ["file", "escape", "other", "/", "missing/link"] {
        client.expect(format!("SITE SYMLINK file {link}"), 550);
    }
    client.expect("SITE SYMLINK file .thriftpd-link", 553);
    client.expect("SITE SYMLINK file other/out", 550);
    client.expect("SITE SYMLINK file", 501).says("one space");
    assert_eq!(fs::read_dir(server.path("")).unwrap().count(), before);
    assert_eq!(server.read("file"), b"x");
}

#[test]
fn no_preset_grants_links() {
    for preset in ["read-write", "read-only", "upload-only", "add-only"] {
        let (server, mut client) = serving(&format!("access = \"{preset}\"\n"), "");
        server.write("file", "x");
        client.expect("SITE SYMLINK file link", 550).says("symlink");
        client.expect("SITE SYMLINK other other/link", 550);
        assert!(!server.exists("link"));
        server.wait_for_log("setting: access or permissions");
    }
}
