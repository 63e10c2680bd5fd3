//! Servers that are killed and clients that come to nothing, in the middle of things: what was acknowledged is there, what was
//! not can be continued, and contents never mix.

mod common;

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::Duration;

use common::{Client, Server, assert_same_bytes, eventually, noise, reset, told};
use nix::sys::signal::Signal;

/// Uploads at once.
const MANY: usize = 20;

/// Partial files below a directory of the host.
fn partials(top: &Path) -> Vec<String> {
    let names = common::tree(top).into_keys();
    let names = names.map(|path| path.to_str().unwrap().to_owned());
    names.filter(|name| name.ends_with(".partial")).collect()
}

fn name_of(number: usize) -> String {
    format!("f{number}")
}

/// Whether a target has an old version while it is uploaded.
fn has_old(number: usize) -> bool {
    number % 3 == 0
}

/// How much of an upload has arrived, by SIZE.
fn arrived(client: &mut Client, name: &str) -> usize {
    let size = client.command(format!("SIZE {name}"));
    match size.code {
        213 => String::from_utf8_lossy(size.last()).parse().unwrap(),
        // Not a byte of it.
        _ => 0,
    }
}

/// Sends the rest of an upload that was cut off.
fn resume(client: &mut Client, name: &str, contents: &[u8]) {
    let from = arrived(client, name);
    assert!(from <= contents.len(), "{name}: {from} bytes have arrived");
    client.expect(format!("REST {from}"), 350);
    client
        .upload(format!("STOR {name}"), &contents[from..])
        .expect(226);
}

/// Sends until somebody ends it; whether all was acknowledged.
fn store_until_the_end(
    client: &mut Client,
    name: &str,
    contents: &[u8],
    under_way: &Barrier,
) -> bool {
    let mut data = client.epsv();
    client.expect(format!("STOR {name}"), 150);
    let (first, rest) = contents.split_at(contents.len() / 20);
    let mut sent = data.write_all(first).is_ok();
    under_way.wait();
    for part in rest.chunks(50_000) {
        sent = sent && data.write_all(part).is_ok();
    }
    drop(data);
    sent && client.reply_or_end().is_some_and(|reply| reply.code == 226)
}

#[test]
fn twenty_uploads_under_way_survive_the_death_of_the_server() {
    let server = Server::start();
    let root = server.path("");
    let contents: Vec<Vec<u8>> = (0..MANY).map(|number| noise(6_000_000 + number)).collect();
    for number in (0..MANY).filter(|&number| has_old(number)) {
        server.write(name_of(number), noise(1000 + number));
    }
    let under_way = Barrier::new(MANY + 1);
    let acknowledged: Vec<bool> = std::thread::scope(|scope| {
        let uploads: Vec<_> = contents
            .iter()
            .enumerate()
            .map(|(number, contents)| {
                let mut client = server.client();
                let under_way = &under_way;
                scope.spawn(move || {
                    store_until_the_end(&mut client, &name_of(number), contents, under_way)
                })
            })
            .collect();
        under_way.wait();
        server.signal(Signal::SIGKILL);
        uploads
            .into_iter()
            .map(|upload| upload.join().unwrap())
            .collect()
    });
    server.wait();
    assert!(acknowledged.contains(&false), "they were under way");
    for (number, contents) in contents.iter().enumerate() {
        match (server.exists(name_of(number)), acknowledged[number]) {
            (there, true) => assert!(there && server.read(name_of(number)) == *contents),
            // The last word may have been lost with the server.
            (true, false) => {
                let found = server.read(name_of(number));
                let is_old = has_old(number) && found == noise(1000 + number);
                assert!(is_old || found == *contents, "{number}");
            }
            (false, false) => assert!(!has_old(number), "{number}: the old file is gone"),
        }
    }
    let again = Server::build().serving(&root).start();
    let mut client = again.client();
    for (number, contents) in contents.iter().enumerate() {
        let name = name_of(number);
        if has_old(number) {
            client.stor(&name, contents);
        } else {
            resume(&mut client, &name, contents);
        }
        assert_same_bytes(&again.read(&name), contents);
    }
    assert_eq!(partials(&root), [""; 0]);
}

