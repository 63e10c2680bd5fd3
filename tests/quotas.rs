//! Quotas: counted as bytes arrive, exact whoever is at it at once, kept over restarts and crashes.

mod common;
// Each kind of test needs a part of it.
#[allow(dead_code)]
#[path = "common/shelf.rs"]
mod shelf;

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::Command;

use common::mounts::{Mount, format, may_mount};
use nix::sys::signal::Signal;
use shelf::{Abilities, Shelf};

use common::{
    Client, Server, assert_same_bytes, eventually, noise, root_may, run_client, the_program,
};

fn server(keys: &str) -> Server {
    Server::build().anonymous(keys).start()
}

/// What SITE QUOTA says: bytes and files.
#[track_caller]
fn used(client: &mut Client) -> (u64, u64) {
    let text = client.expect("SITE QUOTA", 200).text();
    let number = |what: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(what));
        let line = line.unwrap_or_else(|| panic!("no {what} in {text}"));
        let digits = line.trim().split(|c: char| !c.is_ascii_digit()).next();
        digits.unwrap().parse().unwrap()
    };
    (number("Bytes:"), number("Files:"))
}

/// Every name of a file below a directory, but for the server's own state: its inode and bytes. What goes meanwhile is left out.
fn names_below(directory: &Path) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let metadata = match entry.metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            other => other.unwrap(),
        };
        if !metadata.is_dir() {
            found.push((metadata.ino(), metadata.len()));
        } else if entry.file_name() != ".thriftpd" {
            found.extend(names_below(&entry.path()));
        }
    }
    found
}

/// Bytes and files below a directory where nothing changes.
fn really(directory: &Path) -> (u64, u64) {
    let names = names_below(directory);
    (
        names.iter().map(|(_, bytes)| bytes).sum(),
        names.len() as u64,
    )
}

/// Bytes below a directory while files get their names: one may be met under both.
fn held(directory: &Path) -> u64 {
    let files: BTreeMap<u64, u64> = names_below(directory).into_iter().collect();
    files.values().sum()
}

#[test]
fn more_than_the_quota_is_552_and_the_old_file_stays() {
    let server = server("quota = \"1MB\"");
    let mut client = server.visitor();
    let old = noise(600_000);
    client.stor("file", &old);
    client.expect("AVBL", 213).says("400000");
    // What replaces the old one counts without it.
    client.stor("file", &old);
    assert_eq!(used(&mut client), (600_000, 1));
    let mut data = client.epsv();
    client.expect("STOR file", 150);
    // Broken off by the server at some point.
    let _ = data.write_all(&noise(8_000_000));
    drop(data);
    client.reply().expect(552).says("quota").says("1000000");
    assert_same_bytes(&server.read("file"), &old);
    assert_eq!(used(&mut client), really(&server.path("")));
    client.expect("ALLO 2000000", 552);
    client.expect("DELE file", 250);
    assert_eq!(used(&mut client), really(&server.path("")));
    client.stor("small", b"again");
    server.wait_for_log("setting: quota");
}

/// An upload of which 700,000 bytes are there and counted.
fn under_way(server: &Server, client: &mut Client) -> TcpStream {
    let data = client.begin_upload("STOR file", &noise(700_000));
    eventually("all is counted", || {
        used(&mut server.visitor()).0 == 700_000
    });
    data
}

#[test]
fn what_was_cut_off_counts_until_it_is_gone() {
    let server = server("quota = \"1MB\"");
    let mut client = server.visitor();
    let data = under_way(&server, &mut client);
    client.send("ABOR");
    client.reply().expect(426);
    client.reply().expect(226);
    drop(data);
    assert_eq!(used(&mut client), (700_000, 1));
    client.upload("STOR other", &noise(400_000)).expect(552);
    client.command("DELE other").expect_one_of(&[250, 550]);
    client.expect("REST 700000", 350);
    client.upload("STOR file", &noise(300_000)).expect(226);
    assert_eq!(used(&mut client), (1_000_000, 1));
    client.upload("APPE file", b"x").expect(552);
    assert_eq!(used(&mut client), (1_000_000, 1));
    assert_eq!(really(&server.path("")), (1_000_000, 1));
}

#[test]
fn what_is_announced_of_a_file_that_is_there_in_part_counts_once() {
    let server = server("quota = \"1MB\"\nstrict_allo = true");
    let mut client = server.visitor();
    let contents = noise(900_000);
    for announced in [900_000, 200_000] {
        for order in [["REST 700000", "ALLO"], ["ALLO", "REST 700000"]] {
            client.cut_off_upload("STOR file", &contents[..700_000]);
            for command in order {
                match command {
                    "ALLO" => client.expect(format!("ALLO {announced}"), 200),
                    rest => client.expect(rest, 350),
                };
            }
            client.upload("STOR file", &contents[700_000..]).expect(226);
            assert_same_bytes(&server.read("file"), &contents);
            assert_eq!(used(&mut client), (900_000, 1));
            client.expect("DELE file", 250);
        }
    }
}

