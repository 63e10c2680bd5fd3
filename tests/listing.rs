//! LIST, NLST, STAT with a path (RFC 959 §4.1.3), MLSD and MLST (RFC 3659 §7): complete, well-formed, and true.

mod common;

use common::{Server, eventually};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

/// The value of a fact in a line of MLSD or MLST.
fn fact<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let facts = line.trim_start().split(' ').next().unwrap();
    facts.split(';').find_map(|fact| {
        let (key, value) = fact.split_once('=')?;
        key.eq_ignore_ascii_case(name).then_some(value)
    })
}

/// What follows the facts.
fn name(line: &str) -> &str {
    line.trim_start_matches(' ').split_once(' ').unwrap().1
}

#[track_caller]
fn set_modified(server: &Server, name: &str, when: SystemTime) {
    std::fs::File::options()
        .write(true)
        .open(server.path(name))
        .unwrap()
        .set_modified(when)
        .unwrap();
}

#[test]
fn an_empty_directory_is_an_empty_listing() {
    let server = Server::start();
    let mut client = server.client();
    let lines = client.list("LIST");
    assert!(
        lines.iter().all(|line| line.starts_with("total")),
        "{lines:?}"
    );
    assert!(client.list("NLST").is_empty());
    assert!(
        client
            .list("MLSD")
            .iter()
            .all(|line| !fact(line, "type").unwrap().eq_ignore_ascii_case("file"))
    );
}

#[test]
fn list_shows_mode_size_and_name_as_ls_does() {
    let server = Server::start();
    server.write("file.txt", vec![b'x'; 1234]);
    std::fs::set_permissions(server.path("file.txt"), PermissionsExt::from_mode(0o640)).unwrap();
    std::fs::create_dir(server.path("dir")).unwrap();
    let mut client = server.client();
    let lines = client.list("LIST");
    let file = lines
        .iter()
        .find(|line| line.ends_with(" file.txt"))
        .unwrap();
    let words: Vec<_> = file.split_whitespace().collect();
    assert_eq!(
        (words[0], words[1], words[4], words.len()),
        ("-rw-r-----", "1", "1234", 9),
        "{file}"
    );
    let directory = lines.iter().find(|line| line.ends_with(" dir")).unwrap();
    assert!(directory.starts_with("drwx"), "{directory}");
}

#[test]
fn list_of_one_file_shows_that_file() {
    let server = Server::start();
    server.write("sub/only", "12345");
    let mut client = server.client();
    let lines = client.list("LIST sub/only");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("-rw"), "{lines:?}");
    assert!(lines[0].contains(" 5 "), "{lines:?}");
}

#[test]
fn a_symlink_is_shown_with_its_target() {
    let server = Server::start();
    server.write("real", "x");
    std::os::unix::fs::symlink("real", server.path("link")).unwrap();
    let lines = server.client().list("LIST");
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with('l') && line.ends_with(" link -> real")),
        "{lines:?}"
    );
}

#[test]
fn links_are_listed_whatever_they_lead_to_and_followed_where_facts_are_told() {
    let server = Server::start();
    server.write("dir/file", "12345");
    for (target, link) in [
        ("dir", "to-dir"),
        ("dir/file", "to-file"),
        ("nowhere", "to-nothing"),
    ] {
        std::os::unix::fs::symlink(target, server.path(link)).unwrap();
    }
    let mut client = server.client();
    let names = ["dir", "to-dir", "to-file", "to-nothing"];
    assert_eq!(client.list("NLST"), names);
    let marks = ["dir/", "to-dir@", "to-file@", "to-nothing@"];
    assert_eq!(client.list("NLST -F"), marks);
    let lines = client.list("LIST");
    for target in [
        "to-dir -> dir",
        "to-file -> dir/file",
        "to-nothing -> nowhere",
    ] {
        assert!(
            lines.iter().any(|line| line.ends_with(target)),
            "{target} in {lines:?}"
        );
    }
    // A single name as well.
    assert!(client.list("LIST to-nothing")[0].ends_with("to-nothing -> nowhere"));
    for facts in ["type;size;modify;perm;", "type;", "size;create;"] {
        client.expect(format!("OPTS MLST {facts}"), 200);
        let lines = client.list("MLSD");
        let of = |wanted: &str| lines.iter().find(|line| name(line) == wanted).unwrap();
        if facts.contains("type") {
            let kinds = names.map(|name| fact(of(name), "type").unwrap());
            assert_eq!(kinds, ["dir", "dir", "file", "OS.unix=symlink"], "{facts}");
        }
        let size = facts.contains("size").then_some("5");
        assert_eq!(fact(of("to-file"), "size"), size, "{facts}");
    }
}

