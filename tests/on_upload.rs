//! Programs that are run behind uploads: what they are told, when they are run, and how little they can do to the server.

mod common;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use common::{Builder, Client, Server, eventually, reset, root_may};

/// A server whose uploads are followed by this shell script; `$OUT` in it is a directory for what it has to tell.
fn builder(script: &str, keys: &str) -> Builder {
    let configuration = format!(
        "on_upload = [\"{{home}}/script\", \"an argument\"]\n{keys}\n\
         [anonymous]\nroot = \"{{root}}\"\naccess = \"read-write\"\n"
    );
    let builder = Server::build().configuration(&configuration);
    let home = builder.root().parent().unwrap();
    let out = home.join("out");
    fs::create_dir(&out).unwrap();
    let text = format!("#!/bin/sh\nOUT='{}'\n{script}\n", out.display());
    write_program(&home.join("script"), &text);
    builder
}

fn server(script: &str, keys: &str) -> Server {
    builder(script, keys).start()
}

fn write_program(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn login(server: &Server) -> Client {
    let mut client = server.connect();
    client.login_as("ftp", "x").expect(230);
    client.expect("TYPE I", 200);
    client
}

fn out(server: &Server, name: &str) -> PathBuf {
    server.home().join("out").join(name)
}

/// The files that the script has made, once there are so many.
#[track_caller]
fn outs(server: &Server, count: usize) -> Vec<PathBuf> {
    let mut found = Vec::new();
    eventually("the programs have run", || {
        let entries = fs::read_dir(server.home().join("out")).unwrap();
        found = entries.map(|entry| entry.unwrap().path()).collect();
        // What is being written is hidden until it is whole.
        found.retain(|path| !path.file_name().unwrap().as_bytes().starts_with(b"."));
        found.len() >= count
    });
    assert_eq!(found.len(), count);
    found.sort();
    found
}

/// Whether the process is there and no zombie.
fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// The one process beside the server, which starts programs.
fn launcher(server: &Server) -> String {
    let mut beside = children_of(&server.pid().to_string());
    assert_eq!(beside.len(), 1, "{beside:?}");
    beside.remove(0)
}

fn children(server: &Server) -> Vec<String> {
    children_of(&launcher(server))
}

fn children_of(process: &str) -> Vec<String> {
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{process}/task")).unwrap() {
        let list = task.unwrap().path().join("children");
        let list = fs::read_to_string(list).unwrap_or_default();
        found.extend(list.split_whitespace().map(str::to_owned));
    }
    found
}

