//! Real clients against the real server: what people have on their machines must work, whatever the names of the files.

mod common;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::{
    PASSWORD, Server, USER, assert_same_bytes, assert_same_trees, lftp, noise, rclone, run_client,
    the_program,
};

fn program(server: &Server, name: &str, arguments: &[&str]) -> common::Finished {
    let mut command = the_program(name, server.home());
    command.args(arguments).current_dir(server.home());
    run_client(&mut command, 90)
}

fn curl(server: &Server, arguments: &[&str]) -> common::Finished {
    let mut all = vec!["-sS", "--max-time", "60"];
    all.extend(arguments);
    program(server, "curl", &all)
}

/// Names that break careless programs, each with contents of its own.
fn awkward_tree(top: &Path) {
    fs::create_dir_all(top.join("dir with spaces/deep")).unwrap();
    for (number, name) in [
        "plain",
        "two  spaces",
        "quo\"te",
        "apo'strophe",
        "-leading",
        "st*r",
        "what?",
        "[set]",
        "{brace}",
        "grün-写",
        "semi;colon",
        "per%20cent",
        "hash#",
        "back\\slash",
        ".hidden",
        "dir with spaces/deep/file",
        "dollar$HOME",
    ]
    .iter()
    .enumerate()
    {
        fs::write(top.join(name), noise(number * 1000)).unwrap();
    }
    fs::write(top.join("x".repeat(255)), "long").unwrap();
    fs::write(top.join("empty"), "").unwrap();
}

// ---- curl

#[test]
fn curl_uploads_and_downloads_in_every_way_of_connecting() {
    let server = Server::start();
    let file = server.directory("local").join("file");
    fs::write(&file, noise(3_000_000)).unwrap();
    let file = file.to_str().unwrap();
    let modes: [&[&str]; 5] = [
        &[],
        &["--disable-epsv"],
        &["-P", "-"],
        &["-P", "-", "--disable-eprt"],
        &["--ftp-method", "nocwd"],
    ];
    for (number, mode) in modes.iter().enumerate() {
        let url = server.url(&format!("made/here/file{number}"));
        curl(
            &server,
            &[mode, &["--ftp-create-dirs", "-T", file, &url][..]].concat(),
        )
        .succeeded();
        assert_same_bytes(
            &server.read(format!("made/here/file{number}")),
            &noise(3_000_000),
        );
        let back = curl(&server, &[mode, &[url.as_str()][..]].concat()).succeeded();
        assert_same_bytes(&back.stdout, &noise(3_000_000));
    }
}

#[test]
fn curl_resumes_both_ways_appends_and_takes_ranges() {
    let server = Server::start();
    let whole = noise(500_000);
    let local = server.directory("local").join("file");
    fs::write(&local, &whole).unwrap();
    server.write("file", &whole[..200_000]);
    let path = local.to_str().unwrap().to_owned();
    curl(&server, &["-C", "-", "-T", &path, &server.url("file")]).succeeded();
    assert_same_bytes(&server.read("file"), &whole);
    fs::write(&local, &whole[..123_456]).unwrap();
    curl(&server, &["-C", "-", "-o", &path, &server.url("file")]).succeeded();
    assert_same_bytes(&fs::read(&local).unwrap(), &whole);
    fs::write(&local, "tail").unwrap();
    curl(&server, &["--append", "-T", &path, &server.url("file")]).succeeded();
    assert_same_bytes(&server.read("file"), &[whole.as_slice(), b"tail"].concat());
    let range = curl(&server, &["-r", "1000-1999", &server.url("file")]).succeeded();
    assert_same_bytes(&range.stdout, &whole[1000..2000]);
    let from = curl(&server, &["-r", "499990-", &server.url("file")]).succeeded();
    assert_same_bytes(&from.stdout, &[&whole[499_990..], b"tail"].concat());
}