#[test]
fn an_upload_that_is_killed_again_and_again_arrives_in_the_end() {
    let mut server = Server::start();
    let root = server.path("");
    let contents = noise(8_000_000);
    let mut deaths = Vec::new();
    for death in 0..4 {
        let mut client = server.client();
        let from = arrived(&mut client, "file");
        let mut data = client.epsv();
        client.expect(format!("REST {from}"), 350);
        client.expect("STOR file", 150);
        // Each time to where nothing else ends: no page, no sector.
        let to = from + 1_234_567;
        data.write_all(&contents[from..to]).unwrap();
        if death % 2 == 0 {
            let mut other = server.client();
            eventually("it has arrived", || arrived(&mut other, "file") == told(to));
        }
        server.signal(Signal::SIGKILL);
        server.wait();
        drop(data);
        let next = Server::build().serving(&root).start();
        // Its directory is that of the first, which must not go with it.
        deaths.push(std::mem::replace(&mut server, next));
    }
    let mut client = server.client();
    // What was waited for has stayed, but for the block that each time less is told.
    assert!(arrived(&mut client, "file") >= 2 * 1_234_567 - 5 * 4096);
    resume(&mut client, "file", &contents);
    assert_same_bytes(&server.read("file"), &contents);
    assert_eq!(partials(&root), [""; 0]);
}

/// How a client comes to nothing.
#[derive(Clone, Copy, Debug)]
enum End {
    DataReset,
    Stall,
    ControlReset,
    ControlHalfClosed,
    Abort,
}

/// Ends an upload in the middle; the session lives on or not.
fn end_badly(mut client: Client, data: TcpStream, end: End) {
    match end {
        End::DataReset => {
            reset(data);
            client.reply().expect(426);
            client.expect("NOOP", 200);
        }
        End::Stall => {
            client.reply().expect(426);
            client.expect("NOOP", 200);
        }
        End::ControlReset => client.reset(),
        End::ControlHalfClosed => {
            client.end_of_input();
            let reply = client.reply_or_end();
            assert!(reply.is_none_or(|reply| reply.code == 426));
        }
        End::Abort => {
            client.send("ABOR");
            client.reply().expect(426);
            client.reply().expect(226);
        }
    }
}

#[test]
fn what_clients_end_badly_is_continued_to_the_same_contents() {
    let server = Server::build()
        .configuration("[timeouts]\nstalled = \"1s\"\n")
        .with_flag_user()
        .start();
    let ends = [
        End::DataReset,
        End::Stall,
        End::ControlReset,
        End::ControlHalfClosed,
        End::Abort,
    ];
    for (number, end) in ends.into_iter().enumerate() {
        for old in [false, true] {
            let name = format!("file-{number}-{old}");
            if old {
                server.write(&name, "the old one");
            }
            let contents = noise(700_000 + number);
            let mut client = server.client();
            let mut data = client.epsv();
            client.expect(format!("STOR {name}"), 150);
            data.write_all(&contents[..300_001]).unwrap();
            // On its way before the end overtakes it.
            std::thread::sleep(Duration::from_millis(50));
            end_badly(client, data, end);
            eventually("it is logged as not complete", || {
                let log = server.log_text();
                log.lines()
                    .any(|line| line.contains(&name) && !line.ends_with("complete"))
            });
            let mut client = server.client();
            if old {
                assert_eq!(server.read(&name), b"the old one", "{end:?}");
                client.stor(&name, &contents);
            } else {
                assert!(!server.exists(&name), "{end:?}");
                resume(&mut client, &name, &contents);
            }
            assert_same_bytes(&server.read(&name), &contents);
        }
    }
    assert_eq!(partials(&server.path("")), [""; 0]);
}

