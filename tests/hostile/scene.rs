//! Where a case plays: a server with a few files, secrets beside its root, one session that misbehaves and one that does not.

use crate::common::{Builder, Client, PASSWORD, Server, USER, eventually};
use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What the files outside of the root hold.
pub const SECRET: &[u8] = b"what nobody inside may see";

/// Sessions that the server takes at once: a class that leaks a slot cannot fill them at its end.
const SESSIONS: usize = 12;

/// One thing that a hostile client tries.
pub struct Case {
    pub name: String,
    act: Box<dyn Fn(&mut Scene)>,
}

pub fn case(name: impl Into<String>, act: impl Fn(&mut Scene) + 'static) -> Case {
    Case {
        name: name.into(),
        act: Box::new(act),
    }
}

/// Every path below a directory with what can be seen of it.
pub type Picture = BTreeMap<PathBuf, String>;

pub struct Scene {
    pub server: Server,
    /// The session that misbehaves; a case that ruins it begins another with [`Scene::renew`].
    pub client: Client,
    bystander: Client,
    outside: Picture,
    inside: Picture,
    threads: usize,
    descriptors: usize,
}

/// Plays the cases of a class one after the other and looks around after each.
pub fn play(class: &str, cases: Vec<Case>) {
    let Some(mut scene) = Scene::new(Server::build()) else {
        return;
    };
    for Case { name, act } in cases {
        eprintln!("{class}: {name}");
        let begun = Instant::now();
        act(&mut scene);
        scene.look_around();
        eprintln!("  {} ms", begun.elapsed().as_millis());
    }
    scene.nothing_leaked();
}

impl Scene {
    /// None, and the class is skipped, where nobody could tell what leaks.
    #[track_caller]
    fn new(builder: Builder) -> Option<Self> {
        let limit = SESSIONS.to_string();
        // What the limits before the login are for is shown elsewhere; here they would be in the way.
        let keys = format!("sessions_before_login = {SESSIONS}\ncommands_before_login = 1000\n");
        let server = builder
            .keys(&keys)
            .arguments(&["--sessions", &limit, "--sessions-per-ip", &limit])
            .start();
        if !server.counts_descriptors() {
            return None;
        }
        let outside = server.directory("outside");
        fs::create_dir_all(outside.join("dir/empty")).unwrap();
        for name in ["secret", "dir/hidden"] {
            fs::write(outside.join(name), SECRET).unwrap();
        }
        server.write("file", "inside");
        server.write("dir/inner", "inside too");
        server.write("dir/deep/x", "x");
        fs::create_dir(server.path("empty")).unwrap();
        for (name, target) in [
            ("link-file", PathBuf::from("../outside/secret")),
            ("link-dir", "../outside".into()),
            ("link-chain", "link-dir".into()),
            ("link-up", "..".into()),
            ("link-abs", outside.clone()),
            ("dir/link-far", "../../../../../../../../../..".into()),
        ] {
            symlink(target, server.path(name)).unwrap();
        }
        fill(&server);
        let mut descriptors = 0;
        eventually("the first sessions have ended", || {
            let before = std::mem::replace(&mut descriptors, server.descriptors());
            std::thread::sleep(Duration::from_millis(100));
            before == descriptors
        });
        let threads = server.threads();
        let mut scene = Self {
            client: server.client(),
            bystander: server.client(),
            outside: picture(&outside, true),
            inside: Picture::new(),
            threads,
            descriptors,
            server,
        };
        scene.inside = scene.picture_inside();
        Some(scene)
    }

    /// The directory of the secrets.
    pub fn outside(&self) -> PathBuf {
        self.server.home().join("outside")
    }

    /// A new session in the place of the one that was ruined.
    pub fn renew(&mut self) {
        self.client = self.server.client();
    }

    /// What lies inside at this moment belongs there from now on.
    pub fn settle(&mut self) {
        self.inside = self.picture_inside();
    }

    /// Fails if any byte of a secret is in it.
    #[track_caller]
    pub fn no_secret_in(bytes: &[u8]) {
        assert!(
            !bytes.windows(SECRET.len()).any(|window| window == SECRET),
            "a secret came out"
        );
    }

    fn picture_inside(&self) -> Picture {
        picture(&self.server.path(""), false)
    }

