//! What an upload promises: the old file until the new one is whole, and what was cut off can be continued.

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use common::{Server, assert_same_bytes, eventually, noise, run_client, the_program, told};

/// Hidden names in the served directory.
fn hidden(server: &Server) -> Vec<String> {
    let names = fs::read_dir(server.path("")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".partial")).collect()
}

#[test]
fn the_old_file_stays_whole_and_readable_until_the_new_one_is() {
    let server = Server::start();
    let old = noise(300_000);
    server.write("file", &old);
    fs::set_permissions(server.path("file"), fs::Permissions::from_mode(0o640)).unwrap();
    let mut writer = server.client();
    let mut reader = server.client();
    let mut data = writer.epsv();
    writer.expect("STOR file", 150);
    data.write_all(&noise(1_000_000)).unwrap();
    eventually("bytes arrive beside it", || hidden(&server).len() == 1);
    assert_same_bytes(&reader.retr("file"), &old);
    reader.expect("SIZE file", 213).says("300000");
    drop(data);
    writer
        .reply()
        .expect(226)
        .says("stored and synced")
        .says("1000000");
    assert_same_bytes(&reader.retr("file"), &noise(1_000_000));
    assert_eq!(hidden(&server), [""; 0]);
    let mode = fs::metadata(server.path("file"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o640, "the mode is that of the old file");
}

#[test]
fn whatever_cuts_an_upload_off_leaves_the_old_file_as_it_was() {
    let server = Server::build()
        .configuration("[timeouts]\nstalled = \"1s\"\n")
        .with_flag_user()
        .start();
    server.write("file", "the old one");
    let mut client = server.client();
    client.cut_off_upload("STOR file", &noise(50_000));
    // ABOR.
    let mut data = client.epsv();
    client.expect("STOR file", 150);
    data.write_all(b"new").unwrap();
    client.send("ABOR");
    client.reply().expect(426);
    client.reply().expect(226);
    // Silence.
    let mut data = client.epsv();
    client.expect("STOR file", 150);
    data.write_all(b"new").unwrap();
    client.reply().expect(426);
    // The control connection.
    let mut lost = server.client();
    let mut data = lost.epsv();
    lost.expect("STOR file", 150);
    data.write_all(b"new").unwrap();
    lost.reset();
    server.wait_for_log("control connection lost");
    assert_eq!(server.read("file"), b"the old one");
    assert_eq!(client.retr("file"), b"the old one");
}

#[test]
fn what_was_cut_off_is_reported_and_continued() {
    let server = Server::start();
    let contents = noise(200_000);
    let mut client = server.client();
    client.cut_off_upload("STOR file", &contents[..80_000]);
    assert!(!server.exists("file"));
    let end = told(80_000).to_string();
    client.expect("SIZE file", 213).says(&end);
    client.expect("MDTM file", 213);
    client
        .expect("MLST file", 250)
        .says(&format!("size={end};"));
    client.download("RETR file").1.expect(550);
    for list in ["LIST", "LIST -a", "NLST", "MLSD", "NLST .*"] {
        let (bytes, reply) = client.download(list);
        reply.expect_one_of(&[226, 550]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(
            !text.contains("file") && !text.contains("partial"),
            "{list}: {text}"
        );
    }
    client.expect("REST 80001", 350);
    client.upload("STOR file", b"x").expect(554);
    client.expect("REST 80000", 350);
    client.cut_off_upload("STOR file", &contents[80_000..120_000]);
    let end = told(120_000);
    client.expect("SIZE file", 213).says(&end.to_string());
    client.upload("APPE file", &contents[end..]).expect(226);
    assert_same_bytes(&server.read("file"), &contents);
    assert_eq!(hidden(&server), [""; 0]);
    // A fresh STOR starts over.
    client.cut_off_upload("STOR other", &contents);
    client.stor("other", b"fresh");
    assert_eq!(server.read("other"), b"fresh");
    assert_eq!(hidden(&server), [""; 0]);
}

#[test]
fn curl_and_lftp_continue_what_was_cut_off() {
    let server = Server::start();
    let contents = noise(500_000);
    let local = server.home().join("local");
    fs::write(&local, &contents).unwrap();
    let local = local.to_str().unwrap();
    let mut client = server.client();
    client.cut_off_upload("STOR file", &contents[..200_000]);
    let mut curl = the_program("curl", server.home());
    curl.args(["-sS", "-C", "-", "-T", local, &server.url("file")]);
    run_client(&mut curl, 30).succeeded();
    assert_same_bytes(&server.read("file"), &contents);
    client.cut_off_upload("STOR again", &contents[..300_000]);
    let script = format!(
        "set ftp:ssl-allow no; open -u t,pw ftp://{}; put -c {local} -o again",
        server.address()
    );
    let mut lftp = the_program("lftp", server.home());
    run_client(lftp.args(["-c", &script]), 30).succeeded();
    assert_same_bytes(&server.read("again"), &contents);
    server.wait_for_log(" 200000 bytes");
}

#[test]
fn a_finished_file_is_continued_in_place_and_never_with_a_hole() {
    let server = Server::start();
    let mut client = server.client();
    client.stor("file", b"0123456789");
    client.expect("REST 4", 350);
    client.upload("STOR file", b"xy").expect(226);
    assert_eq!(server.read("file"), b"0123xy");
    client.upload("APPE file", b"z").expect(226);
    assert_eq!(server.read("file"), b"0123xyz");
    client.expect("REST 8", 350);
    client.upload("STOR file", b"x").expect(554);
    assert_eq!(server.read("file"), b"0123xyz");
}

#[test]
fn two_sessions_at_one_name_do_not_mix_and_the_last_one_wins_whole() {
    let server = Server::start();
    let (mut first, mut second) = (server.client(), server.client());
    let (a, b) = (noise(400_000), noise(400_001));
    let mut data_a = first.epsv();
    first.expect("STOR file", 150);
    let mut data_b = second.epsv();
    second.expect("STOR file", 150);
    for (part_a, part_b) in a.chunks(50_000).zip(b.chunks(50_001)) {
        data_a.write_all(part_a).unwrap();
        data_b.write_all(part_b).unwrap();
    }
    assert_eq!(hidden(&server).len(), 2);
    drop(data_b);
    second.reply().expect(226);
    assert_eq!(server.read("file").len(), 8 * 50_001 - 7);
    drop(data_a);
    first.reply().expect(226);
    assert_same_bytes(&server.read("file"), &a);
    assert_eq!(hidden(&server), [""; 0]);
}

#[test]
fn unfinished_files_cannot_be_named_and_are_in_nobodys_way() {
    let server = Server::start();
    let mut client = server.client();
    client.expect("MKD dir", 257);
    let long = "n".repeat(255);
    client.cut_off_upload(format!("STOR {long}"), &noise(5000));
    client.cut_off_upload("STOR dir/file", b"half");
    let name = hidden(&server).pop().unwrap();
    assert!(name.starts_with(".thriftpd-nnn") && name.ends_with(".partial"));
    for command in ["RETR", "STOR", "SIZE", "DELE", "RNFR", "MLST", "CWD"] {
        client.epsv();
        client
            .expect(format!("{command} {name}"), 553)
            .says("kept for the server's own files");
    }
    client.expect(format!("SIZE {long}"), 213).says("4096");
    client.expect(format!("DELE {long}"), 250);
    assert_eq!(hidden(&server), [""; 0]);
    client.expect("DELE nothing", 550);
    client.expect("RMD dir", 250);
    // What is under way is not taken away.
    client.expect("MKD dir", 257);
    let mut other = server.client();
    let mut data = other.epsv();
    other.expect("STOR dir/file", 150);
    data.write_all(b"whole").unwrap();
    eventually("it has begun", || {
        fs::read_dir(server.path("dir")).unwrap().count() == 1
    });
    client.expect("RMD dir", 550);
    client.expect("DELE dir/file", 550);
    drop(data);
    other.reply().expect(226);
    assert_eq!(server.read("dir/file"), b"whole");
}

#[test]
fn nothing_is_left_of_an_upload_that_never_began() {
    let server = Server::build()
        .configuration("[timeouts]\ndata_connect = \"1s\"\n")
        .with_flag_user()
        .start();
    let mut client = server.client();
    client.expect("EPSV", 229);
    client.expect("STOR file", 150);
    client.reply().expect(425);
    assert_eq!(hidden(&server), [""; 0]);
    client.expect("SIZE file", 550);
}

#[test]
fn a_name_that_appears_meanwhile_is_not_replaced_by_who_may_not_overwrite() {
    let server = Server::build()
        .configuration("[anonymous]\nroot = \"{root}\"\naccess = \"add-only\"\n")
        .start();
    let connect = || {
        let mut client = server.connect();
        client.login_as("ftp", "x").expect(230);
        client.expect("TYPE I", 200);
        client
    };
    let (mut first, mut second) = (connect(), connect());
    let mut data = first.epsv();
    first.expect("STOR file", 150);
    data.write_all(b"first").unwrap();
    second.upload("STOR file", b"second").expect(226);
    drop(data);
    first.reply().expect(550);
    assert_eq!(server.read("file"), b"second");
    second.upload("STOR file", b"third").expect(550);
}

#[test]
fn a_link_stays_a_link_and_what_it_leads_to_is_written() {
    let server = Server::start();
    server.write("target", "old");
    symlink("target", server.path("link")).unwrap();
    server.client().stor("link", b"new");
    assert_eq!(server.read("target"), b"new");
    assert!(
        fs::symlink_metadata(server.path("link"))
            .unwrap()
            .is_symlink()
    );
}

#[test]
fn uploads_may_be_made_in_place_where_so_configured() {
    let server = Server::build()
        .configuration(
            "durable = false\nuploads = \"direct\"\n[anonymous]\nroot = \"{root}\"\naccess = \"read-write\"\n",
        )
        .start();
    server.write("file", "the old one");
    let mut client = server.connect();
    client.login_as("ftp", "x").expect(230);
    client.expect("TYPE I", 200);
    let mut data = client.epsv();
    client.expect("STOR file", 150);
    data.write_all(b"new").unwrap();
    eventually("it grows in place", || server.read("file") == b"new");
    assert_eq!(hidden(&server), [""; 0]);
    drop(data);
    client.reply().expect(226).says("Stored: 3 bytes");
}

#[test]
fn what_nobody_continues_is_told_by_check_and_removed_after_a_while() {
    let server = Server::start();
    let root = server.path("");
    let mut client = server.client();
    client.expect("MKD dir", 257);
    client.cut_off_upload("STOR dir/old", b"half");
    client.cut_off_upload("STOR new", &noise(5000));
    let old = fs::read_dir(server.path("dir")).unwrap().next().unwrap();
    let old = old.unwrap().path();
    let then = std::time::SystemTime::now() - Duration::from_secs(8 * 24 * 3600);
    fs::File::open(&old).unwrap().set_modified(then).unwrap();
    let config = server.home().join("check.toml");
    let root_text = root.to_str().unwrap();
    fs::write(&config, format!("[anonymous]\nroot = \"{root_text}\"\n")).unwrap();
    let mut check = std::process::Command::new(env!("CARGO_BIN_EXE_thriftpd"));
    let told = check
        .args(["check", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(
        told.contains("unfinished uploads in") && told.contains(": 2 of 5004 bytes"),
        "{told}"
    );
    // A clock that is believed at once.
    let again = Server::build()
        .environment("THRIFTPD_TEST_CLOCK", "0")
        .serving(&root)
        .start();
    again.wait_for_log("removed 1 unfinished uploads of 4 bytes (setting: keep_partial)");
    assert!(!old.exists());
    again.client().expect("SIZE new", 213).says("4096");
}