#[test]
fn lftp_continues_an_upload_that_the_quota_has_room_for_once() {
    let server = server("quota = \"1MB\"\nstrict_allo = true");
    let contents = noise(900_000);
    let local = server.home().join("local");
    fs::write(&local, &contents).unwrap();
    server
        .visitor()
        .cut_off_upload("STOR file", &contents[..700_000]);
    let script = format!(
        "set ftp:ssl-allow no; set ftp:use-allo yes; set net:max-retries 1; open ftp://{}; put -c {} -o file",
        server.address(),
        local.display()
    );
    let mut lftp = the_program("lftp", server.home());
    run_client(lftp.args(["-c", &script]), 30).succeeded();
    assert_same_bytes(&server.read("file"), &contents);
}

#[test]
fn files_are_counted_as_well() {
    let server = server("quota_files = 3");
    let mut client = server.visitor();
    for name in ["a", "b", "c", "b"] {
        client.stor(name, b"x");
    }
    client.upload("STOR d", b"x").expect(552).says("3 files");
    client.upload("STOU", b"x").expect(552);
    assert!(!server.exists("d"));
    client.expect("RNFR a", 350);
    client.expect("RNTO b", 250);
    assert_eq!(used(&mut client), (2, 2));
    client.stor("d", b"x");
    assert_eq!(really(&server.path("")), (3, 3));
}

