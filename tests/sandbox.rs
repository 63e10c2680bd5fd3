//! The sandbox, looked at from outside; and what a thread that has entered it cannot do any more.

mod common;

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::thread;

use common::{PASSWORD, Server, USER, root_may, skip};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use tempfile::TempDir;
use thriftpd::accounts::Password;
use thriftpd::server::sandbox::{self, Access, Plan, Violation};

/// The user and group `nobody` of Debian.
const NOBODY: u32 = 65534;

/// Whether this kernel has all layers; otherwise the test is skipped.
#[track_caller]
fn is_complete() -> bool {
    let layers = sandbox::available(&Plan {
        ports: Some(Vec::new()),
        ..Plan::default()
    });
    if !layers.missing.is_empty() {
        skip(format_args!(
            "this kernel lacks {}",
            layers.missing.join(", ")
        ));
    }
    layers.missing.is_empty()
}

/// A directory that no server was told of.
fn outside() -> TempDir {
    let outside = tempfile::tempdir().unwrap();
    fs::set_permissions(outside.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(outside.path().join("secret"), "of somebody else").unwrap();
    outside
}

/// Lines of /proc/PID/status of every thread, as key and value.
fn of_all_threads(server: &Server, key: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    let statuses = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("status")));
    let values = statuses.flatten().map(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or("?").trim().to_owned()
    });
    values.collect()
}

#[test]
fn every_thread_is_confined_and_the_log_names_the_layers() {
    let server = Server::start();
    let mut client = server.client();
    client.stor("file", b"contents");
    for value in of_all_threads(&server, "NoNewPrivs:") {
        assert_eq!(value, "1");
    }
    let line = server.wait_for_log("sandbox: ");
    assert!(line.contains("no new privileges"), "{line}");
    if !is_complete() {
        return;
    }
    for layer in [
        "file rules (Landlock",
        "port rules",
        "system call rules (seccomp)",
    ] {
        assert!(line.contains(layer), "{line}");
    }
    let filtered = of_all_threads(&server, "Seccomp:");
    assert!(filtered.len() > 2, "{filtered:?}");
    for value in filtered {
        // SECCOMP_MODE_FILTER.
        assert_eq!(value, "2");
    }
}

#[test]
fn switched_off_there_is_none_and_the_log_says_so() {
    let server = Server::build()
        .configuration("sandbox = \"off\"\n")
        .with_flag_user()
        .start();
    server.wait_for_log("sandbox: off (setting: sandbox)");
    server.client().stor("file", b"contents");
    for value in of_all_threads(&server, "Seccomp:") {
        assert_eq!(value, "0");
    }
}

#[test]
fn memory_with_passwords_is_neither_dumped_nor_shown() {
    if !root_may("to give up being root") {
        return;
    }
    let builder = Server::build();
    chown(builder.root(), Some(NOBODY), Some(NOBODY)).unwrap();
    let above = builder.root().parent().unwrap();
    fs::set_permissions(above, fs::Permissions::from_mode(0o755)).unwrap();
    let server = builder.start();
    let proc = |name: &str| format!("/proc/{}/{name}", server.pid());
    let limits = fs::read_to_string(proc("limits")).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let core: Vec<&str> = core.unwrap().split_whitespace().collect();
    // Of which no dump is made, neither a file nor one for a program.
    assert_eq!(core[4..6], ["1", "1"]);
    // What cannot be dumped belongs to root in /proc, whoever the process is (proc(5)).
    assert_eq!(
        of_all_threads(&server, "Uid:")[0],
        [NOBODY; 4].map(|id| id.to_string()).join("\t")
    );
    assert_eq!(fs::metadata(proc("mem")).unwrap().uid(), 0);
}