#[test]
fn a_program_knows_what_was_stored_and_nothing_else() {
    let server = server(
        "cat /proc/$$/environ >$OUT/.new.$$\nls -l /proc/$$/fd >>$OUT/.new.$$\n\
         grep -E 'Sig(Blk|Ign)' /proc/self/status >>$OUT/.new.$$\necho \"$1 $#\" >>$OUT/.new.$$\nmv $OUT/.new.$$ $OUT/$$",
        "checksums = false",
    );
    let mut client = login(&server);
    let names: [&[u8]; 4] = [
        b"plain",
        b"a b 'quoted' \"twice\" $(touch x) ; `y`",
        b"stray \xfe byte",
        b"-rf *",
    ];
    client.expect("MKD sub dir", 257);
    for (number, name) in names.iter().enumerate() {
        let path = [b"sub dir/", *name].concat();
        let line = [b"STOR ", path.as_slice()].concat();
        client.upload(&line, b"12345").expect(226);
        let said = outs(&server, number + 1);
        let text = said
            .iter()
            .map(|path| fs::read(path).unwrap())
            .find(|text| {
                let told = [b"THRIFTPD_VIRTUAL_PATH=/".as_slice(), &path, b"\0"].concat();
                text.windows(told.len()).any(|part| part == told)
            })
            .expect("the virtual path as it is");
        let (environment, rest) = text.split_at(text.iter().rposition(|&byte| byte == 0).unwrap());
        let known: BTreeMap<&[u8], &[u8]> = environment
            .split(|&byte| byte == 0)
            .filter_map(|entry| {
                let equals = entry.iter().position(|&byte| byte == b'=')?;
                Some((&entry[..equals], &entry[equals + 1..]))
            })
            .collect();
        let host_path = server.path(OsStr::from_bytes(&path));
        let told = |name: &str| OsStr::from_bytes(known[name.as_bytes()]);
        assert_eq!(told("THRIFTPD_PATH"), host_path.as_os_str());
        assert_eq!(told("THRIFTPD_USER"), "anonymous");
        assert_eq!(told("THRIFTPD_SIZE"), "5");
        assert_eq!(told("THRIFTPD_PEER"), "127.0.0.1");
        assert_eq!(told("HOME"), server.home().as_os_str());
        assert!(!known.contains_key(b"THRIFTPD_SHA256".as_slice()));
        assert!(!known.contains_key(b"XDG_CONFIG_HOME".as_slice()));
        let rest = String::from_utf8_lossy(rest);
        assert!(rest.contains("an argument 1\n"), "{rest}");
        assert!(rest.contains("SigBlk:\t0000000000000000"), "{rest}");
        // SIGPIPE.
        let ignored = rest.split("SigIgn:\t").nth(1).unwrap();
        let ignored = u64::from_str_radix(ignored.lines().next().unwrap(), 16).unwrap();
        assert_eq!(ignored & (1 << 12), 0, "{rest}");
        // The shell keeps its own descriptors elsewhere while it runs ls.
        let open: Vec<&str> = rest
            .lines()
            .filter_map(|line| line.split_once(" -> "))
            .map(|(_, to)| to)
            .collect();
        assert!(
            open.iter().filter(|to| **to == "/dev/null").count() >= 2,
            "{open:?}"
        );
        let of_the_server = |to: &&&str| {
            to.contains("socket:") || to.contains("anon_inode") || to.contains("/root")
        };
        assert_eq!(open.iter().find(of_the_server), None, "{open:?}");
    }
    assert!(!server.exists("x") && !server.exists("sub dir/x"));
}

#[test]
fn a_newline_in_a_folder_of_the_host_is_passed_as_it_is() {
    let configuration = "on_upload = [\"{home}/script\"]\nchecksums = true\n\
         [anonymous]\nroot = \"{root}\"\naccess = \"read-write\"\n\
         [[anonymous.folder]]\npath = \"/folder\"\nroot = \"{home}/two\\nlines\"\n";
    let builder = Server::build().configuration(configuration);
    let home = builder.root().parent().unwrap().to_owned();
    fs::create_dir(home.join("two\nlines")).unwrap();
    let script = "#!/bin/sh\nprintf '%s|%s' \"$THRIFTPD_PATH\" \"$THRIFTPD_SHA256\" >\"$HOME/new\"\nmv \"$HOME/new\" \"$HOME/told\"\n";
    write_program(&home.join("script"), script);
    let server = builder.start();
    let mut client = login(&server);
    client.upload("STOR folder/file", b"abc").expect(226);
    let told = home.join("told");
    eventually("the program has run", || told.exists());
    let path = home.join("two\nlines/file");
    let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let expected = format!("{}|{sha256}", path.display());
    assert_eq!(fs::read_to_string(told).unwrap(), expected);
}

#[test]
fn a_program_is_told_where_the_file_really_is_whatever_links_say() {
    let server = server(
        "printf %s \"$THRIFTPD_PATH\" >$OUT/.new; mv $OUT/.new $OUT/told",
        "",
    );
    fs::create_dir(server.path("dir")).unwrap();
    fs::write(server.path("file"), "inside").unwrap();
    // The host would follow all of them to somewhere else.
    for (link, target) in [
        ("root", "/dir"),
        ("up", "../../dir"),
        ("to file", "/../file"),
    ] {
        std::os::unix::fs::symlink(target, server.path(link)).unwrap();
    }
    let mut client = login(&server);
    for (path, real) in [("root/f", "dir/f"), ("up/g", "dir/g"), ("to file", "file")] {
        client.upload(format!("STOR {path}"), b"x").expect(226);
        outs(&server, 1);
        let told = out(&server, "told");
        assert_eq!(
            fs::read_to_string(&told).unwrap(),
            server.path(real).to_str().unwrap()
        );
        fs::remove_file(told).unwrap();
    }
}