#[test]
fn curl_quotes_commands_lists_and_hears_a_wrong_password() {
    let server = Server::start();
    server.write("old", "x");
    server.write("sub/inner", "x");
    curl(
        &server,
        &[
            "-Q",
            "RNFR old",
            "-Q",
            "RNTO new",
            "-Q",
            "-DELE sub/inner",
            &server.url(""),
        ],
    )
    .succeeded();
    assert!(server.exists("new") && !server.exists("old") && !server.exists("sub/inner"));
    let names = curl(&server, &["-l", &server.url("")]).succeeded().text();
    assert_eq!(names, "new\nsub\n");
    let url = format!("ftp://{USER}:wrong@{}/", server.address());
    let wrong = curl(&server, &[&url]).failed();
    assert!(
        wrong.stderr.contains("Access denied: 530"),
        "{}",
        wrong.stderr
    );
    let missing = curl(&server, &[&server.url("nowhere")]).failed();
    assert_eq!(missing.status.code(), Some(78), "{}", missing.stderr);
}

#[test]
fn curl_resumes_beyond_four_gibibytes() {
    let server = Server::start();
    let size = 5 << 30;
    let mut file = File::create(server.path("sparse")).unwrap();
    file.set_len(size).unwrap();
    file.seek(SeekFrom::End(-4)).unwrap();
    file.write_all(b"tail").unwrap();
    let local = server.directory("local").join("sparse");
    File::create(&local).unwrap().set_len(size - 1000).unwrap();
    curl(
        &server,
        &[
            "-C",
            "-",
            "-o",
            local.to_str().unwrap(),
            &server.url("sparse"),
        ],
    )
    .succeeded();
    let mut got = File::open(&local).unwrap();
    assert_eq!(got.metadata().unwrap().len(), size);
    got.seek(SeekFrom::End(-4)).unwrap();
    let mut tail = String::new();
    got.read_to_string(&mut tail).unwrap();
    assert_eq!(tail, "tail");
    // And up: the server's copy lacks its last bytes.
    file.set_len(size - 500).unwrap();
    curl(
        &server,
        &[
            "-C",
            "-",
            "-T",
            local.to_str().unwrap(),
            &server.url("sparse"),
        ],
    )
    .succeeded();
    file.seek(SeekFrom::Start(size - 4)).unwrap();
    assert_eq!(fs::metadata(server.path("sparse")).unwrap().len(), size);
}

// ---- lftp

#[test]
fn lftp_mirrors_awkward_names_both_ways() {
    let server = Server::start();
    let local = server.directory("local");
    awkward_tree(&local);
    let back = server.directory("back");
    let (from, to) = (local.to_str().unwrap(), back.to_str().unwrap());
    lftp(
        &server,
        &format!("mirror -R --parallel=4 {from} up; mirror --parallel=4 up {to}"),
    )
    .succeeded();
    assert_same_trees(&local, &server.path("up"));
    assert_same_trees(&local, &back);
    lftp(&server, "set ftp:passive-mode off; cls up").succeeded();
    lftp(
        &server,
        &format!("set ftp:use-mlsd on; rm -r up; mirror -R {from} again; mirror -e again {to}"),
    )
    .succeeded();
    assert_same_trees(&local, &server.path("again"));
}