#[test]
fn sessions_at_once_fill_it_to_the_last_byte_and_no_further() {
    let server = server("quota = \"100kB\"");
    let stored: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|session| {
                let server = &server;
                scope.spawn(move || {
                    let mut client = server.visitor();
                    let store = |number| {
                        let line = format!("STOR {session}-{number}");
                        let reply = client.upload(line, &noise(1000));
                        reply.expect_one_of(&[226, 552]).code == 226
                    };
                    (0..20).map(store).filter(|stored| *stored).count()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert_eq!(stored, 100);
    assert_eq!(used(&mut server.visitor()), (100_000, 100));
    assert_eq!(really(&server.path("")), (100_000, 100));
}

#[test]
fn large_uploads_at_once_never_hold_more_than_the_quota_together() {
    let server = server("quota = \"10MB\"");
    std::thread::scope(|scope| {
        for session in 0..8 {
            let server = &server;
            scope.spawn(move || {
                let mut client = server.visitor();
                for round in 0..3 {
                    let mut data = client.epsv();
                    client.expect(format!("STOR {session}-{round}"), 150);
                    let _ = data.write_all(&noise(3_000_000));
                    drop(data);
                    client.reply().expect_one_of(&[226, 552]);
                    assert!(held(&server.path("")) <= 10_000_000);
                    if round == 1 {
                        let line = format!("DELE {session}-{round}");
                        client.command(line).expect_one_of(&[250, 550]);
                    }
                }
            });
        }
    });
    assert_eq!(used(&mut server.visitor()), really(&server.path("")));
}

#[test]
fn every_way_of_changing_files_is_counted() {
    let server = server("quota = \"100MB\"\nversions = 2");
    server.write("before/there", noise(1234));
    let mut client = server.visitor();
    assert_eq!(used(&mut client), (1234, 1));
    client.stor("file", &noise(5000));
    client.stor("file", &noise(700));
    client.stor("file", &noise(70));
    client.stor("file", &noise(7));
    client.upload("APPE file", &noise(100)).expect(226);
    client.expect("REST 50", 350);
    client.upload("STOR file", &noise(10)).expect(226);
    client.upload("STOU", b"unique").expect(226);
    client.expect("MKD sub", 257);
    client.stor("sub/one", &noise(11));
    client.stor("sub/two", &noise(22));
    client.expect("RNFR sub/one", 350);
    client.expect("RNTO sub/two", 250);
    assert_eq!(used(&mut client), really(&server.path("")));
    client.expect("RNFR sub", 350);
    client.expect("RNTO other", 250);
    client.stor("empty", b"");
    client.expect("ALLO 100000", 200);
    client.upload("STOR less", b"than announced").expect(226);
    client.expect("RMDA other", 250);
    client.expect("DELE empty", 250);
    assert_eq!(used(&mut client), really(&server.path("")));
}

#[test]
fn counts_survive_a_restart_and_are_made_anew_after_a_crash() {
    let builder = Server::build().configuration(
        "[anonymous]\nroot = \"{root}\"\naccess = \"read-write\"\nquota = \"100MB\"\n",
    );
    let server = builder.start();
    let mut client = server.visitor();
    client.stor("file", &noise(1000));
    // Behind the server's back: what is counted stays as it was until somebody counts again.
    fs::write(server.path("other"), noise(10)).unwrap();
    assert_eq!(used(&mut client), (1000, 1));
    drop(client);
    server.signal(Signal::SIGTERM);
    server.wait();
    let server = server.restart();
    assert_eq!(used(&mut server.visitor()), (1000, 1));
    let mut client = server.visitor();
    let mut data = client.epsv();
    client.expect("STOR half", 150);
    data.write_all(&noise(2_000_000)).unwrap();
    eventually("it is counted", || {
        used(&mut server.visitor()).0 == 2_001_000
    });
    server.signal(Signal::SIGKILL);
    server.wait();
    let server = server.restart();
    server.wait_for_log("bytes in 3 files are stored");
    assert_eq!(used(&mut server.visitor()), really(&server.path("")));
    assert_eq!(really(&server.path("")).1, 3);
}

#[test]
fn behind_a_crash_clients_are_served_before_all_is_counted() {
    if !may_mount() {
        return;
    }
    let builder = Server::build().anonymous("quota = \"10MB\"");
    let slow = builder.root().join("slow");
    fs::create_dir(&slow).unwrap();
    let Some(shelf) = Shelf::mount(&slow, Abilities::ALL) else {
        return;
    };
    let server = builder.start();
    server.visitor().stor("file", &noise(1000));
    eventually("the counts are saved", || {
        let kept = fs::read_to_string(server.path(".thriftpd/quota")).unwrap();
        kept.starts_with("bytes=1000 ")
    });
    fs::write(server.path("other"), noise(10)).unwrap();
    server.signal(Signal::SIGKILL);
    server.wait();
    // Who counts waits there.
    let held = shelf.hold();
    let server = server.restart();
    let mut client = server.visitor();
    assert_eq!(used(&mut client), (1000, 1), "as it was said last");
    client.stor("new", &noise(500));
    assert_eq!(used(&mut client), (1500, 2));
    assert!(!server.log_text().contains("files are stored"));
    drop(held);
    server.wait_for_log("1510 bytes in 3 files are stored");
    assert_eq!(used(&mut client), (1510, 3));
}

#[test]
fn a_disk_that_hangs_holds_up_nobody_whose_quota_counts_there_too() {
    if !may_mount() {
        return;
    }
    let builder = Server::build().configuration(
        "[anonymous]\nroot = \"{root}/home\"\naccess = \"read-write\"\nquota = \"10MB\"\n\
         [[anonymous.folder]]\npath = \"/slow\"\nroot = \"{root}/slow\"\naccess = \"read-write\"\n",
    );
    for name in ["home", "slow"] {
        fs::create_dir(builder.root().join(name)).unwrap();
    }
    let Some(shelf) = Shelf::mount(&builder.root().join("slow"), Abilities::ALL) else {
        return;
    };
    let server = builder.start();
    let (mut client, mut waiting) = (server.visitor(), server.visitor());
    client.stor("slow/one", &noise(1000));
    client.stor("two", &noise(100));
    let held = shelf.hold();
    waiting.send("SITE QUOTA");
    let mut third = server.visitor();
    let upload = third.begin_upload("STOR two", &noise(50));
    client.stor("three", &noise(10));
    drop(upload);
    third.reply().expect(226);
    client.upload("STOR four", &noise(11_000_000)).expect(552);
    // What was cut off.
    client.expect("DELE four", 250);
    drop(held);
    waiting.reply().expect(200);
    assert_eq!(used(&mut client), (1060, 3));
}

#[test]
fn a_crash_with_no_upload_under_way_has_all_counted_anew_too() {
    let builder = Server::build().configuration(
        "[anonymous]\nroot = \"{root}\"\naccess = \"read-write\"\nquota = \"100MB\"\n",
    );
    let server = builder.start();
    let mut client = server.visitor();
    client.expect("MKD sub", 257);
    client.stor("sub/one", &noise(1000));
    client.stor("sub/two", &noise(10));
    // As when the end comes in the middle of RMDA.
    fs::remove_file(server.path("sub/one")).unwrap();
    server.signal(Signal::SIGKILL);
    server.wait();
    let server = server.restart();
    server.wait_for_log("10 bytes in 1 files are stored");
    assert_eq!(used(&mut server.visitor()), (10, 1));
}

#[test]
fn a_rescan_beside_the_running_server_finds_what_others_did() {
    let server = server("quota = \"1MB\"\nquota_files = 9");
    let mut client = server.visitor();
    client.stor("file", &noise(1000));
    fs::write(server.path("other"), noise(10)).unwrap();
    let quota = |rescan: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_thriftpd"));
        command.arg("quota").args(rescan).arg("--config");
        command.arg(server.home().join("thriftpd.toml"));
        run_client(&mut command, 20).succeeded().text()
    };
    assert!(quota(&[]).contains("anonymous: 1000 of 1000000 bytes, 1 of 9 files"));
    assert!(quota(&["--rescan"]).contains("1010 of 1000000 bytes, 2 of 9 files"));
    assert_eq!(used(&mut client), (1010, 2));
    client.expect("DELE other", 250);
    assert_eq!(used(&mut client), (1000, 1));
}

#[test]
fn a_rescan_does_not_count_an_upload_under_way_twice() {
    let server = server("quota = \"10MB\"");
    let mut client = server.visitor();
    let data = under_way(&server, &mut client);
    let rescan = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_thriftpd"));
        command.args(["quota", "--rescan", "--config"]);
        command.arg(server.home().join("thriftpd.toml"));
        run_client(&mut command, 60)
    };
    let refused = rescan().failed();
    assert!(
        refused.stderr.contains("an upload is under way"),
        "{}",
        refused.stderr
    );
    drop(data);
    client.reply().expect(226);
    rescan().succeeded();
    assert_eq!(used(&mut client), (700_000, 1));
}

#[test]
fn who_shares_a_directory_counts_in_it_and_others_have_no_quota() {
    let server = Server::build()
        .configuration(
            "[anonymous]\nroot = \"{root}/inner\"\naccess = \"read-write\"\nquota = \"1MB\"\n",
        )
        .with_flag_user();
    fs::create_dir(server.root().join("inner")).unwrap();
    let server = server.start();
    let mut other = server.client();
    other.expect("SITE QUOTA", 200).says("no quota");
    other.stor("outside", &noise(2_000_000));
    other.stor("inner/file", &noise(900_000));
    let mut client = server.visitor();
    assert_eq!(used(&mut client), (900_000, 1));
    client.upload("STOR mine", &noise(200_000)).expect(552);
    // Perhaps some of it came before that.
    client.command("DELE mine").expect_one_of(&[250, 550]);
    // Out of it, and back in.
    other.expect("RNFR inner/file", 350);
    other.expect("RNTO file", 250);
    assert_eq!(used(&mut client), (0, 0));
    other.expect("MKD directory", 257);
    other.stor("directory/a", &noise(100));
    other.expect("RNFR directory", 350);
    other.expect("RNTO inner/directory", 250);
    assert_eq!(used(&mut client), (100, 1));
    let hidden = server.path("inner/.thriftpd");
    assert!(hidden.is_dir());
    for line in ["LIST", "NLST", "MLSD"] {
        assert!(!client.list(line).join(" ").contains(".thriftpd"));
    }
    client.expect("CWD .thriftpd", 553);
    client.download("RETR .thriftpd/quota").1.expect(553);
}

#[test]
fn nothing_is_stored_where_it_cannot_be_counted_until_it_can() {
    if !root_may("a server that becomes another user") {
        return;
    }
    let builder = Server::build()
        .configuration(
            "run_as = \"nobody\"\n[anonymous]\nroot = \"{root}\"\naccess = \"read-write\"\nquota = \"1MB\"\n",
        );
    let above = builder.root().parent().unwrap();
    fs::set_permissions(above, fs::Permissions::from_mode(0o755)).unwrap();
    let sub = builder.root().join("sub");
    fs::create_dir(&sub).unwrap();
    chown(&sub, Some(65534), Some(65534)).unwrap();
    fs::write(sub.join("file"), "there").unwrap();
    let server = builder.start();
    let mut client = server.visitor();
    client.upload("STOR sub/new", b"new").expect(451);
    assert!(!server.exists("sub/new"));
    server.wait_for_log("must be able to make .thriftpd in it");
    chown(server.path(""), Some(65534), Some(65534)).unwrap();
    client.stor("sub/new", b"new");
    assert_eq!(used(&mut client), (8, 2));
}

#[test]
fn who_may_only_append_has_a_quota_too_also_in_a_directory_that_comes_later_behind_a_link() {
    let builder = Server::build().configuration(
        "sandbox = \"off\"\n[anonymous]\nroot = \"{root}\"\npermissions = [\"list\"]\nquota = \"1kB\"\n\
         [[anonymous.folder]]\npath = \"/log\"\nroot = \"{home}/link/log\"\npermissions = [\"list\", \"append\"]\n",
    );
    let home = builder.root().parent().unwrap().to_owned();
    let server = builder.start();
    fs::create_dir_all(home.join("far/log")).unwrap();
    symlink("far", home.join("link")).unwrap();
    fs::write(home.join("far/log/file"), noise(900)).unwrap();
    let mut client = server.visitor();
    client.upload("APPE log/file", &noise(50)).expect(226);
    client.upload("APPE log/file", &noise(500)).expect(552);
    assert_eq!(used(&mut client), really(&home.join("far/log")));
}

/// A mounted disk that takes nothing while this lives (fsfreeze(8)).
struct Frozen<'a>(&'a Path);

