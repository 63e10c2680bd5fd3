//! A local enemy swaps names between harmless things and links out of the root, as fast as it can, while the session works
//! below them. Whatever the session is told, nothing outside is read, made, changed or removed.

use crate::common::{Client, Reply};
use crate::scene::{Case, SECRET, Scene, case};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long each race is run.
const LONG: Duration = Duration::from_secs(2);

/// Exchanges two names, over and over, until it is dropped.
struct Enemy {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Enemy {
    fn exchanging(one: PathBuf, other: PathBuf) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let mut exchanges = 0;
            while !told.load(Ordering::Relaxed) {
                // The session may have taken one of them away or be about to.
                if renameat2(
                    AT_FDCWD,
                    &one,
                    AT_FDCWD,
                    &other,
                    RenameFlags::RENAME_EXCHANGE,
                )
                .is_ok()
                {
                    exchanges += 1;
                }
            }
            exchanges
        });
        Self {
            over,
            thread: Some(thread),
        }
    }

    fn exchanges(mut self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        self.thread
            .take()
            .map_or(0, |thread| thread.join().unwrap())
    }
}

impl Drop for Enemy {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// `swap` is now a directory like that of the secrets, now a link to it; `swapped` a file or a link to a secret.
fn furnish(scene: &Scene) {
    let top = scene.server.path("arena");
    for name in ["swap", "spare"] {
        let _ = fs::remove_dir_all(top.join(name)).or_else(|_| fs::remove_file(top.join(name)));
    }
    fs::create_dir_all(top.join("swap/dir")).unwrap();
    fs::create_dir_all(top.join("swap/empty")).unwrap();
    fs::write(top.join("swap/secret"), "harmless").unwrap();
    fs::write(top.join("swap/dir/hidden"), "harmless").unwrap();
    symlink("../../outside", top.join("spare")).unwrap();
}

/// Runs `turn` for a while against the exchange of `arena/swap` and `arena/spare`; true from it counts as a success. Some turns
/// must succeed, or the enemy was never outrun, and some must not, or it was never there.
fn race(name: &str, turn: impl Fn(&mut Client, &Scene) -> bool + 'static) -> Case {
    // A listing of what is no directory any more is a short one, and only seldom refused.
    let is_seldom_refused = name == "listing";
    case(name, move |scene| {
        furnish(scene);
        let enemy = Enemy::exchanging(
            scene.server.path("arena/swap"),
            scene.server.path("arena/spare"),
        );
        let mut session = scene.server.client();
        let (mut turns, mut done) = (0, 0);
        let end = Instant::now() + LONG;
        while Instant::now() < end {
            turns += 1;
            done += u32::from(turn(&mut session, scene));
        }
        let exchanges = enemy.exchanges();
        eprintln!("  {done} of {turns} turns succeeded, {exchanges} exchanges");
        assert!(
            0 < done && (done < turns || is_seldom_refused),
            "no race: {done} of {turns} turns succeeded"
        );
        assert!(
            exchanges > 100 && turns > 10,
            "no race: {exchanges} exchanges, {turns} turns"
        );
        session.expect("NOOP", 200);
    })
}

fn was_done(reply: &Reply) -> bool {
    assert!((200..600).contains(&reply.code), "{}", reply.text());
    reply.code < 300
}

pub fn cases() -> Vec<Case> {
    vec![
        race("reading", |client, _| {
            let (bytes, reply) = client.download("RETR arena/swap/secret");
            assert!(
                bytes.is_empty() || bytes == b"harmless",
                "a secret came out"
            );
            was_done(&reply)
        }),
        race("reading where the session stands", |client, _| {
            client.command("CWD /arena/swap");
            let (bytes, reply) = client.download("RETR secret");
            assert!(
                bytes.is_empty() || bytes == b"harmless",
                "a secret came out"
            );
            client.expect("CWD /", 250);
            was_done(&reply)
        }),
        race("writing a new file", |client, _| {
            was_done(&client.upload("STOR arena/swap/new", b"hostile"))
        }),
        race("writing over a file", |client, _| {
            was_done(&client.upload("STOR arena/swap/secret", b"harmless"))
        }),
        race("adding to a file", |client, _| {
            was_done(&client.upload("APPE arena/swap/added", b"hostile"))
        }),
        race("listing", |client, _| {
            let (bytes, reply) = client.download("LIST -R arena/swap/");
            Scene::no_secret_in(&bytes);
            // What lies inside has other sizes.
            let size = format!("{:>12} ", SECRET.len());
            assert!(
                !String::from_utf8_lossy(&bytes).contains(&size),
                "the secrets were listed"
            );
            was_done(&reply)
        }),
        race("telling facts", |client, _| {
            let reply = client.command("SIZE arena/swap/secret");
            assert!(
                !reply.text().ends_with(&format!(" {}", SECRET.len())),
                "the secret's size was told"
            );
            was_done(&reply)
        }),
        race("removing a file", |client, scene| {
            let done = was_done(&client.command("DELE arena/swap/secret"));
            let _ = fs::write(scene.server.path("arena/spare2"), "harmless");
            client.command("RNFR arena/spare2");
            client.command("RNTO arena/swap/secret");
            done
        }),
        race("making and removing directories", |client, _| {
            let made = was_done(&client.command("MKD arena/swap/new"));
            was_done(&client.command("RMD arena/swap/new"));
            was_done(&client.command("RMD arena/swap/empty"));
            made
        }),
        race("removing a tree", |client, scene| {
            let done = was_done(&client.command("RMDA arena/swap/dir"));
            was_done(&client.command("RMDA arena/swap"));
            // Carried there whole, for whatever is made through the name may be made outside.
            let top = scene.server.path("arena");
            if fs::create_dir_all(top.join("fresh/dir")).is_ok() {
                let _ = fs::write(top.join("fresh/dir/hidden"), "harmless");
                let _ = fs::rename(top.join("fresh"), top.join("swap"));
            }
            done
        }),
        race("renaming in and out", |client, _| {
            client.command("RNFR arena/swap/secret");
            let done = was_done(&client.command("RNTO arena/swap/dir/other"));
            client.command("RNFR arena/swap/dir/other");
            was_done(&client.command("RNTO arena/swap/secret"));
            done
        }),
        race("changing modes and times", |client, _| {
            let done = was_done(&client.command("SITE CHMOD 600 arena/swap/secret"));
            was_done(&client.command("MFMT 20200101000000 arena/swap/secret"));
            was_done(&client.command("MFF UNIX.mode=0777;Modify=20200101000000; arena/swap/dir"));
            done
        }),
        case("a last component that becomes a link", |scene| {
            let top = scene.server.path("arena");
            fs::create_dir_all(&top).unwrap();
            fs::write(top.join("aim"), "harmless").unwrap();
            symlink("../../outside/secret", top.join("other")).unwrap();
            let enemy = Enemy::exchanging(top.join("aim"), top.join("other"));
            let (mut read, mut refused) = (0, 0);
            let end = Instant::now() + LONG;
            while Instant::now() < end {
                let (bytes, reply) = scene.client.download("RETR arena/aim");
                Scene::no_secret_in(&bytes);
                read += u32::from(reply.code < 300);
                refused += u32::from(reply.code >= 500);
                was_done(&scene.client.upload("STOR arena/aim", b"harmless"));
                was_done(&scene.client.upload("APPE arena/aim", b"harmless"));
                was_done(&scene.client.command("SITE CHMOD 600 arena/aim"));
                was_done(&scene.client.command("MFMT 20200101000000 arena/aim"));
                // An upload that began with a file under the name may have taken the link's place.
                let is_link = |name| top.join(name).is_symlink();
                if !is_link("aim") && !is_link("other") {
                    let _ = fs::remove_file(top.join("other"));
                    let _ = symlink("../../outside/secret", top.join("other"));
                }
            }
            assert!(enemy.exchanges() > 100);
            assert!(read > 0 && refused > 0, "{read} read, {refused} refused");
        }),
        case(
            "a directory that is carried out of the root under the session",
            |scene| {
                let (inside, outside) = (
                    scene.server.path("arena"),
                    scene.server.home().join("carried"),
                );
                fs::create_dir_all(inside.join("here/deep")).unwrap();
                fs::write(inside.join("here/deep/file"), "harmless").unwrap();
                fs::create_dir_all(outside.join("spare/deep")).unwrap();
                let enemy = Enemy::exchanging(inside.join("here"), outside.join("spare"));
                let mut entered = 0;
                let end = Instant::now() + LONG;
                while Instant::now() < end {
                    let reply = scene.client.command("CWD /arena/here/deep");
                    entered += u32::from(reply.code == 250);
                    for line in [
                        "RETR ../../../../outside/secret",
                        "RETR ../../outside/secret",
                        "NLST ../../..",
                    ] {
                        let (bytes, _) = scene.client.download(line);
                        Scene::no_secret_in(&bytes);
                        assert!(
                            !String::from_utf8_lossy(&bytes)
                                .lines()
                                .any(|name| name.ends_with("outside"))
                        );
                    }
                    was_done(
                        &scene
                            .client
                            .upload("STOR ../../../outside/secret", b"hostile"),
                    );
                    scene.client.expect("CWD /", 250);
                }
                assert!(enemy.exchanges() > 100 && entered > 0);
                fs::remove_dir_all(outside).unwrap();
            },
        ),
    ]
}
