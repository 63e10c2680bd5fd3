//! Access control lists and set-group-ID directories: what a client makes is as if a program of the host had made it there.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use common::{Client, Server, is_root, root_may, run_client, skip, the_program};

/// Default lists: with names, so that there is a mask; and without, where the umask is left out all the same.
const LISTS: [&str; 3] = [
    "u::rwx,u:65534:rwx,g::r-x,g:65533:r--,m::rwx,o::---",
    "u::rwx,g::rwx,o::r--",
    "u::rwx,g::r-x,g:65533:rwx,m::r--,o::rwx",
];

/// Runs a program of the host in a directory, with a umask that lets everything through.
#[track_caller]
fn run(directory: &Path, line: &str) -> String {
    let mut shell = the_program("sh", directory);
    let line = format!("umask 0; {line}");
    run_client(shell.args(["-c", &line]), 20).succeeded().text()
}

/// The lists of a name as getfacl shows them, those that it hands on too.
#[track_caller]
fn lists(path: &Path) -> String {
    let mut getfacl = the_program("getfacl", path.parent().unwrap());
    getfacl.args(["--absolute-names", "--omit-header", "--numeric"]);
    run_client(getfacl.arg(path), 20).succeeded().text()
}

/// Sets lists; false, and the test is skipped, where the file system has none.
#[track_caller]
fn set_lists(arguments: &[&str], path: &Path) -> bool {
    let mut setfacl = the_program("setfacl", path.parent().unwrap());
    let set = run_client(setfacl.args(arguments).arg(path), 20);
    if !set.status.success() {
        skip(format_args!(
            "no access control lists here: {}",
            set.stderr.trim()
        ));
    }
    set.status.success()
}

/// A server with these lines for its only user.
fn serving(more: &str) -> (Server, Client) {
    let server = Server::build()
        .configuration(&format!(
            "[anonymous]\nroot = \"{{root}}\"\naccess = \"read-write\"\n{more}"
        ))
        .start();
    let mut client = server.connect();
    client.login_as("anonymous", "me@here").expect(230);
    client.expect("TYPE I", 200);
    (server, client)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_new_file_has_the_list_that_the_kernel_would_give_it() {
    for (number, list) in LISTS.into_iter().enumerate() {
        for more in ["", "uploads = \"direct\"\n", "umask = \"077\"\n"] {
            let (server, mut client) = serving(more);
            let directory = server.path("dir");
            fs::create_dir(&directory).unwrap();
            if !set_lists(&["-d", "-m", list], &directory) {
                return;
            }
            run(&directory, ": >plain; mkdir plain-dir; : >plain-dir/plain");
            client.stor("dir/stored", b"x");
            client.upload("APPE dir/appended", b"x").expect(226);
            client.expect("MKD dir/made", 257);
            client.stor("dir/made/stored", b"x");
            let plain = lists(&directory.join("plain"));
            assert_eq!(lists(&directory.join("stored")), plain, "{number} {more}");
            assert_eq!(lists(&directory.join("appended")), plain);
            let made = lists(&directory.join("made"));
            assert_eq!(made, lists(&directory.join("plain-dir")));
            assert!(made.contains("default:"), "{made}");
            let below = lists(&directory.join("plain-dir/plain"));
            assert_eq!(lists(&directory.join("made/stored")), below);
        }
    }
}

#[test]
fn the_configured_modes_bound_the_list() {
    let (server, mut client) = serving("file_mode = \"0640\"\ndirectory_mode = \"0750\"\n");
    if !set_lists(&["-d", "-m", LISTS[0]], &server.path("")) {
        return;
    }
    client.stor("stored", b"x");
    client.expect("MKD made", 257);
    // The shell and mkdir(1) would ask for all that there is.
    let program = "import os; os.close(os.open('asked', os.O_CREAT | os.O_WRONLY, 0o640)); os.mkdir('asked-dir', 0o750)";
    run(&server.path(""), &format!("python3 -c \"{program}\""));
    assert_eq!(lists(&server.path("stored")), lists(&server.path("asked")));
    assert_eq!(
        lists(&server.path("made")),
        lists(&server.path("asked-dir"))
    );
    assert_eq!(mode(&server.path("stored")), mode(&server.path("asked")));
}

#[test]
fn a_replaced_file_keeps_its_list_whatever_the_directory_hands_on() {
    for default in ["", LISTS[0]] {
        let (server, mut client) = serving("");
        for name in ["listed", "plain"] {
            server.write(name, "old");
            let mode = fs::Permissions::from_mode(0o664);
            fs::set_permissions(server.path(name), mode).unwrap();
        }
        if !set_lists(&["-m", "u:65534:rw,g:65533:r"], &server.path("listed")) {
            return;
        }
        if !default.is_empty() {
            assert!(set_lists(&["-d", "-m", default], &server.path("")));
        }
        if is_root() {
            chown(server.path("listed"), Some(65534), Some(65533)).unwrap();
        }
        let before = ["listed", "plain"].map(|name| lists(&server.path(name)));
        assert!(before[0].contains("user:65534:rw-") && !before[1].contains("mask"));
        let owner = |name: &str| {
            let metadata = fs::metadata(server.path(name)).unwrap();
            (metadata.uid(), metadata.gid())
        };
        let owned = owner("listed");
        for _ in 0..2 {
            for (name, before) in ["listed", "plain"].into_iter().zip(&before) {
                client.stor(name, b"new");
                assert_eq!(server.read(name), b"new");
                assert_eq!(lists(&server.path(name)), *before, "{default}");
            }
        }
        assert_eq!(owner("listed"), owned);
    }
}

#[test]
fn a_partial_file_is_nobodys_business_whatever_the_directory_hands_on() {
    let (server, mut client) = serving("");
    if !set_lists(&["-d", "-m", "u:65534:rwx,o::rwx"], &server.path("")) {
        return;
    }
    let data = client.epsv();
    client.expect("STOR file", 150);
    let partial = fs::read_dir(server.path("")).unwrap().next().unwrap();
    assert_eq!(mode(&partial.unwrap().path()), 0o600);
    drop(data);
    client.reply().expect(226);
    assert_eq!(mode(&server.path("file")), 0o666);
}

#[test]
fn a_directory_that_hands_on_its_group_does_so_through_all_that_is_made_in_it() {
    if !root_may("giving a directory to another group") {
        return;
    }
    let (server, mut client) = serving("umask = \"002\"\n");
    let shared = server.path("shared");
    fs::create_dir(&shared).unwrap();
    chown(&shared, None, Some(65533)).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o2775)).unwrap();
    client.expect("MKD shared/made", 257);
    client.stor("shared/stored", b"x");
    client.stor("shared/made/stored", b"x");
    client.stor("shared/made/stored", b"again");
    for name in ["stored", "made", "made/stored"] {
        let metadata = fs::metadata(shared.join(name)).unwrap();
        assert_eq!(metadata.gid(), 65533, "{name}");
    }
    assert_eq!(mode(&shared.join("made")), 0o2775);
    assert_eq!(mode(&shared.join("stored")), 0o664);
    client.expect("MKD outside", 257);
    assert_eq!(mode(&server.path("outside")), 0o775);
}