#[test]
fn lftp_resumes_splits_renames_and_changes_modes() {
    let server = Server::start();
    let whole = noise(2_000_000);
    let local = server.directory("local");
    let file = local.join("file");
    fs::write(&file, &whole).unwrap();
    server.write("file", &whole[..700_000]);
    let (path, dir) = (file.to_str().unwrap(), local.to_str().unwrap());
    lftp(
        &server,
        &format!("put -c {path}; pget -n 4 file -o {dir}/split; chmod 600 file; mv file moved"),
    )
    .succeeded();
    assert_same_bytes(&server.read("moved"), &whole);
    assert_same_bytes(&fs::read(local.join("split")).unwrap(), &whole);
    assert_eq!(
        fs::metadata(server.path("moved"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o600
    );
    fs::write(local.join("part"), &whole[..100_001]).unwrap();
    lftp(&server, &format!("reget moved -o {dir}/part")).succeeded();
    assert_same_bytes(&fs::read(local.join("part")).unwrap(), &whole);
    for name in ["a.jpg", "b.jpg", "c.txt"] {
        server.write(name, name);
    }
    lftp(
        &server,
        &format!("mget -O {dir} *.jpg; mrm *.jpg; mkdir -p x/y; rm -r x"),
    )
    .succeeded();
    assert!(
        local.join("a.jpg").exists()
            && local.join("b.jpg").exists()
            && !local.join("c.txt").exists()
    );
    assert!(!server.exists("a.jpg") && server.exists("c.txt") && !server.exists("x"));
}

#[test]
fn lftp_brings_home_thousands_of_files_and_a_deep_tree() {
    let server = Server::start();
    for number in 0..5000 {
        server.write(format!("many/file{number}"), number.to_string());
    }
    let mut deep = "deep".to_owned();
    for level in 0..50 {
        deep = format!("{deep}/level{level}");
    }
    server.write(format!("{deep}/bottom"), "here");
    let back = server.directory("back");
    lftp(
        &server,
        &format!("mirror --parallel=2 / {}", back.display()),
    )
    .succeeded();
    assert_same_trees(&server.path(""), &back);
}

// ---- others

#[test]
fn wget_mirrors_and_continues() {
    let server = Server::start();
    server.write("sub/dir with space/file", noise(10_000));
    server.write("sub/big", noise(1_000_000));
    let back = server.directory("back");
    let to = back.to_str().unwrap();
    program(
        &server,
        "wget",
        &["-q", "-m", "-nH", "-P", to, &server.url("sub/")],
    )
    .succeeded();
    assert_same_bytes(
        &fs::read(back.join("sub/dir with space/file")).unwrap(),
        &noise(10_000),
    );
    let part = back.join("sub/big");
    assert_same_bytes(&fs::read(&part).unwrap(), &noise(1_000_000));
    fs::write(&part, &noise(1_000_000)[..300_000]).unwrap();
    let part_dir = part.parent().unwrap().to_str().unwrap();
    program(
        &server,
        "wget",
        &["-q", "-c", "-P", part_dir, &server.url("sub/big")],
    )
    .succeeded();
    assert_same_bytes(&fs::read(&part).unwrap(), &noise(1_000_000));
}

#[test]
fn ncftp_moves_whole_trees() {
    let server = Server::start();
    let local = server.directory("local");
    fs::create_dir_all(local.join("tree/sub dir")).unwrap();
    fs::write(local.join("tree/sub dir/file"), noise(50_000)).unwrap();
    fs::write(local.join("tree/-dash"), "x").unwrap();
    let port = server.port().to_string();
    let login = ["-u", USER, "-p", PASSWORD, "-P", &port];
    let tree = local.join("tree");
    let put = [
        &["-R"],
        &login[..],
        &["127.0.0.1", "/", tree.to_str().unwrap()],
    ]
    .concat();
    program(&server, "ncftpput", &put).succeeded();
    assert_same_trees(&tree, &server.path("tree"));
    let back = server.directory("back");
    let get = [
        &["-R"],
        &login[..],
        &["127.0.0.1", back.to_str().unwrap(), "/tree"],
    ]
    .concat();
    program(&server, "ncftpget", &get).succeeded();
    assert_same_trees(&tree, &back.join("tree"));
    let tree_url = format!("ftp://127.0.0.1:{port}/tree/");
    let ls = [&login[..], &[tree_url.as_str()]].concat();
    let listed = program(&server, "ncftpls", &ls).succeeded().text();
    assert!(
        listed.contains("-dash") && listed.contains("sub dir"),
        "{listed}"
    );
}

#[test]
fn tnftp_uploads_and_downloads() {
    let server = Server::start();
    let local = server.directory("local");
    fs::write(local.join("up"), noise(40_000)).unwrap();
    let up = local.join("up");
    program(
        &server,
        "tnftp",
        &["-u", &server.url("file"), up.to_str().unwrap()],
    )
    .succeeded();
    assert_same_bytes(&server.read("file"), &noise(40_000));
    let back = local.join("down");
    program(
        &server,
        "tnftp",
        &["-o", back.to_str().unwrap(), &server.url("file")],
    )
    .succeeded();
    assert_same_bytes(&fs::read(back).unwrap(), &noise(40_000));
}

#[test]
fn rclone_copies_syncs_checks_and_moves() {
    let server = Server::start();
    let local = server.directory("local");
    awkward_tree(&local);
    let from = local.to_str().unwrap();
    rclone(&server, &["copy", from, ":ftp:up"]).succeeded();
    assert_same_trees(&local, &server.path("up"));
    rclone(&server, &["check", "--download", from, ":ftp:up"]).succeeded();
    fs::remove_file(local.join("plain")).unwrap();
    fs::write(local.join("new"), "new").unwrap();
    rclone(&server, &["sync", from, ":ftp:up"]).succeeded();
    assert_same_trees(&local, &server.path("up"));
    let back = server.directory("back");
    rclone(&server, &["move", ":ftp:up", back.to_str().unwrap()]).succeeded();
    assert_same_trees(&local, &back);
    assert!(!server.exists("up/new"));
}

#[test]
fn python_ftplib_does_all_it_can() {
    let server = Server::start();
    server.write("dir/one", "1");
    let script = r#"
import ftplib, io, sys
host, port, user, password = sys.argv[1:]
for passive in (True, False):
    f = ftplib.FTP(); f.encoding = 'latin-1'
    f.connect(host, int(port), 20); f.login(user, password); f.set_pasv(passive)
    data = bytes(range(256)) * 4000
    f.storbinary('STOR bin', io.BytesIO(data))
    out = io.BytesIO(); f.retrbinary('RETR bin', out.write); assert out.getvalue() == data
    out = io.BytesIO(); f.retrbinary('RETR bin', out.write, rest=1000); assert out.getvalue() == data[1000:]
    f.storlines('STOR text', io.BytesIO(b'a\nb\nc\n'))
    lines = []; f.retrlines('RETR text', lines.append); assert lines == ['a', 'b', 'c'], lines
    f.voidcmd('TYPE I')
    assert f.size('bin') == len(data)
    facts = dict(f.mlsd('dir')); assert facts['one']['type'] == 'file' and facts['one']['size'] == '1', facts
    assert f.nlst('dir') == ['dir/one'], f.nlst('dir')
    raw = 'b\xe9\xff\xfe'
    f.storbinary('STOR ' + raw.replace('\xff', '\xff\xff'), io.BytesIO(b'raw'))
    assert raw in f.nlst(), f.nlst()
    f.mkd('q"d'); f.cwd('q"d'); assert f.pwd() == '/q"d', f.pwd(); f.cwd('..'); f.rmd('q"d')
    f.rename('text', 'text2'); f.delete('text2'); f.delete('bin')
    f.quit()
print('done')
"#;
    let address = server.address();
    let mut python = the_program("python3", server.home());
    python.args([
        "-c",
        script,
        "127.0.0.1",
        &address.port().to_string(),
        USER,
        PASSWORD,
    ]);
    assert_eq!(run_client(&mut python, 60).succeeded().text(), "done\n");
    assert!(server.exists(OsStr::from_bytes(b"b\xe9\xff\xfe")));
}

#[test]
fn suppaftp_speaks_with_it() {
    let server = Server::start();
    let mut ftp = suppaftp::FtpStream::connect(server.address()).unwrap();
    ftp.login(USER, PASSWORD).unwrap();
    ftp.transfer_type(suppaftp::types::FileType::Binary)
        .unwrap();
    ftp.mkdir("made").unwrap();
    ftp.cwd("made").unwrap();
    assert_eq!(ftp.pwd().unwrap(), "/made");
    assert_eq!(
        ftp.put_file("file", &mut noise(100_000).as_slice())
            .unwrap(),
        100_000
    );
    assert_same_bytes(
        ftp.retr_as_buffer("file").unwrap().get_ref(),
        &noise(100_000),
    );
    assert_eq!(ftp.size("file").unwrap(), 100_000);
    ftp.mdtm("file").unwrap();
    assert_eq!(ftp.nlst(None).unwrap(), ["file"]);
    let listed: suppaftp::list::File = ftp.list(None).unwrap()[0].parse().unwrap();
    assert_eq!((listed.name(), listed.size()), ("file", 100_000));
    ftp.rename("file", "renamed").unwrap();
    ftp.resume_transfer(99_990).unwrap();
    let tail = ftp.retr_as_buffer("renamed").unwrap();
    assert_same_bytes(tail.get_ref(), &noise(100_000)[99_990..]);
    ftp.rm("renamed").unwrap();
    ftp.cdup().unwrap();
    ftp.rmdir("made").unwrap();
    ftp.quit().unwrap();
}
