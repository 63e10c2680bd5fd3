//! What was cut off is continued with what belongs behind it, or not at all: whatever the client was told, whatever others do
//! to the name meanwhile, and whatever the file system and the clock cannot do.

mod common;
#[allow(dead_code)]
#[path = "common/shelf.rs"]
mod shelf;

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use common::mounts::may_mount;
use common::{
    Client, Mounted, PASSWORD, Reply, Server, USER, assert_same_bytes, eventually, noise,
    run_client, the_program, told,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shelf::{Abilities, DISKS, Gated, Shelf};
use thriftpd::accounts::Password;

/// Paths and bytes of the partial files of the served directory.
fn partials(server: &Server) -> Vec<(PathBuf, u64)> {
    let entries = fs::read_dir(server.path("")).unwrap().flatten();
    let partials = entries.filter_map(|entry| {
        let is_one = entry.file_name().to_string_lossy().ends_with(".partial");
        Some((entry.path(), entry.metadata().ok()?.len())).filter(|_| is_one)
    });
    partials.collect()
}

fn in_partials(server: &Server) -> u64 {
    partials(server).iter().map(|(_, bytes)| bytes).sum()
}

/// Sends the first of an upload; the control connection goes then, and the data connection with it.
#[track_caller]
fn cut_off(server: &Server, line: &str, bytes: &[u8]) {
    let mut client = server.client();
    let data = client.begin_upload(line, bytes);
    let arrived = format!(": {} bytes so far", bytes.len());
    eventually("it has arrived", || {
        client.expect("STAT", 211).text().contains(&arrived)
    });
    let seen = lines(server);
    client.reset();
    drop(data);
    has_ended(server, seen);
}

fn lines(server: &Server) -> usize {
    server.log_text().lines().count()
}

/// Another upload has been cut off, and nobody holds what it left.
#[track_caller]
fn has_ended(server: &Server, seen: usize) {
    eventually("the server sees that the client is gone", || {
        let text = server.log_text();
        let mut lines = text.lines().skip(seen);
        lines.any(|line| line.contains("control connection lost"))
    });
}

/// Of who continues, where the session that was cut off may just be about to let go.
#[track_caller]
fn patiently(mut attempt: impl FnMut() -> Reply) -> Reply {
    let mut last = None;
    eventually("nobody else holds it", || {
        let reply = attempt();
        let is_held = reply.code == 450 && reply.text().contains("in use");
        last = Some(reply);
        !is_held
    });
    last.unwrap()
}

#[track_caller]
fn rest(client: &mut Client, name: &str, offset: usize, contents: &[u8]) -> Reply {
    patiently(|| {
        client.expect(format!("REST {offset}"), 350);
        client.upload(
            format!("STOR {name}"),
            &contents[offset.min(contents.len())..],
        )
    })
}

#[track_caller]
fn size(client: &mut Client, name: &str) -> usize {
    let reply = client.expect(format!("SIZE {name}"), 213);
    std::str::from_utf8(reply.last()).unwrap().parse().unwrap()
}

/// Two accounts with one directory.
fn two_accounts() -> common::Builder {
    let hash = Password::from_clear("right").unwrap();
    let hash = hash.to_phc();
    let user = |name: &str| {
        format!("[[user]]\nname = \"{name}\"\npassword = \"{hash}\"\nroot = \"{{root}}\"\n")
    };
    let text = format!("{}{}", user("anna"), user("berta"));
    Server::build().configuration(&text)
}

#[track_caller]
fn client_of(server: &Server, name: &str) -> Client {
    let mut client = server.connect();
    client.login_as(name, "right").expect(230);
    client.expect("TYPE I", 200);
    client
}

// ---- what clients are told

#[test]
fn less_than_all_that_was_cut_off_is_told_and_all_of_it_may_be_continued() {
    let server = Server::start();
    let contents = noise(100_000);
    for arrived in [1, 4095, 4096, 4097, 8192, 8193, 50_000] {
        let name = format!("file-{arrived}");
        cut_off(&server, &format!("STOR {name}"), &contents[..arrived]);
        let mut client = server.client();
        let expected = told(arrived);
        assert!(expected < arrived && expected % 4096 == 0);
        if expected == 0 {
            client.expect(format!("SIZE {name}"), 550);
            client.expect(format!("MLST {name}"), 550);
            client.expect(format!("MDTM {name}"), 550);
        } else {
            assert_eq!(size(&mut client, &name), expected);
            let facts = client.expect(format!("MLST {name}"), 250).text();
            assert!(
                facts.to_lowercase().contains(&format!("size={expected};")),
                "{facts}"
            );
            client.expect(format!("MDTM {name}"), 213);
        }
        rest(&mut client, &name, arrived + 1, &contents).expect(554);
        rest(&mut client, &name, arrived, &contents).expect(226);
        assert_same_bytes(&server.read(&name), &contents);
    }
}

fn lftp(server: &Server, local: &Path, script: &str) -> common::Finished {
    let script = format!(
        "set net:timeout 20; set ftp:ssl-allow no; set net:max-retries 3; set net:reconnect-interval-base 1; set cmd:fail-exit yes; open -u {USER},{PASSWORD} ftp://{}; lcd {}; {script}",
        server.address(),
        local.display()
    );
    run_client(the_program("lftp", server.home()).args(["-c", &script]), 60)
}

#[test]
fn lftp_and_curl_store_the_file_whose_bytes_all_came_before_its_client_was_gone() {
    let server = Server::start();
    let local = server.directory("local");
    for length in [1, 4096, 100_000, 1 << 20] {
        let contents = noise(length);
        fs::write(local.join("file"), &contents).unwrap();
        for program in ["lftp", "curl"] {
            cut_off(&server, "STOR file", &contents);
            assert!(!server.exists("file"));
            match program {
                "lftp" => lftp(&server, &local, "put -c file").succeeded(),
                _ => {
                    let mut curl = the_program("curl", server.home());
                    curl.args(["-sS", "-C", "-", "-T"]).arg(local.join("file"));
                    run_client(curl.arg(server.url("file")), 60).succeeded()
                }
            };
            assert_same_bytes(&server.read("file"), &contents);
            fs::remove_file(server.path("file")).unwrap();
        }
    }
}

/// An upload of `contents` of which some has arrived, and more does before it is cut off.
struct Dying {
    client: Client,
    data: TcpStream,
    sent: usize,
}

impl Dying {
    #[track_caller]
    fn begin(server: &Server, name: &str, contents: &[u8], first: usize) -> Self {
        let mut client = server.client();
        let before = in_partials(server);
        let data = client.begin_upload(format!("STOR {name}"), &contents[..first]);
        let sent = first;
        eventually("it has arrived", || {
            in_partials(server) == before + first as u64
        });
        Self { client, data, sent }
    }

    #[track_caller]
    fn send(&mut self, server: &Server, contents: &[u8], up_to: usize) {
        let before = in_partials(server);
        let more = &contents[self.sent..up_to];
        self.data.write_all(more).unwrap();
        self.sent = up_to;
        eventually("more has arrived", || {
            in_partials(server) == before + more.len() as u64
        });
    }

    #[track_caller]
    fn die(self, server: &Server) {
        let seen = lines(server);
        self.client.reset();
        has_ended(server, seen);
    }

    #[track_caller]
    fn finish(mut self) {
        drop(self.data);
        self.client.reply().expect(226);
    }
}

#[test]
fn what_is_appended_begins_where_the_client_was_told_whatever_it_asks_and_tries_meanwhile() {
    let between: [(&str, &[(&str, u16)]); 5] = [
        ("nothing", &[]),
        (
            "the size of another",
            &[("SIZE other", 213), ("SIZE none", 550)],
        ),
        ("its time", &[("MDTM file", 213)]),
        (
            "to move away and back",
            &[("MKD dir", 257), ("CWD dir", 250), ("CWD ..", 250)],
        ),
        ("what is refused", &[("APPE file", 450), ("APPE file", 450)]),
    ];
    for (what, commands) in between {
        let server = Server::start();
        let contents = noise(300_000);
        cut_off(&server, "STOR other", &contents[..70_000]);
        let mut dying = Dying::begin(&server, "file", &contents, 50_000);
        let mut client = server.client();
        let told = size(&mut client, "file");
        for half in [100_000, 150_000] {
            dying.send(&server, &contents, half);
            for &(command, code) in commands {
                match command.starts_with("APPE") {
                    true => client.upload(command, &contents[told..]).expect(code),
                    false if command == "MKD dir" && half > 100_000 => continue,
                    false => client.expect(command, code),
                };
            }
        }
        dying.die(&server);
        let appended = patiently(|| client.upload("APPE file", &contents[told..]));
        appended.expect(226);
        eprintln!("{what}");
        assert_same_bytes(&server.read("file"), &contents);
    }
}

#[test]
fn nothing_is_appended_to_what_has_become_another_length_than_was_told() {
    let server = Server::start();
    let (contents, others) = (noise(300_000), noise(20_000));
    // It has become the file.
    let dying = Dying::begin(&server, "file", &contents, 50_000);
    let mut client = server.client();
    let told = size(&mut client, "file");
    dying.finish();
    client.expect("SIZE none", 550);
    for _ in 0..3 {
        let reply = client.upload("APPE file", &contents[told..100_000]);
        reply.expect(450).says("SIZE");
    }
    assert_same_bytes(&server.read("file"), &contents[..50_000]);
    // Who asks again is believed.
    assert_eq!(size(&mut client, "file"), 50_000);
    client.upload("APPE file", &contents[50_000..]).expect(226);
    assert_same_bytes(&server.read("file"), &contents);

    // It was begun anew by another session, and has become less.
    cut_off(&server, "STOR anew", &contents[..100_000]);
    let told = size(&mut client, "anew");
    cut_off(&server, "STOR anew", &others);
    for _ in 0..2 {
        let reply = patiently(|| client.upload("APPE anew", &contents[told..]));
        reply.expect(450).says("SIZE");
    }
    assert!(!server.exists("anew"));

    // It was removed by another session.
    cut_off(&server, "STOR gone", &contents[..100_000]);
    let told = size(&mut client, "gone");
    server.client().expect("DELE gone", 250);
    for _ in 0..2 {
        client.upload("APPE gone", &contents[told..]).expect(450);
    }
    assert!(!server.exists("gone"));
    // By the client itself.
    client.expect("SIZE gone", 550);
    cut_off(&server, "STOR gone", &contents[..100_000]);
    size(&mut client, "gone");
    client.expect("DELE gone", 250);
    client.upload("APPE gone", &contents).expect(226);
    assert_same_bytes(&server.read("gone"), &contents);
}

#[test]
fn what_is_appended_begins_where_the_client_was_told_under_another_path_and_not_in_another_case() {
    let server = Server::start();
    let contents = noise(300_000);
    fs::create_dir(server.path("dir")).unwrap();
    std::os::unix::fs::symlink("dir", server.path("link")).unwrap();
    let mut dying = server.client();
    let mut data = dying.begin_upload("STOR dir/file", &contents[..50_000]);
    let mut client = server.client();
    eventually("it has arrived", || {
        let reply = client.command("SIZE link/file");
        reply.code == 213 && reply.text().contains(&told(50_000).to_string())
    });
    let mut other = server.client();
    data.write_all(&contents[50_000..150_000]).unwrap();
    eventually("more has arrived", || {
        size(&mut other, "dir/file") == told(150_000)
    });
    let seen = lines(&server);
    dying.reset();
    has_ended(&server, seen);
    client.expect("SIZE dir/FILE", 550);
    let appended = patiently(|| client.upload("APPE dir/file", &contents[told(50_000)..]));
    appended.expect(226);
    assert_same_bytes(&server.read("dir/file"), &contents);
}

// ---- a replacement that was cut off

const MIB: usize = 1 << 20;

/// v1 is stored, and v2 was to replace it.
struct Replacement {
    old: Vec<u8>,
    new: Vec<u8>,
}

impl Replacement {
    fn begin(server: &Server, mut client: Client) -> Self {
        let (old, new) = (noise(3 * MIB), noise(12 * MIB));
        client.stor("file", &old);
        let data = client.begin_upload("STOR file", &new[..6 * MIB]);
        eventually("it has arrived", || in_partials(server) == 6 * MIB as u64);
        let seen = lines(server);
        client.reset();
        drop(data);
        has_ended(server, seen);
        Self { old, new }
    }
}

#[test]
fn a_replacement_that_was_cut_off_is_continued_or_refused_and_never_mixed() {
    let server = Server::start();
    let Replacement { old, new } = Replacement::begin(&server, server.client());
    let mut client = server.client();
    assert_eq!(size(&mut client, "file"), old.len());
    for _ in 0..2 {
        let refused = patiently(|| client.upload("APPE file", &new[old.len()..]));
        refused.expect(450).says("STOR").says("REST");
    }
    rest(&mut client, "file", 6 * MIB + 1, &new).expect(554);
    assert_same_bytes(&server.read("file"), &old);
    assert_eq!(in_partials(&server), 6 * MIB as u64);
    // As lftp does.
    rest(&mut client, "file", old.len(), &new).expect(226);
    assert_same_bytes(&server.read("file"), &new);
    assert_eq!(partials(&server), []);
    // Begun anew.
    let Replacement { old, new } = Replacement::begin(&server, server.client());
    let mut client = server.client();
    rest(&mut client, "file", 6 * MIB, &new).expect(226);
    assert_same_bytes(&server.read("file"), &new);
    let _ = old;
    Replacement::begin(&server, server.client());
    let mut client = server.client();
    patiently(|| client.upload("STOR file", b"another")).expect(226);
    assert_eq!(server.read("file"), b"another");
    assert_eq!(partials(&server), []);
    client.upload("APPE file", b" one").expect(226);
    assert_eq!(server.read("file"), b"another one");
}

#[test]
fn the_replacement_of_another_account_is_neither_seen_nor_continued() {
    let server = two_accounts().start();
    let Replacement { old, new } = Replacement::begin(&server, client_of(&server, "anna"));
    let mut berta = client_of(&server, "berta");
    assert_eq!(size(&mut berta, "file"), old.len());
    rest(&mut berta, "file", 6 * MIB, &new).expect(554);
    berta.upload("APPE file", b"berta's").expect(226);
    let appended = [&old[..], b"berta's"].concat();
    assert_same_bytes(&server.read("file"), &appended);
    // What anna was to replace is not there any more: neither that nor this is continued with the tail of hers.
    let mut anna = client_of(&server, "anna");
    let refused = rest(&mut anna, "file", appended.len(), &new);
    refused.expect(450).says("STOR");
    assert_same_bytes(&server.read("file"), &appended);
    anna.stor("file", &new);
    assert_same_bytes(&server.read("file"), &new);
}

/// Where inodes are used again at once.
#[test]
fn a_replacement_of_what_was_replaced_meanwhile_is_not_continued() {
    let builder = two_accounts();
    let Some(_disk) = Mounted::ext4(&builder) else {
        return;
    };
    let server = builder.start();
    // What the server remembers of both is made now.
    client_of(&server, "anna").stor("hers", b"");
    client_of(&server, "berta").stor("other", b"");
    let Replacement { old, new } = Replacement::begin(&server, client_of(&server, "anna"));
    let inode = || fs::metadata(server.path("file")).unwrap().ino();
    let had = inode();
    let mut berta = client_of(&server, "berta");
    let another = noise(3 * MIB + 1)[1..].to_vec();
    assert_eq!(another.len(), old.len());
    let mut is_again = false;
    for number in 0..10 {
        // The next file takes the first inode that is free: of those that are, this one alone is left so.
        for filler in 0..20 {
            let path = server.path(format!("filler-{number}-{filler}"));
            fs::write(&path, "").unwrap();
            if fs::metadata(&path).unwrap().ino() == had {
                fs::rename(path, server.path("next")).unwrap();
            }
        }
        let _ = fs::remove_file(server.path("next"));
        berta.stor("file", &another);
        is_again = inode() == had;
        if is_again {
            break;
        }
    }
    assert!(is_again, "ext4 uses no inode again");
    berta.expect("MFMT 20200101000000 file", 213);
    let mut anna = client_of(&server, "anna");
    let refused = rest(&mut anna, "file", old.len(), &new);
    refused.expect(450).says("STOR");
    anna.upload("APPE file", &new[old.len()..]).expect(450);
    assert_same_bytes(&server.read("file"), &another);
}

#[test]
fn what_was_cut_off_before_another_stored_the_file_is_not_continued() {
    let server = two_accounts().start();
    let (mine, others) = (noise(200_000), noise(50_000));
    let mut anna = client_of(&server, "anna");
    let data = anna.begin_upload("STOR file", &mine[..100_000]);
    eventually("it has arrived", || in_partials(&server) == 100_000);
    let seen = lines(&server);
    anna.reset();
    drop(data);
    has_ended(&server, seen);
    let mut berta = client_of(&server, "berta");
    berta.stor("file", &others);
    // As clients do that keep the times of files.
    berta.expect("MFMT 20200101000000 file", 213);
    let mut anna = client_of(&server, "anna");
    rest(&mut anna, "file", others.len(), &mine)
        .expect(450)
        .says("STOR");
    anna.upload("APPE file", &mine[others.len()..]).expect(450);
    assert_same_bytes(&server.read("file"), &others);
    anna.stor("file", &mine);
    assert_same_bytes(&server.read("file"), &mine);
}

#[test]
fn a_replacement_of_which_nothing_came_is_not_mixed_with_the_old_file() {
    let server = Server::start();
    let (old, new) = (noise(100_000), noise(300_000));
    let mut client = server.client();
    client.stor("file", &old);
    let data = client.begin_upload("STOR file", b"");
    // The client has sent, it thinks, and nothing came.
    common::reset(data);
    client.reply().expect(426);
    assert_eq!(size(&mut client, "file"), old.len());
    rest(&mut client, "file", old.len(), &new).expect(554);
    client.upload("APPE file", &new[old.len()..]).expect(450);
    assert_same_bytes(&server.read("file"), &old);
    client.stor("file", &new);
    assert_same_bytes(&server.read("file"), &new);
    assert_eq!(partials(&server), []);
}

/// What a clock that is wrong makes of it: the time when the upload was cut off lies before the one of the old file.
#[test]
fn a_replacement_that_was_cut_off_under_a_wrong_clock_is_not_mixed_with_the_old_file() {
    if !may_mount() {
        return;
    }
    for (abilities, code) in [
        (Abilities::ALL, 226),
        (Abilities::ALL.without_attributes(), 450),
    ] {
        let builder = Server::build();
        let Some(shelf) = Shelf::mount(builder.root(), abilities) else {
            return;
        };
        let server = builder.start();
        let (old, new) = (noise(100_000), noise(300_000));
        server.client().stor("file", &old);
        shelf.set_clock(SystemTime::UNIX_EPOCH + Duration::from_secs(1000));
        cut_off(&server, "STOR file", &new[..200_000]);
        let mut client = server.client();
        patiently(|| client.upload("APPE file", &new[old.len()..])).expect(450);
        let continued = rest(&mut client, "file", old.len(), &new);
        continued.expect(code);
        match code {
            226 => assert_same_bytes(&server.read("file"), &new),
            _ => assert_same_bytes(&server.read("file"), &old),
        }
    }
}

/// Starts a server again on the address where it was.
fn again(builder: &common::Builder, server: &Server) -> Server {
    server.signal(Signal::SIGKILL);
    server.wait();
    builder
        .clone()
        .listen(&server.address().to_string())
        .start()
}

#[test]
fn lftp_tries_again_by_itself_and_the_replacement_is_whole() {
    let builder = Server::build();
    let server = builder.clone().start();
    let (old, new) = (noise(3 * MIB), noise(12 * MIB));
    server.client().stor("file", &old);
    let local = server.directory("local");
    fs::write(local.join("file"), &new).unwrap();
    std::thread::scope(|scope| {
        let put = scope.spawn(|| lftp(&server, &local, "set net:limit-rate 0:4000000; put file"));
        eventually("half of it has arrived", || {
            in_partials(&server) > 6 * MIB as u64
        });
        let server = again(&builder, &server);
        put.join().unwrap().succeeded();
        assert_same_bytes(&server.read("file"), &new);
    });
}

#[test]
fn curl_is_told_that_a_replacement_cannot_be_appended_to() {
    let server = Server::start();
    let (old, new) = (noise(3 * MIB), noise(12 * MIB));
    server.client().stor("file", &old);
    let local = server.directory("local").join("file");
    fs::write(&local, &new).unwrap();
    let curl = |arguments: &[&str]| {
        let mut curl = the_program("curl", server.home());
        curl.args(["-sS", "-T"]).arg(&local).args(arguments);
        curl.arg(server.url("file"));
        curl
    };
    let mut child = curl(&["--limit-rate", "4M"]).spawn().unwrap();
    eventually("half of it has arrived", || {
        in_partials(&server) > 6 * MIB as u64
    });
    let seen = lines(&server);
    kill(
        Pid::from_raw(child.id().try_into().unwrap()),
        Signal::SIGKILL,
    )
    .unwrap();
    child.wait().unwrap();
    eventually("the server sees it", || lines(&server) > seen);
    let told = run_client(&mut curl(&["-C", "-"]), 60).failed();
    assert!(told.stderr.contains("450"), "{}", told.stderr);
    assert_same_bytes(&server.read("file"), &old);
    run_client(&mut curl(&[]), 60).succeeded();
    assert_same_bytes(&server.read("file"), &new);
    assert_eq!(partials(&server), []);
}

// ---- what stays

#[test]
fn what_could_be_continued_outlives_uploads_that_never_come() {
    let server = Server::start();
    let contents = noise(300_000);
    for name in ["new", "old"] {
        if name == "old" {
            server.client().stor(name, b"old contents");
        }
        cut_off(&server, &format!("STOR {name}"), &contents[..200_000]);
        let is_left = || in_partials(&server) == 200_000;
        let mut client = server.client();
        for before in ["", "REST 100000"] {
            let announce = |client: &mut Client| {
                if !before.is_empty() {
                    client.expect(before, 350);
                }
            };
            // No data connection comes: the client goes instead.
            let mut gone = server.client();
            announce(&mut gone);
            gone.epsv_address();
            gone.send(format!("STOR {name}"));
            gone.reply().expect(150);
            let seen = lines(&server);
            gone.reset();
            has_ended(&server, seen);
            assert!(is_left(), "{name} {before}");
            // None can be made.
            announce(&mut client);
            let listener = client.port();
            drop(listener);
            let reply = patiently(|| client.command(format!("STOR {name}")));
            match reply.code {
                150 => drop(client.reply().expect(425)),
                code => assert_eq!(code, 425),
            }
            assert!(is_left(), "{name} {before}");
            // It comes, and nothing over it, before the client goes.
            for end in [|client: Client| drop(client), Client::reset] {
                let mut gone = server.client();
                announce(&mut gone);
                let data = gone.begin_upload(format!("STOR {name}"), b"");
                drop(data);
                let seen = lines(&server);
                end(gone);
                has_ended(&server, seen);
                assert!(is_left(), "{name} {before}");
            }
        }
        rest(&mut client, name, 200_000, &contents).expect(226);
        assert_same_bytes(&server.read(name), &contents);
    }
}

#[test]
fn an_upload_that_is_refused_for_want_of_room_leaves_what_could_be_continued() {
    let server = Server::build().anonymous("quota = \"1MB\"").start();
    let contents = noise(300_000);
    let mut client = server.visitor();
    let data = client.begin_upload("STOR file", &contents[..200_000]);
    eventually("it has arrived", || in_partials(&server) == 200_000);
    client.send("ABOR");
    client.reply().expect(426);
    client.reply().expect(226);
    drop(data);
    client.stor("other", &noise(500_000));
    for before in ["REST 0", "REST 100000"] {
        client.expect(before, 350);
        client.expect("ALLO 900000", 200);
        client.upload("STOR file", &contents).expect(552);
        assert_eq!(in_partials(&server), 200_000);
    }
    client.expect("REST 200000", 350);
    client.upload("STOR file", &contents[200_000..]).expect(226);
    assert_same_bytes(&server.read("file"), &contents);
}

#[test]
fn an_upload_in_place_of_which_nothing_came_leaves_the_file_as_it_was() {
    for keys in ["", "durable = false\n"] {
        let server = Server::build()
            .keys(&format!("uploads = \"direct\"\n{keys}"))
            .start();
        let contents = noise(200_000);
        server.client().stor("file", &contents);
        for before in ["REST 0", "REST 100000"] {
            let mut client = server.client();
            client.expect(before, 350);
            let data = client.begin_upload("STOR file", b"");
            drop(data);
            let seen = lines(&server);
            drop(client);
            has_ended(&server, seen);
            assert_same_bytes(&server.read("file"), &contents);
        }
    }
}

#[test]
fn two_uploads_of_one_name_share_nothing_where_the_file_system_has_no_locks() {
    if !may_mount() {
        return;
    }
    let builder = Server::build();
    let Some(_shelf) = Shelf::mount(builder.root(), Abilities::ALL.without_locks()) else {
        return;
    };
    let server = builder.start();
    let (ones, others) = (noise(300_000), noise(200_000));
    let (mut one, mut other) = (server.client(), server.client());
    let mut first = one.begin_upload("STOR file", &ones[..150_000]);
    eventually("it has arrived", || in_partials(&server) == 150_000);
    let second = other.begin_upload("STOR file", &others);
    eventually("it has arrived", || in_partials(&server) == 350_000);
    assert_eq!(partials(&server).len(), 2);
    let mut third = server.client();
    third.upload("APPE file", b"tail").expect(450);
    drop(second);
    other.reply().expect(226);
    assert_same_bytes(&server.read("file"), &others);
    first.write_all(&ones[150_000..]).unwrap();
    drop(first);
    one.reply().expect(226);
    assert_same_bytes(&server.read("file"), &ones);
    assert_eq!(partials(&server), []);
}

#[test]
fn what_was_cut_off_outlives_a_server_that_is_killed_in_any_flush() {
    if !may_mount() {
        return;
    }
    let contents = noise(400_000);
    let attempt = |kind: &str, server: &Server, gate: &shelf::Gate| {
        for name in ["old", "new"] {
            eprintln!("{name} on {kind}");
            if name == "old" {
                server.client().stor(name, b"old contents");
            }
            // Those of the upload, and those of taking the name back.
            for flushes in 0..3 {
                let server = server.restart();
                let mut client = server.client();
                // What is found out once of a disk takes flushes, too.
                client.stor("first", b"");
                gate.close();
                drop(client.begin_upload(format!("STOR {name}"), &contents[..300_000]));
                gate.wait();
                drop(client);
                for _ in 0..flushes {
                    gate.pass();
                    let ended = || server.log_text().contains("control connection lost");
                    eventually("the next flush, or the end", || {
                        gate.is_reached() || ended()
                    });
                }
                server.signal(Signal::SIGKILL);
                gate.open();
                server.wait();
                let server = server.restart();
                let mut client = server.client();
                let had = match name {
                    "old" => b"old contents".to_vec(),
                    _ => Vec::new(),
                };
                let mut has = fs::read(server.path(name)).unwrap_or_default();
                if name == "old" && has != had {
                    server.wait_for_log("old has its name back");
                    has = fs::read(server.path(name)).unwrap();
                }
                if has == contents[..300_000] {
                    // The name came first: all that was sent is there, and nobody was told.
                    fs::remove_file(server.path(name)).unwrap();
                    match name {
                        "old" => client.stor(name, b"old contents"),
                        _ => drop(client.expect(format!("SIZE {name}"), 550)),
                    }
                    continue;
                }
                assert!(has == had, "{name} on {kind} behind {flushes}");
                rest(&mut client, name, 300_001, &contents).expect(554);
                rest(&mut client, name, 300_000, &contents).expect(226);
                assert_same_bytes(&server.read(name), &contents);
                fs::remove_file(server.path(name)).unwrap();
                if name == "old" {
                    client.stor(name, b"old contents");
                }
            }
        }
    };
    for (kind, mkfs, size) in DISKS {
        let builder = Server::build();
        if let Some(disk) = Gated::mount(kind, mkfs, size, builder.root()) {
            let server = builder.start();
            attempt(kind, &server, disk.gate());
        }
    }
    let builder = Server::build();
    if let Some(disk) = Shelf::mount(builder.root(), Abilities::ALL) {
        let server = builder.start();
        attempt("FUSE", &server, &disk.gate);
    }
}
