//! Sessions that act as the users of the system that they belong to (`run_as = "session"`).

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use common::{Client, Server, eventually, root_may};
use thriftpd::accounts::Password;

/// Numbers that no user of the host has.
const ANNA: u32 = 12_345;
const BEN: u32 = 12_346;

/// What the tests do that only root can.
const ACTING: &str = "to act as others";

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Two accounts with one root, in which each has a directory that is closed to others. None, and the test is skipped, where
/// root does not run it.
#[track_caller]
fn two_users(further: &str) -> Option<Server> {
    if !root_may(ACTING) {
        return None;
    }
    let hash = Password::from_clear("pw").unwrap();
    let user = |name: &str, uid: u32| {
        format!(
            "[[user]]\nname = \"{name}\"\npassword = \"{}\"\nroot = \"{{root}}\"\nsystem_user = \"{uid}\"\n",
            hash.to_phc()
        )
    };
    let toml = format!(
        "run_as = \"session\"\n{further}{}{}",
        user("anna", ANNA),
        user("ben", BEN)
    );
    let builder = Server::build().configuration(&toml);
    mode(builder.root().parent().unwrap(), 0o755);
    mode(builder.root(), 0o1777);
    for (name, uid) in [("anna", ANNA), ("ben", BEN)] {
        let directory = builder.root().join(name);
        fs::create_dir(&directory).unwrap();
        chown(&directory, Some(uid), Some(uid)).unwrap();
        mode(&directory, 0o700);
    }
    Some(builder.start())
}

#[track_caller]
fn client(server: &Server, name: &str) -> Client {
    let mut client = server.connect();
    client.login_as(name, "pw").expect(230);
    client.expect("TYPE I", 200);
    client
}

/// User and supplementary groups for access to files, of every thread of the server.
fn identities(server: &Server) -> BTreeSet<(String, String)> {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    let statuses = tasks
        .flatten()
        .map(|task| fs::read_to_string(task.path().join("status")));
    let identities = statuses.flatten().map(|status| {
        let value = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap_or_default().trim().to_owned()
        };
        let uid = value("Uid:");
        // Real, effective, saved, and that for files (proc(5)).
        let uid = uid.split_whitespace().last().unwrap_or_default();
        (uid.to_owned(), value("Groups:"))
    });
    identities.collect()
}

#[test]
fn files_are_their_users_and_closed_to_the_other() {
    let Some(server) = two_users("") else {
        return;
    };
    let (mut anna, mut ben) = (client(&server, "anna"), client(&server, "ben"));
    anna.stor("anna/private", b"anna's");
    ben.stor("ben/private", b"ben's");
    anna.stor("for-all", b"to be read");
    anna.expect("MKD made", 257);
    for (name, uid) in [
        ("anna/private", ANNA),
        ("ben/private", BEN),
        ("for-all", ANNA),
        ("made", ANNA),
    ] {
        let metadata = fs::metadata(server.path(name)).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (uid, uid), "{name}");
    }
    // The directory keeps ben out, the mode of the file elsewhere.
    ben.download("RETR anna/private").1.expect(550);
    ben.download("NLST anna").1.expect_one_of(&[450, 550]);
    ben.upload("STOR anna/new", b"x").expect(550);
    ben.expect("DELE anna/private", 550);
    ben.expect("RNFR for-all", 350);
    ben.expect("RNTO taken", 550);
    assert_eq!(ben.retr("for-all"), b"to be read");
    mode(&server.path("for-all"), 0o600);
    ben.download("RETR for-all").1.expect(550);
    anna.download("RETR ben/private").1.expect(550);
    assert_eq!(anna.retr("for-all"), b"to be read");
    assert_eq!(server.read("anna/private"), b"anna's");
    assert!(!server.exists("anna/new"));
}

#[test]
fn shown_permissions_are_those_of_the_session() {
    let Some(server) = two_users("") else {
        return;
    };
    let (mut anna, mut ben) = (client(&server, "anna"), client(&server, "ben"));
    anna.stor("file", b"x");
    mode(&server.path("file"), 0o600);
    let perm = |client: &mut Client| {
        let facts = client.expect("MLST file", 250).text();
        let perm = facts.split("perm=").nth(1).unwrap();
        perm.split(';').next().unwrap().to_owned()
    };
    assert!(perm(&mut anna).contains('r') && perm(&mut anna).contains('w'));
    assert!(!perm(&mut ben).contains('r') && !perm(&mut ben).contains('w'));
    // On the very thread that was anna's a moment ago.
    anna.expect("REIN", 220);
    anna.login_as("ben", "pw").expect(230);
    assert!(!perm(&mut anna).contains('r'));
}