#[test]
fn names_of_a_whole_tree_are_listed_without_its_facts() {
    let server = Server::start();
    server.write("a/b/deep", "x");
    server.write("top", "x");
    let lines = server.client().list("NLST -R");
    for name in ["a", "top", "a/b", "a/b/deep"] {
        assert!(lines.iter().any(|line| line == name), "{name} in {lines:?}");
    }
}

#[test]
fn hidden_files_are_shown_by_dash_a() {
    let server = Server::start();
    server.write(".hidden", "x");
    let lines = server.client().list("LIST -a");
    assert!(
        lines.iter().any(|line| line.ends_with(" .hidden")),
        "{lines:?}"
    );
    assert!(
        server
            .client()
            .list("LIST -la")
            .iter()
            .any(|line| line.ends_with(" .hidden"))
    );
}

#[test]
fn flags_and_a_path_go_together() {
    let server = Server::start();
    server.write("sub/inner", "x");
    let mut client = server.client();
    assert!(
        client
            .list("LIST -al sub")
            .iter()
            .any(|line| line.ends_with(" inner"))
    );
    assert!(
        client
            .list("LIST -l -a sub")
            .iter()
            .any(|line| line.ends_with(" inner"))
    );
    let lines = client.list("LIST -d sub");
    assert!(
        lines.len() == 1 && lines[0].starts_with('d') && lines[0].ends_with("sub"),
        "{lines:?}"
    );
    assert_eq!(client.list("LIST -1 sub"), ["inner"]);
    assert!(
        client
            .list("LIST -F")
            .iter()
            .any(|line| line.ends_with(" sub/"))
    );
}

#[test]
fn a_name_that_looks_like_flags_can_be_listed() {
    let server = Server::start();
    server.write("-al/inner", "x");
    assert!(
        server
            .client()
            .list("LIST ./-al")
            .iter()
            .any(|line| line.ends_with(" inner"))
    );
}

#[test]
fn dash_r_lists_the_whole_tree() {
    let server = Server::start();
    server.write("a/b/deep", "x");
    server.write("a/mid", "x");
    server.write("top", "x");
    let lines = server.client().list("LIST -R");
    for name in [" deep", " mid", " top"] {
        assert!(
            lines.iter().any(|line| line.ends_with(name)),
            "{name} in {lines:?}"
        );
    }
    assert!(lines.iter().any(|line| line.ends_with("a/b:")), "{lines:?}");
}

#[test]
fn globs_choose_names() {
    let server = Server::start();
    for name in ["one.txt", "two.txt", "three.dat"] {
        server.write(name, "x");
    }
    let mut client = server.client();
    let mut names = client.list("NLST *.txt");
    names.sort();
    assert_eq!(names, ["one.txt", "two.txt"]);
    assert_eq!(client.list("NLST t[a-h]*"), ["three.dat"]);
    assert_eq!(client.list("NLST ?ne.*"), ["one.txt"]);
    assert_eq!(client.list("LIST *.dat").len(), 1);
}

#[test]
fn a_name_with_glob_characters_is_found_by_itself() {
    let server = Server::start();
    server.write("a[1]*?.txt", "x");
    let mut client = server.client();
    assert_eq!(client.list("LIST a[1]*?.txt").len(), 1);
}

#[test]
fn a_glob_of_many_stars_is_answered_at_once() {
    let server = Server::start();
    server.write("a".repeat(250), "x");
    let mut client = server.client();
    let pattern = "*a".repeat(120) + "b";
    let (bytes, reply) = client.download(format!("NLST {pattern}"));
    reply.expect_one_of(&[226, 450, 550]);
    assert!(bytes.is_empty());
}

#[test]
fn nlst_names_are_sorted_and_bare() {
    let server = Server::start();
    for name in ["b", "a", "c d"] {
        server.write(name, "x");
    }
    assert_eq!(server.client().list("NLST"), ["a", "b", "c d"]);
}