impl<'a> Frozen<'a> {
    fn new(at: &'a Path) -> Self {
        run_client(Command::new("fsfreeze").arg("-f").arg(at), 20).succeeded();
        Self(at)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(self.0).status();
    }
}

#[test]
fn a_server_starts_and_tells_quotas_while_a_disk_that_was_left_in_a_crash_hangs() {
    if !may_mount() {
        return;
    }
    let builder = Server::build().configuration(
        "[anonymous]\nroot = \"{root}/home\"\naccess = \"read-write\"\nquota = \"10MB\"\n\
         [[anonymous.folder]]\npath = \"/slow\"\nroot = \"{root}/slow\"\naccess = \"read-write\"\n",
    );
    let (home, slow) = (builder.root().join("home"), builder.root().join("slow"));
    fs::create_dir(&home).unwrap();
    fs::create_dir(&slow).unwrap();
    let image = tempfile::NamedTempFile::new().unwrap();
    let disk = format(image.path(), 32 << 20, &["mkfs.ext4", "-q", "-F"])
        .and_then(|()| Mount::image(image.path(), "ext4", "", &slow));
    let _disk = match disk {
        Ok(disk) => disk,
        Err(why) => return common::skip(format_args!("no disk can be mounted: {why}")),
    };
    let server = builder.start();
    server.visitor().stor("slow/one", &noise(1000));
    server.signal(Signal::SIGKILL);
    server.wait();
    let frozen = Frozen::new(&slow);
    let server = server.restart();
    let mut client = server.visitor();
    client.expect("CWD /", 250);
    drop(frozen);
    server.wait_for_log("1000 bytes in 1 files are stored");
    assert_eq!(used(&mut client), (1000, 1));
    std::thread::sleep(std::time::Duration::from_millis(2500));
    let frozen = Frozen::new(&slow);
    let mut waiting = server.visitor();
    waiting.epsv_address();
    waiting.send("STOR slow/two");
    let begun = || server.threads() > 3;
    eventually("it waits for the disk", begun);
    assert_eq!(used(&mut client), (1000, 1), "while another waits");
    client.stor("three", &noise(10));
    assert_eq!(used(&mut client), (1010, 2));
    drop(frozen);
}