    /// What must hold after every case: the session is in step and the server serves others; outside nothing has changed;
    /// inside, what was there is as it was. What is new inside is taken away.
    #[track_caller]
    pub fn look_around(&mut self) {
        assert!(
            !self.client.has_reply_waiting(),
            "a reply too many: {}",
            self.client.reply().text()
        );
        self.client.expect("NOOP", 200);
        self.client.expect("ABOR", 226);
        self.client.expect("CWD /", 250);
        self.bystander.expect("NOOP", 200);
        assert!(self.server.is_running());
        assert!(
            !self.server.log_text().contains("defect"),
            "a session panicked"
        );
        assert_eq!(
            picture(&self.outside(), true),
            self.outside,
            "something changed outside of the root"
        );
        let inside = self.picture_inside();
        for path in inside
            .keys()
            .rev()
            .filter(|path| !self.inside.contains_key(*path))
        {
            let path = self.server.path(path);
            let is_directory = path.symlink_metadata().is_ok_and(|found| found.is_dir());
            let _ = if is_directory {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            };
        }
        assert_eq!(
            self.picture_inside(),
            self.inside,
            "what lay in the root has changed"
        );
    }

    /// What must hold at the end of a class: as many sessions find a place as at the start, and when they have gone the
    /// server holds what it held.
    fn nothing_leaked(self) {
        let Self {
            server,
            client,
            bystander,
            threads,
            descriptors,
            ..
        } = self;
        drop((client, bystander));
        fill(&server);
        eventually("descriptors are given back", || {
            server.descriptors() <= descriptors
        });
        // A worker that nobody needs goes after half a minute.
        let deadline = Instant::now() + Duration::from_secs(60);
        while server.threads() > threads {
            assert!(Instant::now() < deadline, "threads are not given back");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// As many sessions as there may be, and one more that is refused.
fn fill(server: &Server) {
    let mut sessions = Vec::new();
    eventually("every slot is free", || {
        sessions.clear();
        sessions.extend((0..SESSIONS).map(|_| Client::connect(server.address())));
        // Who says nothing may have to make room for the next.
        sessions.iter_mut().all(|client| {
            let greeted = client.reply_or_end().is_some_and(|reply| reply.code == 220);
            greeted && client.command(format!("USER {USER}")).code == 331
        })
    });
    for client in &mut sessions {
        client.expect(format!("PASS {PASSWORD}"), 230);
    }
    let mut refused = Client::connect(server.address());
    refused.reply().expect(421);
    for client in &mut sessions {
        client.expect("QUIT", 221);
    }
    // Their slots are free when the server has closed them.
    sessions.iter_mut().for_each(Client::expect_end);
    drop(sessions);
    eventually("the sessions are over", || {
        Client::connect(server.address())
            .reply_or_end()
            .is_some_and(|reply| reply.code == 220)
    });
}

fn picture(top: &Path, with_times: bool) -> Picture {
    fn walk(top: &Path, at: &Path, with_times: bool, found: &mut Picture) {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(top).unwrap().to_owned();
            // The server's own records.
            if name.to_string_lossy().starts_with(".thriftpd") {
                continue;
            }
            let Ok(metadata) = path.symlink_metadata() else {
                continue;
            };
            let mut text = format!("{:o} {}", metadata.mode(), metadata.nlink());
            if metadata.is_file() {
                let mut hasher = DefaultHasher::new();
                // Large ones are told by their times: debug builds are slow at this.
                if metadata.len() < 1 << 16 {
                    fs::read(&path).unwrap_or_default().hash(&mut hasher);
                }
                text += &format!(
                    " {} {} {:x}",
                    metadata.mtime_nsec(),
                    metadata.len(),
                    hasher.finish()
                );
            } else if metadata.is_symlink() {
                text += &format!(" {:?}", fs::read_link(&path).unwrap());
            } else if with_times {
                text += &format!(" {} {}", metadata.mtime(), metadata.mtime_nsec());
            }
            // Directories that come and go change the number of links of the one they are in.
            if metadata.is_dir() {
                text = text
                    .split_once(' ')
                    .map_or(text.clone(), |(mode, _)| mode.to_owned());
                if with_times {
                    text += &format!(" {}.{}", metadata.mtime(), metadata.mtime_nsec());
                }
                walk(top, &path, with_times, found);
            }
            found.insert(name, text);
        }
    }
    let mut found = Picture::new();
    walk(top, top, with_times, &mut found);
    found
}

/// Writes as far as the other side takes it; what it has closed is no failure here.
pub fn throw(mut stream: &TcpStream, bytes: &[u8]) {
    let _ = stream.write_all(bytes);
}