#[test]
fn a_data_connection_that_is_closed_for_writing_only_has_sent_all() {
    let server = Server::start();
    let contents = noise(2_000_001);
    let mut client = server.client();
    let mut data = client.epsv();
    client.expect("STOR file", 150);
    data.write_all(&contents).unwrap();
    data.shutdown(Shutdown::Write).unwrap();
    client.reply().expect(226);
    assert_same_bytes(&server.read("file"), &contents);
    drop(data);
}

#[test]
fn eight_sessions_at_one_name_replace_it_whole_each_time() {
    const SESSIONS: usize = 8;
    const ROUNDS: usize = 12;
    let server = Server::start();
    // Of different lengths, so that none is another's beginning.
    let versions: Vec<Vec<u8>> = (0..=SESSIONS)
        .map(|number| noise(150_000 + 7001 * number))
        .collect();
    server.write("file", &versions[SESSIONS]);
    let over = AtomicBool::new(false);
    let seen = Mutex::new(std::collections::BTreeSet::new());
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut client = server.client();
            let mut reads = 0;
            while !over.load(Ordering::SeqCst) || reads == 0 {
                let found = client.retr("file");
                let which = versions.iter().position(|version| *version == found);
                let which = which.unwrap_or_else(|| panic!("{} bytes of no version", found.len()));
                seen.lock().unwrap().insert(which);
                reads += 1;
            }
            reads
        });
        let writers: Vec<_> = versions[..SESSIONS]
            .iter()
            .map(|version| {
                let mut client = server.client();
                scope.spawn(move || {
                    for _ in 0..ROUNDS {
                        client.stor("file", version);
                    }
                })
            })
            .collect();
        let ended: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        over.store(true, Ordering::SeqCst);
        let reads = reader.join().unwrap();
        assert!(ended.iter().all(Result::is_ok));
        println!("{reads} reads, versions seen: {:?}", seen.lock().unwrap());
    });
    let last = server.read("file");
    assert!(
        versions[..SESSIONS].contains(&last),
        "the last one is whole"
    );
    assert_eq!(partials(&server.path("")), [""; 0]);
}

/// As when the server is killed between the exchange of the two files and the look whether the client is still there.
#[test]
fn a_file_that_was_being_replaced_has_its_name_back_after_a_kill() {
    let server = Server::start();
    let old = noise(300_000);
    server.client().stor("file", &old);
    let mut client = server.client();
    let upload = client.begin_upload("STOR file", &noise(70_000));
    let partial = || {
        let names = std::fs::read_dir(server.path("")).unwrap().flatten();
        let mut names = names.map(|entry| entry.path());
        names.find(|path| path.to_string_lossy().ends_with(".partial"))
    };
    eventually("the upload is under way", || {
        partial().is_some_and(|path| path.metadata().is_ok_and(|facts| facts.len() == 70_000))
    });
    server.signal(Signal::SIGKILL);
    server.wait();
    drop((client, upload));
    let partial = partial().unwrap();
    let name = partial.to_str().unwrap().strip_suffix(".partial").unwrap();
    let aside = std::path::PathBuf::from(format!("{name}-4711-0.partial"));
    let file = server.path("file");
    std::fs::rename(&file, &aside).unwrap();
    std::fs::rename(&partial, &file).unwrap();
    if !attributes_are_kept(&file) {
        common::skip("the file system keeps no attributes, or there is no getfattr");
        return;
    }
    let server = server.restart();
    server.wait_for_log("file has its name back");
    assert_same_bytes(&server.read("file"), &old);
    assert_eq!(
        partial.metadata().unwrap().len(),
        70_000,
        "it can be continued"
    );
    server.client().stor("file", &noise(10));
}

fn attributes_are_kept(file: &std::path::Path) -> bool {
    let mut command = std::process::Command::new("getfattr");
    let output = command
        .args(["-m", "user.thriftpd", "--"])
        .arg(file)
        .output();
    output.is_ok_and(|output| !output.stdout.is_empty())
}