#[test]
fn what_is_removed_with_the_root_of_another_is_counted_for_both() {
    let server = Server::build()
        .configuration(&format!(
            "[[user]]\nname = \"outer\"\npassword = \"{0}\"\nroot = \"{{root}}\"\nquota = \"1MB\"\nversions = 2\n\
             [[user]]\nname = \"inner\"\npassword = \"{0}\"\nroot = \"{{root}}/d\"\nquota = \"1MB\"\nversions = 2\n",
            thriftpd::accounts::Password::from_clear("pw").unwrap().to_phc()
        ));
    fs::create_dir(server.root().join("d")).unwrap();
    let server = server.start();
    let log_in = |name: &str| {
        let mut client = server.connect();
        client.login_as(name, "pw").expect(230);
        client.expect("TYPE I", 200);
        client
    };
    let (mut outer, mut inner) = (log_in("outer"), log_in("inner"));
    outer.stor("kept", &noise(10));
    for _ in 0..3 {
        for _ in 0..2 {
            inner.stor("file", &noise(100));
        }
        assert_eq!(used(&mut inner), (200, 2));
        outer.expect("RMDA d", 250);
        fs::create_dir(server.path("d")).unwrap();
        inner = log_in("inner");
        assert_eq!(used(&mut inner), (0, 0));
        // Its files are old versions of the outer root now; what the server kept there is nothing of anybody's.
        let there = really(&server.path(""));
        assert_eq!(used(&mut outer), there);
        assert!(there.1 <= 3, "{there:?}");
    }
}