#[test]
fn no_thread_keeps_an_identity_when_its_session_has_ended() {
    let Some(server) = two_users("") else {
        return;
    };
    let nobody = identities(&server);
    let (mut anna, mut ben) = (client(&server, "anna"), client(&server, "ben"));
    let during = identities(&server);
    let of = |uid: u32| (uid.to_string(), uid.to_string());
    assert!(
        during.contains(&of(ANNA)) && during.contains(&of(BEN)),
        "{during:?}"
    );
    anna.expect("REIN", 220);
    assert!(!identities(&server).contains(&of(ANNA)));
    anna.login_as("anna", "wrong").expect(530);
    assert!(!identities(&server).contains(&of(ANNA)));
    // By USER, too, which ends the login before it.
    ben.expect("USER anna", 331);
    assert!(!identities(&server).contains(&of(BEN)));
    ben.expect("PASS pw", 230);
    assert!(identities(&server).contains(&of(ANNA)));
    ben.expect("QUIT", 221);
    ben.expect_end();
    drop(anna);
    let threads = server.threads();
    eventually("all threads are themselves again", || {
        identities(&server) == nobody
    });
    assert!(threads >= 3, "idle threads were there to be looked at");
    // A session whose client dies leaves none either.
    client(&server, "ben").reset();
    eventually("the thread of a dead session is itself again", || {
        identities(&server) == nobody
    });
}

#[test]
fn capabilities_are_those_that_it_takes() {
    let Some(server) = two_users("active_from_port_20 = false\n") else {
        return;
    };
    let _anna = client(&server, "anna");
    for task in fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        for set in ["CapPrm:", "CapBnd:"] {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix(set))
                .unwrap();
            // SETGID and SETUID.
            assert_eq!(line.trim(), "00000000000000c0", "{set}");
        }
    }
}

#[test]
fn who_would_be_root_or_nobody_at_all_stays_outside() {
    if !root_may(ACTING) {
        return;
    }
    let hash = Password::from_clear("pw").unwrap();
    let user = |name: &str, further: &str| {
        format!(
            "[[user]]\nname = \"{name}\"\npassword = \"{}\"\nroot = \"{{root}}\"\n{further}",
            hash.to_phc()
        )
    };
    let toml = format!(
        "run_as = \"session\"\n{}{}{}[anonymous]\nroot = \"{{root}}\"\n",
        user("root", ""),
        user("zero", "system_user = \"0\"\n"),
        user("no-such-user", "")
    );
    let builder = Server::build().configuration(&toml);
    mode(builder.root().parent().unwrap(), 0o755);
    mode(builder.root(), 0o755);
    let server = builder.start();
    for name in ["root", "zero", "no-such-user"] {
        server
            .connect()
            .login_as(name, "pw")
            .expect(530)
            .says("not available");
    }
    server.wait_for_log("root would act as root (setting: system_user)");
    server.wait_for_log("there is no system user no-such-user");
    server.connect().login_as("anonymous", "").expect(230);
}

#[test]
fn quotas_and_unfinished_uploads_are_looked_after_as_their_users() {
    if !root_may(ACTING) {
        return;
    }
    let hash = Password::from_clear("pw").unwrap();
    let toml = format!(
        "run_as = \"session\"\nkeep_partial = \"1s\"\n[[user]]\nname = \"anna\"\npassword = \"{}\"\n\
         root = \"{{root}}\"\nsystem_user = \"{ANNA}\"\nquota = \"1000\"\n",
        hash.to_phc()
    );
    // A clock that is believed at once.
    let builder = Server::build().environment("THRIFTPD_TEST_CLOCK", "0");
    let builder = builder.configuration(&toml);
    mode(builder.root().parent().unwrap(), 0o755);
    chown(builder.root(), Some(ANNA), Some(ANNA)).unwrap();
    mode(builder.root(), 0o700);
    let server = builder.start();
    let mut anna = client(&server, "anna");
    anna.stor("file", &[7; 600]);
    anna.upload("STOR more", &[7; 600]).expect(552);
    assert_eq!(
        fs::metadata(server.path(".thriftpd/quota")).unwrap().uid(),
        ANNA
    );
    drop(anna);
    assert!(
        !server.log_text().contains("cannot"),
        "{}",
        server.log_text()
    );
}