#[test]
fn capabilities_are_given_up_for_good_in_every_set() {
    if !root_may("to have capabilities to give up") {
        return;
    }
    let builder = Server::build()
        .configuration("run_as = \"nobody\"\nactive_from_port_20 = false\n")
        .with_flag_user();
    let above = builder.root().parent().unwrap();
    fs::set_permissions(above, fs::Permissions::from_mode(0o755)).unwrap();
    let server = builder.start();
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        for value in of_all_threads(&server, set) {
            assert_eq!(value, "0000000000000000", "{set}");
        }
    }
    // Root that stays root is no more than the owner of everybody's files.
    let server = Server::build().start();
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        for value in of_all_threads(&server, set) {
            // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, NET_BIND_SERVICE.
            assert_eq!(value, "000000000000041b", "{set}");
        }
    }
}

#[test]
fn a_root_that_became_a_link_to_elsewhere_is_out_of_reach() {
    if !is_complete() {
        return;
    }
    let outside = outside();
    for (setting, reached) in [("on", false), ("off", true)] {
        let server = Server::build()
            .configuration(&format!("sandbox = \"{setting}\"\n"))
            .with_flag_user()
            .start();
        server.client().stor("file", b"contents");
        fs::rename(server.path(""), server.home().join("aside")).unwrap();
        symlink(
            outside.path(),
            server.path("").to_str().unwrap().trim_end_matches('/'),
        )
        .unwrap();
        let mut client = server.connect();
        let reply = client.login_as(USER, PASSWORD);
        if reached {
            reply.expect(230);
            assert_eq!(client.list("NLST"), ["secret"]);
            continue;
        }
        reply.expect(530).says("until it is restarted");
        server.wait_for_log("outside of the server's sandbox");
        client.expect("MLST secret", 530);
        assert!(server.is_running());
    }
}

#[test]
fn a_folder_that_became_a_link_to_elsewhere_is_out_of_reach() {
    if !is_complete() {
        return;
    }
    let outside = outside();
    let hash = Password::from_clear(PASSWORD).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let shown = folder.path().join("shown");
    fs::create_dir(&shown).unwrap();
    fs::write(shown.join("mine"), "mine").unwrap();
    let server = Server::build()
        .configuration(&format!(
            "[[user]]\nname = \"{USER}\"\npassword = \"{}\"\nroot = \"{{root}}\"\n\
             [[user.folder]]\npath = \"/shown\"\nroot = \"{}\"\n",
            hash.to_phc(),
            shown.display()
        ))
        .start();
    assert_eq!(server.client().retr("shown/mine"), b"mine");
    fs::rename(&shown, folder.path().join("aside")).unwrap();
    symlink(outside.path(), &shown).unwrap();
    let mut client = server.client();
    client.download("RETR shown/secret").1.expect(550);
    client.expect("SIZE shown/secret", 550);
    client.expect("CWD shown", 550);
    client.upload("STOR shown/new", b"x").expect(550);
    client.expect("DELE shown/secret", 550);
    assert!(outside.path().join("secret").exists() && !outside.path().join("new").exists());
    client.stor("own", b"x");
}