#[test]
fn nlst_of_a_directory_can_be_given_back_to_retr() {
    let server = Server::start();
    server.write("sub/x", "inside");
    let mut client = server.client();
    let names = client.list("NLST sub");
    let path = if names[0].contains('/') {
        names[0].clone()
    } else {
        format!("sub/{}", names[0])
    };
    assert_eq!(client.retr(&path), b"inside");
}

#[test]
fn what_is_missing_is_550_before_any_150() {
    let server = Server::start();
    let mut client = server.client();
    for verb in ["LIST", "NLST", "MLSD"] {
        let data = client.epsv();
        client.expect(format!("{verb} missing"), 550);
        drop(data);
    }
}

#[test]
fn recent_files_show_the_time_and_old_and_future_ones_the_year() {
    let server = Server::start();
    let now = SystemTime::now();
    let day = Duration::from_secs(86_400);
    for (name, when) in [
        ("recent", now - 30 * day),
        ("old", now - 400 * day),
        ("future", now + 30 * day),
    ] {
        server.write(name, "x");
        set_modified(&server, name, when);
    }
    let lines = server.client().list("LIST");
    let time_of = |name: &str| {
        let line = lines
            .iter()
            .find(|line| line.ends_with(&format!(" {name}")))
            .unwrap();
        line.split_whitespace().nth(7).unwrap().to_owned()
    };
    assert!(time_of("recent").contains(':'), "{lines:?}");
    assert!(!time_of("old").contains(':'), "{lines:?}");
    assert!(!time_of("future").contains(':'), "{lines:?}");
}

#[test]
fn a_newline_in_a_name_cannot_forge_a_line() {
    let server = Server::start();
    server.write("evil\r\n-rw-r--r-- 1 root root 1 Jan  1 2020 forged", "x");
    server.write("tab\tescape\x1b[31m", "x");
    let mut client = server.client();
    for verb in ["LIST", "NLST", "MLSD", "LIST -R", "LIST -1"] {
        let lines = client.list(verb);
        assert!(
            lines
                .iter()
                .all(|line| !line.starts_with("-rw-r--r-- 1 root root 1 Jan  1 2020")),
            "{verb}: {lines:?}"
        );
        assert!(
            lines.iter().all(|line| !line.chars().any(char::is_control)),
            "{verb}: {lines:?}"
        );
    }
    let lines = client.list("LIST");
    assert!(
        lines.iter().any(|line| line.contains("evil??")),
        "{lines:?}"
    );
    client.send("STAT .");
    let reply = client.reply();
    assert!(
        reply.lines.iter().all(|line| !line.contains(&0x1b)),
        "{}",
        reply.text()
    );
    client.expect("NOOP", 200);
}

#[test]
fn names_of_every_kind_are_listed_as_bytes() {
    let server = Server::start();
    let long = "l".repeat(255);
    let names: [&[u8]; 7] = [
        b" leading",
        b"-dash",
        b"*?[]{}",
        "\u{fc}ml\u{e4}ut \u{20ac}".as_bytes(),
        b"latin\xe9",
        b"quo\"te'",
        long.as_bytes(),
    ];
    for name in names {
        server.write(std::ffi::OsStr::from_bytes(name), "x");
    }
    let mut client = server.client();
    for verb in ["LIST", "NLST", "MLSD"] {
        let (bytes, reply) = client.download(verb);
        reply.expect(226);
        for name in names {
            let line = [name, b"\r\n"].concat();
            assert!(
                bytes.windows(line.len()).any(|part| part == line),
                "{verb} lacks {:?}",
                String::from_utf8_lossy(name)
            );
        }
    }
}

#[test]
fn stat_with_a_path_lists_over_the_control_connection() {
    let server = Server::start();
    server.write("here", "x");
    let mut client = server.client();
    client
        .command("STAT .")
        .expect_one_of(&[212, 213])
        .says("here");
    client
        .command("STAT here")
        .expect_one_of(&[211, 212, 213])
        .says("here");
    client.command("STAT missing").expect_one_of(&[450, 550]);
}

#[test]
fn a_name_that_looks_like_a_reply_cannot_end_stat() {
    let server = Server::start();
    for name in ["212 done", "213 End", "211 End", "x\r\n212 forged"] {
        server.write(name, "x");
    }
    let mut client = server.client();
    client.command("STAT .").expect_one_of(&[212, 213]);
    client.expect("NOOP", 200);
}