#[test]
fn the_client_has_its_reply_while_the_program_still_runs() {
    let server = server(
        "mkfifo $OUT/pipe.$$\nread line <$OUT/pipe.$$\nmv $OUT/pipe.$$ $OUT/read.$$",
        "",
    );
    let mut client = login(&server);
    client.upload("STOR file", b"x").expect(226);
    let pipe = outs(&server, 1).remove(0);
    // The session goes on, and the next upload is not held up either.
    client.expect("NOOP", 200);
    client.upload("STOR other", b"x").expect(226);
    let pipes = outs(&server, 2);
    for pipe in pipes {
        fs::write(pipe, "go on\n").unwrap();
    }
    eventually("both are done", || !pipe.exists());
}

#[test]
fn only_uploads_that_are_complete_have_a_program_run_and_each_kind_does() {
    let server = server("touch $OUT/${THRIFTPD_VIRTUAL_PATH##*/}", "");
    let mut client = login(&server);
    let mut data = client.epsv();
    client.expect("STOR reset", 150);
    data.write_all(b"half").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    reset(data);
    client.reply().expect(426);
    let mut data = client.epsv();
    client.expect("STOR aborted", 150);
    data.write_all(b"half").unwrap();
    client.send("ABOR");
    client.reply().expect(426);
    client.reply().expect(226);
    client.upload("STOR none/file", b"x").expect(550);
    login(&server).expect("STOR unagreed", 425);
    client.download("RETR none").1.expect(550);
    client.upload("STOR stored", b"12").expect(226);
    client.upload("APPE appended", b"12").expect(226);
    let reply = client.upload("STOU unique", b"12").expect(226);
    assert!(reply.text().contains("file has 2"));
    client.retr("stored");
    client.expect("DELE stored", 250);
    let ran: Vec<_> = outs(&server, 3)
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(ran[..2], ["appended", "stored"]);
    assert!(ran[2].starts_with("unique"), "{ran:?}");
}

#[test]
fn the_size_is_that_of_the_whole_file() {
    let server = server(
        "printf %s $THRIFTPD_SIZE >$OUT/.new; mv $OUT/.new $OUT/$THRIFTPD_SIZE",
        "",
    );
    let mut client = login(&server);
    client.upload("STOR file", b"12345").expect(226);
    outs(&server, 1);
    client.upload("APPE file", b"678").expect(226);
    assert!(outs(&server, 2).contains(&out(&server, "8")));
}

#[test]
fn a_program_that_fails_is_told_in_the_log_and_to_nobody_else() {
    let server = server(
        "case $THRIFTPD_VIRTUAL_PATH in\n/bad) echo 'a \\033[31mred word' >&2; exit 3;;\n/killed) kill -KILL $$;;\n\
         /loud) yes 'many words' | head -c 300000 >&2; touch $OUT/loud;;\n/last) printf 'no newline' >&2;;\nesac",
        "",
    );
    let mut client = login(&server);
    client.stor("bad", b"x");
    let line = server.wait_for_log("exit status 3");
    assert!(
        line.contains("/root/bad") && line.contains("/script") && line.contains("on_upload"),
        "{line}"
    );
    let said = server.wait_for_log("red word");
    assert!(
        said.contains("says: a ") && !said.contains('\x1b'),
        "{said}"
    );
    client.stor("killed", b"x");
    server.wait_for_log("killed by SIGKILL");
    client.stor("loud", b"x");
    server.wait_for_log("says more than is logged");
    outs(&server, 1);
    client.stor("last", b"x");
    server.wait_for_log("says: no newline");
    let words = server.log_text().matches("many words").count();
    assert!((300..400).contains(&words), "{words}");
    client.expect("NOOP", 200);
}

#[test]
fn a_program_that_cannot_be_started_is_told_in_the_log() {
    let configuration = "on_upload = [\"{home}/missing\"]\n[anonymous]\nroot = \"{root}\"\naccess = \"read-write\"\n";
    let server = Server::build().configuration(configuration).start();
    let mut client = login(&server);
    client.stor("file", b"x");
    let line = server.wait_for_log("cannot be started");
    assert!(
        line.contains("/missing") && line.contains("/root/file"),
        "{line}"
    );
    write_program(&server.home().join("missing"), "no program at all\n");
    client.stor("second", b"x");
    eventually("the other reason is told", || {
        server.log_text().matches("cannot be started").count() == 2
    });
    eventually("no thread is left", || {
        !threads(&server).iter().any(|name| name == "program")
    });
}