#[test]
fn nothing_is_finished_in_a_directory_that_was_moved_out_of_the_root_meanwhile() {
    if !is_complete() {
        return;
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let server = Server::start();
    fs::create_dir(server.path("dir")).unwrap();
    let mut client = server.client();
    let mut data = client.epsv();
    client.command("STOR dir/file").expect(150);
    data.write_all(b"contents").unwrap();
    let partials = || fs::read_dir(server.path("dir")).unwrap().count();
    common::eventually("the upload is under way", || partials() > 0);
    fs::rename(server.path("dir"), elsewhere.path().join("dir")).unwrap();
    drop(data);
    let reply = client.reply();
    assert!(reply.code >= 400, "{}", reply.text());
    assert!(!elsewhere.path().join("dir/file").exists());
    client.expect("NOOP", 200);
}

#[test]
fn a_reload_that_needs_more_says_that_a_restart_is_needed() {
    if !is_complete() {
        return;
    }
    let new_root = outside();
    let hash = Password::from_clear(PASSWORD).unwrap();
    let user = |name: &str, root: &Path| {
        format!(
            "[[user]]\nname = \"{name}\"\npassword = \"{}\"\nroot = \"{}\"\n",
            hash.to_phc(),
            root.display()
        )
    };
    let builder = Server::build();
    let root = builder.root().to_owned();
    let first = user("old", &root) + "access = \"read-only\"\n";
    let server = builder.configuration(&first).start();
    let file = server.home().join("thriftpd.toml");
    fs::write(&file, format!("{first}{}", user("new", new_root.path()))).unwrap();
    server.reload();
    let line = server.wait_for_log("a restart is needed");
    assert!(
        line.contains(&new_root.path().display().to_string()),
        "{line}"
    );
    let mut client = server.connect();
    client
        .login_as("new", PASSWORD)
        .expect(530)
        .says("until it is restarted");
    server.connect().login_as("old", PASSWORD).expect(230);
    // Writing where only reading was asked for is more, too.
    fs::write(&file, user("old", &root)).unwrap();
    server.reload();
    let wider = format!("without {}", root.display());
    server.wait_for_log(&wider);
    let mut client = server.connect();
    client.login_as("old", PASSWORD).expect(230);
    client.upload("STOR file", b"x").expect(550);
    // And so is acting as others.
    let acting = format!("run_as = \"session\"\n{first}");
    fs::write(&file, acting).unwrap();
    server.signal(Signal::SIGHUP);
    server.wait_for_log("without run_as (setting: sandbox)");
}

#[test]
fn a_reload_within_the_sandbox_needs_no_restart() {
    let builder = Server::build();
    fs::create_dir(builder.root().join("below")).unwrap();
    let server = builder
        .configuration("[anonymous]\nroot = \"{root}\"\n")
        .start();
    let file = server.home().join("thriftpd.toml");
    fs::write(&file, "[anonymous]\nroot = \"root/below\"\nsessions = 3\n").unwrap();
    server.signal(Signal::SIGHUP);
    server.wait_for_log("the configuration was read again");
    assert!(
        !server.log_text().contains("restart"),
        "{}",
        server.log_text()
    );
    server.connect().login_as("anonymous", "").expect(230);
}

#[test]
fn check_tells_the_layers() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("thriftpd.toml");
    let check = |setting: &str| {
        let text = format!(
            "listen = [\"127.0.0.1:0\"]\nsandbox = \"{setting}\"\n[anonymous]\nroot = \".\"\n"
        );
        fs::write(&file, text).unwrap();
        let mut check = Command::new(env!("CARGO_BIN_EXE_thriftpd"));
        check.args(["check", "--config"]).arg(&file);
        common::run_client(&mut check, 20).succeeded().text()
    };
    let said = check("on");
    assert!(said.contains("sandbox: no new privileges, "), "{said}");
    assert!(check("off").contains("sandbox: off"));
    // A rule for each port: not of so many.
    let said = check("on\"\npassive_ports = \"1024-65535");
    assert!(said.contains("too many passive_ports"), "{said}");
}

/// Does the work on a thread of its own that has entered the sandbox; all layers are those of a thread.
fn confined<T: Send + 'static>(plan: Plan, work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = thread::spawn(move || {
        let layers = sandbox::enter(&plan, Violation::Refuse);
        assert_eq!(layers.missing, [""; 0]);
        work()
    });
    thread.join().unwrap()
}