#[test]
fn mlsd_tells_type_size_modify_and_perm() {
    let server = Server::start();
    server.write("file", "12345");
    set_modified(
        &server,
        "file",
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000),
    );
    std::fs::create_dir(server.path("dir")).unwrap();
    let lines = server.client().list("MLSD");
    let line_of = |wanted: &str| lines.iter().find(|line| name(line) == wanted).unwrap();
    let file = line_of("file");
    assert_eq!(fact(file, "type").unwrap().to_lowercase(), "file");
    assert_eq!(fact(file, "size"), Some("5"));
    assert_eq!(fact(file, "modify"), Some("20010909014640"));
    let perm = fact(file, "perm").unwrap();
    assert!(
        "rwadf".chars().all(|letter| perm.contains(letter)),
        "{file}"
    );
    assert!(
        fact(file, "unique").is_some() && fact(file, "UNIX.mode").is_some(),
        "{file}"
    );
    let directory = line_of("dir");
    assert_eq!(fact(directory, "type").unwrap().to_lowercase(), "dir");
    let perm = fact(directory, "perm").unwrap();
    assert!(
        "elcmpdf".chars().all(|letter| perm.contains(letter)),
        "{directory}"
    );
}

#[test]
fn unique_is_the_same_for_hard_links_only() {
    let server = Server::start();
    server.write("one", "x");
    server.write("two", "x");
    std::fs::hard_link(server.path("one"), server.path("linked")).unwrap();
    let lines = server.client().list("MLSD");
    let unique = |wanted: &str| {
        fact(
            lines.iter().find(|line| name(line) == wanted).unwrap(),
            "unique",
        )
        .unwrap()
        .to_owned()
    };
    assert_eq!(unique("one"), unique("linked"));
    assert_ne!(unique("one"), unique("two"));
}

#[test]
fn mlsd_of_a_file_is_501_or_550() {
    let server = Server::start();
    server.write("file", "x");
    let mut client = server.client();
    client.download("MLSD file").1.expect_one_of(&[501, 550]);
}

#[test]
fn mlst_answers_on_the_control_connection() {
    let server = Server::start();
    server.write("sub/file", "123");
    let mut client = server.client();
    let reply = client.expect("MLST sub/file", 250);
    assert_eq!(reply.lines.len(), 3, "{}", reply.text());
    let line = String::from_utf8(reply.lines[1].clone()).unwrap();
    assert!(
        line.starts_with(' '),
        "one space before the facts: {line:?}"
    );
    assert_eq!(fact(&line, "size"), Some("3"));
    assert!(name(&line).ends_with("file"), "{line:?}");
    client.expect("MLST", 250);
    client.expect("MLST missing", 550);
}

#[test]
fn opts_mlst_chooses_the_facts() {
    let server = Server::start();
    server.write("file", "123");
    let mut client = server.client();
    client
        .expect("OPTS MLST size;type;nonsense;", 200)
        .says("size;");
    let lines = client.list("MLSD");
    let line = lines.iter().find(|line| name(line) == "file").unwrap();
    assert!(
        fact(line, "size").is_some() && fact(line, "type").is_some(),
        "{line}"
    );
    assert!(
        fact(line, "modify").is_none() && fact(line, "perm").is_none(),
        "{line}"
    );
    client.expect("OPTS MLST", 200);
    assert!(client.list("MLSD").iter().any(|line| line == " file"));
}

#[test]
fn feat_shows_the_facts_that_are_on() {
    let server = Server::start();
    let mut client = server.client();
    client.expect("FEAT", 211).says("MLST").says("size*;");
    client.expect("OPTS MLST size;", 200);
    let text = client.expect("FEAT", 211).text();
    let line = text
        .lines()
        .find(|line| line.trim().starts_with("MLST"))
        .unwrap()
        .to_owned();
    assert!(
        line.to_lowercase().contains("size*;") && line.to_lowercase().contains("modify;"),
        "{line}"
    );
}

