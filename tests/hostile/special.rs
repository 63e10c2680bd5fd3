//! What is in the tree and no file: FIFOs, sockets, devices, and whole file systems that the kernel makes up.

use crate::common::{Server, is_root, skip_part};
use crate::scene::{Case, Scene, case};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use std::io::Read as _;
use std::os::unix::fs::{FileTypeExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

/// Name, kind and device number.
const KINDS: &[(&str, SFlag, u64, u64)] = &[
    ("a FIFO", SFlag::S_IFIFO, 0, 0),
    ("a socket", SFlag::S_IFSOCK, 0, 0),
    ("the null device", SFlag::S_IFCHR, 1, 3),
    ("the device of endless zeros", SFlag::S_IFCHR, 1, 5),
    ("the full device", SFlag::S_IFCHR, 1, 7),
    ("the device of random bytes", SFlag::S_IFCHR, 1, 8),
    ("the kernel's memory", SFlag::S_IFCHR, 1, 1),
    ("a terminal", SFlag::S_IFCHR, 5, 0),
    ("a console", SFlag::S_IFCHR, 5, 1),
    ("a disk", SFlag::S_IFBLK, 7, 250),
];

fn make_pipe(scene: &Scene) {
    let mode = Mode::from_bits_truncate(0o666);
    mknod(&scene.server.path("pipe"), SFlag::S_IFIFO, mode, 0).unwrap();
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for &(name, kind, major, minor) in KINDS {
        cases.push(case(format!("reading {name}"), move |scene| {
            let Some(path) = make(scene, kind, major, minor) else {
                return;
            };
            for verb in ["RETR", "REST 10\r\nRETR"] {
                let data = scene.client.epsv();
                let lines = format!("{verb} odd");
                if let Some((rest, retr)) = lines.split_once("\r\n") {
                    scene.client.expect(rest, 350);
                    scene.client.expect(retr, 550);
                } else {
                    scene.client.expect(lines, 550);
                }
                drop(data);
            }
            scene.client.expect("SIZE odd", 550);
            scene.client.expect("CWD odd", 550);
            scene
                .client
                .download("MLSD odd")
                .1
                .expect_one_of(&[501, 550]);
            scene.client.expect("MLST odd", 250);
            assert_eq!(scene.client.list("LIST odd").len(), 1);
            assert!(path.symlink_metadata().is_ok());
        }));
        cases.push(case(format!("writing to {name}"), move |scene| {
            let Some(path) = make(scene, kind, major, minor) else {
                return;
            };
            for verb in ["STOR", "APPE"] {
                scene
                    .client
                    .upload(format!("{verb} odd"), b"hostile")
                    .expect(550);
            }
            scene.client.expect("REST 5", 350);
            scene
                .client
                .upload("STOR odd", b"hostile")
                .expect_one_of(&[550, 554]);
            scene.client.expect("MKD odd", 550);
            scene.client.expect("RMD odd", 550);
            let kind = path.symlink_metadata().unwrap().file_type();
            assert!(!kind.is_file() && !kind.is_dir(), "it was replaced");
        }));
    }
    cases.extend([
        case(
            "a FIFO with a writer and a socket with a listener",
            |scene| {
                make_pipe(scene);
                let pipe = std::fs::File::options()
                    .read(true)
                    .write(true)
                    .open(scene.server.path("pipe"))
                    .unwrap();
                let socket = UnixListener::bind(scene.server.path("socket")).unwrap();
                socket.set_nonblocking(true).unwrap();
                for name in ["pipe", "socket"] {
                    scene.client.download(format!("RETR {name}")).1.expect(550);
                    scene
                        .client
                        .upload(format!("STOR {name}"), b"hostile")
                        .expect(550);
                }
                assert!(socket.accept().is_err(), "somebody connected to the socket");
                assert!(
                    scene
                        .server
                        .path("pipe")
                        .symlink_metadata()
                        .unwrap()
                        .file_type()
                        .is_fifo()
                );
                drop(pipe);
            },
        ),
        case(
            "removing and renaming what is no file opens nothing",
            |scene| {
                make_pipe(scene);
                scene.client.expect("RNFR pipe", 350);
                scene.client.expect("RNTO dir/tube", 250);
                scene.client.expect("SITE CHMOD 600 dir/tube", 550);
                scene.client.expect("MFMT 20260101000000 dir/tube", 550);
                scene.client.expect("DELE dir/tube", 250);
            },
        ),
        case("proc below the root", |scene| {
            let Some(server) = with_mounted("/proc", "proc") else {
                return;
            };
            let mut client = server.client();
            let own = format!("proc/{}", server.pid());
            // Links by which the kernel leads anywhere are not followed.
            for link in ["root", "cwd", "exe", "fd/0", "fd/1", "fd/2", "ns/mnt"] {
                client.download(format!("RETR {own}/{link}")).1.expect(550);
                client
                    .upload(format!("STOR {own}/{link}"), b"x")
                    .expect(550);
            }
            for line in [
                "CWD {}/root",
                "CWD {}/root/etc",
                "SIZE {}/root/etc/passwd",
                "CWD proc/self/root",
            ] {
                client.expect(line.replace("{}", &own), 550);
            }
            for file in ["mem", "environ", "maps", "stat", "kmsg"] {
                let (bytes, reply) = client.download(format!("RETR {own}/{file}"));
                reply.expect_one_of(&[226, 451, 550]);
                assert!(bytes.is_empty(), "{file} has no size and sends nothing");
            }
            // It blocks whoever reads it without asking.
            client
                .download("RETR proc/kmsg")
                .1
                .expect_one_of(&[226, 451, 550]);
            for line in [
                "STOR {}/comm",
                "STOR {}/oom_score_adj",
                "APPE {}/comm",
                "STOR proc/sysrq-trigger",
            ] {
                client
                    .upload(line.replace("{}", &own), b"0")
                    .expect_one_of(&[450, 550, 553]);
            }
            for line in [
                "DELE {}/comm",
                "RMDA {}",
                "SITE CHMOD 777 {}/comm",
                "MFMT 20260101000000 {}/comm",
                "MKD proc/x",
            ] {
                client.expect(line.replace("{}", &own), 550);
            }
            client.download(format!("LIST {own}/")).1.expect(226);
            client.download(format!("MLSD {own}/fd")).1.expect(226);
            client.expect("NOOP", 200);
            look_at(scene, &server);
        }),
        case("sys below the root", |scene| {
            let Some(server) = with_mounted("/sys", "sys") else {
                return;
            };
            let mut client = server.client();
            // Files that say they have a page and have less: what is sent is not taken for the whole.
            let mut data = client.epsv();
            client.expect("RETR sys/kernel/mm/transparent_hugepage/enabled", 150);
            let mut bytes = Vec::new();
            let _ = data.read_to_end(&mut bytes);
            client.reply().expect(451);
            assert!(bytes.len() <= 4096);
            client
                .upload("STOR sys/power/state", b"mem")
                .expect_one_of(&[450, 550, 553]);
            client
                .upload("APPE sys/power/state", b"mem")
                .expect_one_of(&[450, 550, 553]);
            for line in [
                "DELE sys/power/state",
                "RMDA sys/power",
                "SITE CHMOD 777 sys/power",
                "MKD sys/x",
            ] {
                client.expect(line, 550);
            }
            client.download("LIST sys/class/net/").1.expect(226);
            client.expect("NOOP", 200);
            look_at(scene, &server);
        }),
        case("devices below the root", |scene| {
            let Some(server) = with_mounted("/dev", "dev") else {
                return;
            };
            let mut client = server.client();
            for name in [
                "null", "zero", "full", "random", "tty", "console", "kmsg", "ptmx", "stdin", "fd/0",
            ] {
                client.download(format!("RETR dev/{name}")).1.expect(550);
                client.upload(format!("STOR dev/{name}"), b"x").expect(550);
            }
            // That it was opened would show by another error: there is no master of terminals in this place.
            symlink("dev/ptmx", server.path("link")).unwrap();
            client.upload("STOR link", b"x").expect(550);
            client.upload("APPE link", b"x").expect(550);
            client.download("LIST dev/").1.expect(226);
            look_at(scene, &server);
        }),
    ]);
    cases
}

fn make(scene: &Scene, kind: SFlag, major: u64, minor: u64) -> Option<std::path::PathBuf> {
    let path = scene.server.path("odd");
    match mknod(
        &path,
        kind,
        Mode::from_bits_truncate(0o666),
        makedev(major, minor),
    ) {
        Ok(()) => Some(path),
        Err(error) if !is_root() || error == nix::errno::Errno::EPERM => {
            skip_part("making a device needs root");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A server of its own with this place of the host below its root, read-only and in a mount namespace of its own, so
/// that nobody else ever sees it there.
fn with_mounted(what: &str, name: &str) -> Option<Server> {
    if !is_root() || !Path::new("/usr/bin/unshare").exists() {
        skip_part(format_args!("mounting {what} needs root and unshare(1)"));
        return None;
    }
    Some(Server::build().mounting(what, name).start())
}

fn look_at(_: &Scene, server: &Server) {
    assert!(server.is_running());
    assert!(!server.log_text().contains("defect"));
}