#[test]
fn in_the_sandbox_there_are_no_other_files() {
    if !is_complete() {
        return;
    }
    let (mine, read_only, other) = (outside(), outside(), outside());
    let paths = vec![
        (mine.path().to_owned(), Access::Write),
        (read_only.path().to_owned(), Access::Read),
    ];
    let plan = Plan {
        paths,
        ports: Some(vec![0..=0]),
        identities: false,
    };
    let [mine, read_only, other] = [mine, read_only, other].map(|dir| dir.keep());
    let directories = [mine.clone(), read_only.clone(), other.clone()];
    confined(plan, move || {
        let denied = |result: std::io::Result<()>| {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::PermissionDenied);
        };
        fs::write(mine.join("new"), "x").unwrap();
        fs::create_dir(mine.join("dir")).unwrap();
        fs::rename(mine.join("new"), mine.join("dir/new")).unwrap();
        fs::remove_file(mine.join("dir/new")).unwrap();
        fs::read(read_only.join("secret")).unwrap();
        denied(fs::write(read_only.join("secret"), "x"));
        denied(fs::remove_file(read_only.join("secret")));
        denied(fs::read(other.join("secret")).map(drop));
        denied(fs::read_dir(&other).map(drop));
        denied(fs::read("/etc/hostname").map(drop));
        denied(fs::read("/proc/self/environ").map(drop));
        denied(fs::File::create(other.join("new")).map(drop));
        denied(fs::File::open("/dev/zero").map(drop));
        assert!(fs::rename(mine.join("secret"), other.join("taken")).is_err());
        assert!(fs::hard_link(other.join("secret"), mine.join("linked")).is_err());
    });
    for directory in directories {
        fs::remove_dir_all(directory).unwrap();
    }
}

fn stream_of(protocol: SockProtocol) -> std::io::Result<std::os::fd::OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let opened = socket(AddressFamily::Inet, SockType::Stream, flags, protocol);
    Ok(opened?)
}

#[test]
fn in_the_sandbox_nothing_runs_and_only_tcp_speaks() {
    if !is_complete() {
        return;
    }
    let paths = vec![("/".into(), Access::Read)];
    let plan = Plan {
        paths,
        ports: Some(vec![0..=0, 50_000..=50_010]),
        identities: false,
    };
    let socket = outside();
    let socket = socket.path().join("socket");
    confined(plan, move || {
        assert!(Command::new("/bin/true").status().is_err());
        let denied = |error: std::io::Error| {
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        };
        denied(UdpSocket::bind("127.0.0.1:0").unwrap_err());
        denied(UnixListener::bind(socket).unwrap_err());
        // Streams, but not TCP.
        denied(stream_of(SockProtocol::Sctp).unwrap_err());
        stream_of(SockProtocol::Tcp).unwrap();
        TcpListener::bind("127.0.0.1:0").unwrap();
        denied(TcpListener::bind("127.0.0.1:50011").unwrap_err());
        let itself = nix::unistd::Pid::this();
        assert_eq!(
            nix::sys::signal::kill(itself, None),
            Err(nix::errno::Errno::EPERM)
        );
        assert_eq!(nix::unistd::chroot("/"), Err(nix::errno::Errno::EPERM));
        assert_eq!(
            nix::sys::prctl::set_dumpable(true),
            Err(nix::errno::Errno::EPERM)
        );
        // Threads and memory are there as ever.
        let sum = thread::spawn(|| vec![1_u64; 1 << 20].iter().sum::<u64>());
        assert_eq!(sum.join().unwrap(), 1 << 20);
    });
}

/// Unmounts what a test has mounted, however it ends.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn on(directory: &Path) -> Self {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "none"]).arg(directory);
        common::run_client(&mut mount, 20).succeeded();
        fs::write(directory.join("file"), "of the disk").unwrap();
        Self(directory.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_disk_that_comes_later_is_reached_where_the_configuration_says_that_it_comes_and_goes() {
    if !root_may("mounting") {
        return;
    }
    if !is_complete() {
        return;
    }
    for (further, reached) in [("require_mount = true\n", true), ("", false)] {
        let above = tempfile::tempdir().unwrap();
        let disk = above.path().join("disk");
        fs::create_dir(&disk).unwrap();
        let server = Server::build()
            .configuration(&format!(
                "[anonymous]\nroot = \"{{root}}\"\n[[anonymous.folder]]\npath = \"/disk\"\nroot = \"{}\"\n{further}",
                disk.display()
            ))
            .start();
        let _mounted = Mounted::on(&disk);
        let mut client = server.connect();
        client.login_as("anonymous", "").expect(230);
        if reached {
            assert_eq!(client.retr("disk/file"), b"of the disk");
        } else {
            client.download("RETR disk/file").1.expect(550);
            server.wait_for_log("outside of the server's sandbox, which must be restarted");
        }
    }
}