fn threads(server: &Server) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", launcher(server))).unwrap();
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect()
}

#[test]
fn a_program_whose_time_is_up_is_killed_with_all_that_it_started() {
    let server = server(
        "sleep 1000 &\necho $! >$OUT/.new; mv $OUT/.new $OUT/child\necho $$ >$OUT/.new; mv $OUT/.new $OUT/script\ntrap '' TERM\nwait",
        "on_upload_timeout = \"1s\"",
    );
    let mut client = login(&server);
    client.stor("file", b"x");
    outs(&server, 2);
    let [child, script] =
        ["child", "script"].map(|name| fs::read_to_string(out(&server, name)).unwrap());
    let line = server.wait_for_log("not done after");
    assert!(
        line.contains("/root/file") && line.contains("killed"),
        "{line}"
    );
    eventually("both are gone", || !lives(&child) && !lives(&script));
    eventually("nobody waits to be buried", || children(&server).is_empty());
}

#[test]
fn no_more_run_at_once_than_are_allowed_and_all_have_their_turn() {
    let server = server(
        "touch $OUT/run.$$\nls $OUT | grep -c '^run' >$OUT/seen.$$\nsleep 0.05\nls $OUT | grep -c '^run' >>$OUT/seen.$$\n\
         rm $OUT/run.$$\nmv $OUT/seen.$$ $OUT/done.$$",
        "on_upload_at_once = 3",
    );
    if !server.counts_descriptors() {
        return;
    }
    let descriptors = {
        let mut client = login(&server);
        client.stor("warm", b"x");
        outs_done(&server, 1);
        client.expect("NOOP", 200);
        settled(&server);
        server.descriptors()
    };
    let mut clients: Vec<Client> = (0..4).map(|_| login(&server)).collect();
    for round in 0..6 {
        for (number, client) in clients.iter_mut().enumerate() {
            client.stor(&format!("file{round}-{number}"), b"x");
        }
    }
    let done = outs_done(&server, 25);
    let seen: Vec<usize> = done
        .iter()
        .flat_map(|path| {
            let text = fs::read_to_string(path).unwrap();
            text.lines()
                .map(|line| line.parse().unwrap())
                .collect::<Vec<usize>>()
        })
        .collect();
    let most = seen.iter().max().copied().unwrap();
    assert!((1..=3).contains(&most), "{seen:?}");
    drop(clients);
    settled(&server);
    eventually("no descriptor is left", || {
        server.descriptors() <= descriptors
    });
}

fn outs_done(server: &Server, count: usize) -> Vec<PathBuf> {
    let mut found = Vec::new();
    eventually("all have run", || {
        let entries = fs::read_dir(server.home().join("out")).unwrap();
        found = entries.map(|entry| entry.unwrap().path()).collect();
        let is_done = |path: &PathBuf| path.file_name().unwrap().as_bytes().starts_with(b"done");
        found.retain(is_done);
        found.len() >= count
    });
    assert_eq!(found.len(), count);
    found
}

/// No thread of a program, no program and no zombie.
#[track_caller]
fn settled(server: &Server) {
    eventually("no thread is left", || {
        !threads(server).iter().any(|name| name == "program") && children(server).is_empty()
    });
}

#[test]
fn a_hangup_that_is_accepted_has_its_program_too() {
    let configuration = "on_upload = [\"{home}/script\"]\n[anonymous]\nroot = \"{root}\"\naccess = \"read-write\"\naccept_hangup = true\n";
    let builder = Server::build().configuration(configuration);
    let script = builder.root().parent().unwrap().join("script");
    write_program(&script, "#!/bin/sh\ntouch $HOME/told\n");
    let server = builder.start();
    let mut client = login(&server);
    let mut data = client.epsv();
    client.expect("STOR picture", 150);
    data.write_all(b"picture").unwrap();
    client.reset();
    std::thread::sleep(std::time::Duration::from_millis(100));
    drop(data);
    eventually("the program has run", || {
        server.home().join("told").exists()
    });
    assert_eq!(server.read("picture"), b"picture");
}