#[test]
fn five_thousand_names_come_sorted_and_complete() {
    let server = Server::start();
    let mut expected = Vec::new();
    for number in 0..5_000 {
        let name = format!("file-{number:05}");
        std::fs::write(server.path(&name), "").unwrap();
        expected.push(name);
    }
    let mut client = server.client();
    assert_eq!(client.list("NLST"), expected);
    let lines = client.list("LIST");
    let names: Vec<_> = lines
        .iter()
        .filter_map(|line| line.split_whitespace().nth(8))
        .collect();
    assert_eq!(names, expected);
    assert_eq!(
        client
            .list("MLSD")
            .iter()
            .filter(|line| name(line).starts_with("file-"))
            .count(),
        5_000
    );
}

#[test]
fn two_hundred_thousand_names_are_never_cut_off() {
    let server = Server::start();
    let directory = server.path("many");
    std::fs::create_dir(&directory).unwrap();
    // Hard links are the cheapest names; a file takes 65,000 of them on the poorest of file systems.
    for group in 0..4 {
        let first = directory.join(format!("{group}-00000"));
        std::fs::write(&first, "").unwrap();
        for number in 1..50_000 {
            std::fs::hard_link(&first, directory.join(format!("{group}-{number:05}"))).unwrap();
        }
    }
    let mut client = server.client();
    let before = server.resident_bytes();
    let lines = client.list("LIST many");
    let names: std::collections::HashSet<_> = lines
        .iter()
        .filter_map(|line| line.split_whitespace().nth(8))
        .collect();
    assert_eq!(names.len(), 200_000);
    assert_eq!(client.list("NLST many").len(), 200_000);
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "the listing took {grown} bytes of memory");
}

#[test]
fn directories_that_are_still_to_come_take_little_memory_and_no_more_than_so_much() {
    let server = Server::start();
    for n in 0..9_000 {
        std::fs::create_dir_all(server.path(format!("many/d{n}"))).unwrap();
    }
    let mut client = server.client();
    let most = server.peak_bytes();
    let most = most.max(server.resident_bytes() + (24 << 20));
    let (bytes, reply) = client.download(format!("LIST -R {}many", "./".repeat(2000)));
    reply.expect(226);
    let lines = bytes.split(|&byte| byte == b'\n');
    assert_eq!(lines.filter(|line| line.starts_with(b"d")).count(), 9_000);
    let peak = server.peak_bytes();
    assert!(peak <= most, "{peak} bytes of memory, not {most}");

    for n in 0..30_000 {
        let name = format!("wide/{n:0>250}");
        std::fs::create_dir_all(server.path(name)).unwrap();
    }
    let (_, reply) = client.download("LIST -R wide");
    reply.expect(451).says("cut off");
    server.wait_for_log("more directories were still to come");
    let (bytes, reply) = client.download("LIST wide");
    reply.expect(226);
    assert!(bytes.iter().filter(|&&byte| byte == b'\n').count() >= 30_000);
}

#[test]
fn a_listing_loses_nothing_while_other_files_vanish() {
    let server = Server::start();
    for number in 0..2_000 {
        server.write(format!("stay-{number:04}"), "");
        server.write(format!("go-{number:04}"), "");
    }
    let remover = {
        let root = server.path("");
        std::thread::spawn(move || {
            for number in 0..2_000 {
                std::fs::remove_file(root.join(format!("go-{number:04}"))).unwrap();
            }
        })
    };
    let mut client = server.client();
    let mut rounds = 0;
    eventually("the files are gone", || {
        rounds += 1;
        let lines = client.list("LIST");
        assert_eq!(
            lines.iter().filter(|line| line.contains(" stay-")).count(),
            2_000
        );
        remover.is_finished()
    });
    remover.join().unwrap();
    assert!(rounds > 0);
}

#[test]
fn listings_work_in_either_type() {
    let server = Server::start();
    server.write("file", "x");
    let mut client = server.client();
    for kind in ["A", "I", "A N", "L 8"] {
        client.expect(format!("TYPE {kind}"), 200);
        assert_eq!(client.list("NLST"), ["file"]);
    }
}

#[test]
fn a_client_that_leaves_in_the_middle_of_a_listing_keeps_its_session() {
    let server = Server::start();
    for number in 0..9_000 {
        std::fs::write(server.path(format!("{}{number:05}", "n".repeat(200))), "").unwrap();
    }
    let mut client = server.client();
    let data = client.epsv();
    client.command("LIST").expect_one_of(&[125, 150]);
    common::reset(data);
    client.reply().expect_one_of(&[226, 426]);
    client.expect("NOOP", 200);
    assert_eq!(client.list("NLST").len(), 9_000);
}
