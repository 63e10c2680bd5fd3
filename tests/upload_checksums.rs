//! Checksums of uploads, computed as the bytes pass, whichever way they come.

mod common;

use std::fs;
use std::io::Write;
use std::process::Command;

use common::secure::{Secure, VERSIONS, client_config};
use common::{Client, Server, eventually, noise, run_client, the_program, told};

fn server(keys: &str) -> Server {
    let keys = format!("checksums = true\nxferlog = \"{{home}}/transfers\"\n{keys}\n");
    Server::build().user("").keys(&keys).start()
}

/// What lies in the file, by the system's own program.
fn sha256sum(server: &Server, name: &str) -> String {
    let mut command = the_program("sha256sum", server.home());
    let text = run_client(command.arg(server.path(name)), 20)
        .succeeded()
        .text();
    text.split(' ').next().unwrap().to_owned()
}

/// Fails unless the file has a stored checksum that holds, which HASH and the log tell.
#[track_caller]
fn is_stored(server: &Server, client: &mut Client, name: &str) {
    let right = sha256sum(server, name);
    let mut command = the_program("getfattr", server.home());
    command.args(["--only-values", "-n", "user.thriftpd.sha256"]);
    let kept = run_client(command.arg(server.path(name)), 20)
        .succeeded()
        .text();
    assert!(kept.starts_with(&right), "{name}: {kept}");
    client.expect(format!("HASH {name}"), 213).says(&right);
    server.wait_for_log(&format!("sha256={right}"));
    eventually("it is in the transfer log", || {
        let log = fs::read_to_string(server.home().join("transfers")).unwrap();
        log.contains(&format!(" sha256={right}\n"))
    });
    let mut verify = Command::new(env!("CARGO_BIN_EXE_thriftpd"));
    verify.arg("verify").arg(server.path(""));
    run_client(&mut verify, 60).succeeded();
}

#[test]
fn every_way_of_storing_leaves_the_checksum_of_the_whole_file() {
    for keys in ["", "uploads = \"direct\"", "durable = false"] {
        let server = server(keys);
        let mut client = server.client();
        for size in [0, 1, 3_000_001] {
            client.stor("file", &noise(size));
            is_stored(&server, &mut client, "file");
        }
        client.upload("APPE file", &noise(700_000)).expect(226);
        is_stored(&server, &mut client, "file");
        client.expect("REST 100", 350);
        client.upload("STOR file", &noise(5)).expect(226);
        is_stored(&server, &mut client, "file");
        client.expect("MFMT 20200101000000 file", 213);
        is_stored(&server, &mut client, "file");
        client.expect("TYPE A", 200);
        client.upload("STOR text", b"two\r\nlines\r\n").expect(226);
        client.expect("TYPE I", 200);
        is_stored(&server, &mut client, "text");
    }
}

#[test]
fn what_was_cut_off_and_continued_has_one_as_well() {
    let server = server("");
    let contents = noise(2_000_000);
    let mut client = server.client();
    let mut data = client.epsv();
    client.expect("STOR file", 150);
    data.write_all(&contents[..1_500_000]).unwrap();
    eventually("it arrives", || {
        let reply = server.client().command("SIZE file");
        reply.code == 213 && reply.text().contains(&told(1_500_000).to_string())
    });
    client.send("ABOR");
    client.reply().expect(426);
    client.reply().expect(226);
    drop(data);
    client.expect("REST 1000000", 350);
    client
        .upload("STOR file", &contents[1_000_000..])
        .expect(226);
    assert_eq!(server.read("file"), contents);
    is_stored(&server, &mut client, "file");
}

#[test]
fn what_continues_large_files_is_heavy_work() {
    for keys in ["uploads = \"atomic\"", "uploads = \"direct\""] {
        let server = server(&format!("heavy_at_once = 1\n{keys}"));
        let (mut first, mut second) = (server.client(), server.client());
        // Read for longer than the test takes; no disk holds it.
        for name in ["endless", "other"] {
            server.write(name, "");
            let file = fs::File::options().write(true).open(server.path(name));
            file.unwrap().set_len(1 << 40).unwrap();
        }
        server.write("small", "abc");
        let _data = first.epsv();
        first.expect("APPE endless", 150);
        let data = second.epsv();
        second.expect("APPE other", 450).says("try again");
        drop(data);
        server.wait_for_log("setting: heavy_at_once");
        second.expect("HASH other", 450);
        second.expect("REST 2000000", 350);
        second.upload("STOR other", b"x").expect(450);
        assert_eq!(fs::metadata(server.path("other")).unwrap().len(), 1 << 40);
        // What has little to be read, or nothing, is not kept waiting.
        second.upload("APPE small", b"def").expect(226);
        second.upload("STOR new", &noise(2_000_000)).expect(226);
        first.send("ABOR");
        first.reply().expect(426);
        first.reply().expect(226);
        second.upload("APPE new", b"x").expect(226);
        // Once it has been read, the transfer itself takes no place.
        let mut slow = first.epsv();
        first.expect("APPE new", 150);
        slow.write_all(b"y").unwrap();
        eventually("it is read", || second.command("XMD5 small").code < 300);
        drop(slow);
        first.reply().expect(226);
    }
}

#[test]
fn an_encrypted_upload_has_one_as_well() {
    let server = Server::build()
        .configuration("checksums = true\n[anonymous]\nroot = \"{root}\"\n")
        .with_flag_user()
        .start();
    let mut secure = Secure::client(&server, client_config(VERSIONS[0]));
    secure.upload("STOR file", &noise(1_000_000)).expect(226);
    assert_eq!(server.read("file"), noise(1_000_000));
    let right = sha256sum(&server, "file");
    server.wait_for_log(&format!("sha256={right}"));
    // The user of the command line has what the file says of all.
    server.client().expect("HASH file", 213).says(&right);
}