#[test]
fn a_program_that_a_reload_adds_is_told_to_need_a_restart() {
    let server = server("touch $OUT/$$", "");
    let file = server.home().join("thriftpd.toml");
    let text = fs::read_to_string(&file).unwrap();
    let reload = |text: &str| {
        fs::write(&file, text).unwrap();
        server.reload();
    };
    // What was known may stay or go.
    reload(&text.replace("on_upload = [", "#"));
    server.wait_for_log("the configuration was read again");
    assert!(!server.log_text().contains("a restart is needed"));
    let other = server.home().join("other");
    let on_upload = format!("on_upload = [\"{}\"]\n", other.display());
    write_program(&other, "#!/bin/sh\n");
    reload(&format!(
        "{on_upload}{}",
        text.replace("on_upload = [", "#")
    ));
    let line = server.wait_for_log("a restart is needed");
    assert!(line.contains(&format!("{} was not known", other.display())));
    login(&server).stor("file", b"x");
    server.wait_for_log("not run: the server must be restarted to know it");
}

#[test]
fn a_reload_lets_fewer_run_at_once_but_never_more_than_the_start() {
    let server = server(
        "touch $OUT/run.$$\nuntil [ -e $OUT/.go ]; do sleep 0.05; done\nmv $OUT/run.$$ $OUT/done.$$",
        "on_upload_at_once = 2",
    );
    let file = server.home().join("thriftpd.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("at_once = 2", "at_once = 50")).unwrap();
    server.reload();
    let line = server.wait_for_log("a restart is needed");
    assert!(line.contains("setting: on_upload_at_once"), "{line}");
    let mut client = login(&server);
    for number in 0..6 {
        client.stor(&format!("file{number}"), b"x");
    }
    outs(&server, 2);
    // The others are in line, however long these take.
    assert_eq!(children(&server).len(), 2);
    fs::write(out(&server, ".go"), "").unwrap();
    assert_eq!(outs_done(&server, 6).len(), 6);
}

#[test]
fn the_end_of_the_server_waits_a_moment_and_no_longer() {
    let server = server(
        "case $THRIFTPD_VIRTUAL_PATH in\n/short) sleep 0.5; touch $OUT/short;;\n*) echo $$ >$OUT/.new; mv $OUT/.new $OUT/pid; exec sleep 1000;;\nesac",
        "on_upload_at_once = 1",
    );
    let mut client = login(&server);
    client.stor("short", b"x");
    client.stor("long", b"x");
    client.stor("never", b"x");
    client.expect("QUIT", 221);
    server.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(server.wait().success());
    let log = server.log_text();
    assert!(out(&server, "short").exists(), "{log}");
    assert!(log.contains("1 programs go on without the server"), "{log}");
    assert!(
        log.lines()
            .any(|line| line.contains("/root/never") && line.contains("not run: the server ends")),
        "{log}"
    );
    let pid = fs::read_to_string(out(&server, "pid")).unwrap();
    assert!(lives(&pid));
    let pid = nix::unistd::Pid::from_raw(pid.trim().parse().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[test]
fn a_server_that_has_given_up_root_runs_programs_as_who_it_is() {
    if !root_may("to give up being root") {
        return;
    }
    const NOBODY: u32 = 65534;
    let builder = builder(
        "grep -E '^(Uid|CapEff|CapPrm|CapAmb)' /proc/$$/status >$OUT/.new; mv $OUT/.new $OUT/status",
        "",
    );
    let home = builder.root().parent().unwrap();
    fs::set_permissions(home, fs::Permissions::from_mode(0o755)).unwrap();
    for directory in [builder.root(), &home.join("out")] {
        chown(directory, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let server = builder.start();
    let mut client = login(&server);
    client.stor("file", b"x");
    outs(&server, 1);
    let status = fs::read_to_string(out(&server, "status")).unwrap();
    assert!(status.contains("65534\t65534\t65534\t65534"), "{status}");
    for line in status.lines().filter(|line| line.starts_with("Cap")) {
        assert!(line.ends_with("0000000000000000"), "{status}");
    }
}
