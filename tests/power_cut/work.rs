//! What clients do to the server while the disk is recorded: each promise that they are given is noted at once.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::common::{Client, Server, eventually, reset};
use crate::disk::Clock;
use crate::interrupted::Interrupted;
use crate::promises::{Promises, Upload, target_of};
use crate::random::Random;

/// Files that all sessions overwrite.
const SHARED: usize = 3;

/// All that happens in one recording.
pub struct Work {
    pub promises: Mutex<Promises>,
    clock: Clock,
    seed: u64,
}

/// One session with files of its own.
struct Session<'a> {
    work: &'a Work,
    server: &'a Server,
    client: Client,
    random: Random,
    /// What its names begin with.
    own: String,
    /// Finished files of its own, with what they hold.
    files: Vec<(String, Vec<u8>)>,
    made: usize,
}

impl Work {
    /// Work on a tree that holds files already, which `write` puts there.
    pub fn new(clock: Clock, seed: u64, mut write: impl FnMut(&str, &[u8])) -> Self {
        let mut promises = Promises::default();
        let mut random = Random::new(seed, 0);
        for number in 0..SHARED {
            let name = shared(number);
            let contents = random.bytes(20_000 * number + 1);
            write(&name, &contents);
            let now = clock.now();
            let upload = promises.begin(&name, contents, now);
            promises.whole(&upload, now);
            promises.promised(&upload, clock.now());
        }
        Self {
            promises: Mutex::new(promises),
            clock,
            seed,
        }
    }

    /// One session alone: what it is promised does not become true by what others flush.
    pub fn alone(&self, server: &Server) {
        let mut session = self.session(server, 0);
        for step in Step::ALL {
            session.step(step);
        }
        // More than is written out in one go while it comes.
        let contents = session.random.bytes(18_000_000);
        session.store("alone-large", contents);
        let contents = session.random.bytes(1000);
        session.store("alone-large", contents);
    }

    /// Several sessions at once.
    pub fn crowd(&self, server: &Server, sessions: u64, steps: usize) {
        std::thread::scope(|scope| {
            for number in 1..=sessions {
                scope.spawn(move || {
                    let mut session = self.session(server, number);
                    for _ in 0..steps {
                        let step = Step::ALL[session.random.below(Step::ALL.len())];
                        session.step(step);
                    }
                });
            }
        });
    }

    /// An upload whose connections are cut, while a neighbour has the disk commit what there is.
    pub fn interrupted(&self, server: &Server, story: &Interrupted) {
        let mut session = self.session(server, 0);
        let mut neighbour = self.session(server, 1);
        if let Some(old) = &story.old {
            session.store(&story.name, old.clone());
        }
        let upload = session.begin(&story.name, &story.contents);
        let mut from = 0;
        for end in story.ends(&mut session.random) {
            let slices = &story.contents[from..end];
            let mut data = story.go_on(&mut session.client, from, &mut session.random);
            for (number, slice) in slices.chunks(1 << 20).enumerate() {
                data.write_all(slice).unwrap();
                if number % 4 == 3 {
                    let name = neighbour.new_name("file");
                    let contents = neighbour.random.bytes(5000);
                    neighbour.store(&name, contents);
                }
            }
            if end < story.contents.len() {
                // On its way before the reset overtakes it.
                std::thread::sleep(Duration::from_millis(20));
                reset(data);
                session.client.reply().expect(426);
                from = story.left(&mut session.client, server, &mut session.random);
            } else {
                let now = self.clock.now();
                self.promises.lock().unwrap().whole(&upload, now);
                drop(data);
                let reply = session.client.reply();
                let now = self.clock.now();
                reply.expect(226);
                self.promises.lock().unwrap().promised(&upload, now);
            }
        }
    }

    fn session<'a>(&'a self, server: &'a Server, number: u64) -> Session<'a> {
        Session {
            work: self,
            server,
            client: connect(server),
            random: Random::new(self.seed, 100 + number),
            own: format!("s{number}"),
            files: Vec::new(),
            made: 0,
        }
    }
}

pub fn connect(server: &Server) -> Client {
    let mut client = server.connect();
    client.login();
    client.expect("TYPE I", 200);
    client
}

/// How much of an unfinished upload of this name there is.
pub fn left_of(name: &str, root: &Path) -> Option<usize> {
    partial_of(name, root).map(|(_, length)| length)
}

/// The same, and under what name.
pub fn partial_of(name: &str, root: &Path) -> Option<(PathBuf, usize)> {
    let entries = std::fs::read_dir(root).unwrap().flatten();
    let mut partials = entries.filter(|entry| {
        let target = target_of(&entry.file_name().to_string_lossy());
        target.is_some_and(|target| target == name)
    });
    let partial = partials.next()?;
    let length = partial.metadata().unwrap().len();
    Some((partial.path(), usize::try_from(length).unwrap()))
}

fn shared(number: usize) -> String {
    format!("shared-{number}")
}

#[derive(Clone, Copy)]
enum Step {
    New,
    Empty,
    Overwrite,
    OverwriteShared,
    Append,
    ContinueInTheMiddle,
    ResumeByRest,
    ResumeByAppend,
    Directory,
    RenameToNew,
    RenameOver,
    RenameDirectory,
    RemoveAndStore,
    GoneBeforeTheReply,
}

impl Step {
    const ALL: [Self; 14] = [
        Self::New,
        Self::Empty,
        Self::Overwrite,
        Self::OverwriteShared,
        Self::Append,
        Self::ContinueInTheMiddle,
        Self::ResumeByRest,
        Self::ResumeByAppend,
        Self::Directory,
        Self::RenameToNew,
        Self::RenameOver,
        Self::RenameDirectory,
        Self::RemoveAndStore,
        Self::GoneBeforeTheReply,
    ];
}

impl Session<'_> {
    fn step(&mut self, step: Step) {
        match step {
            Step::New => {
                let name = self.new_name("file");
                let contents = self.contents();
                self.store(&name, contents.clone());
                self.files.push((name, contents));
            }
            Step::Empty => {
                let name = self.new_name("empty");
                self.store(&name, Vec::new());
                self.files.push((name, Vec::new()));
            }
            Step::Overwrite => {
                let which = self.a_file();
                let contents = self.contents();
                self.store(&self.files[which].0.clone(), contents.clone());
                self.files[which].1 = contents;
            }
            Step::OverwriteShared => {
                let name = shared(self.random.below(SHARED));
                let contents = self.contents();
                self.store(&name, contents);
            }
            Step::Append => self.change_in_place(true),
            Step::ContinueInTheMiddle => self.change_in_place(false),
            Step::ResumeByRest => self.resume(true),
            Step::ResumeByAppend => self.resume(false),
            Step::Directory => self.directory(),
            Step::RenameToNew => self.rename(false),
            Step::RenameOver => self.rename(true),
            Step::RenameDirectory => self.rename_directory(),
            Step::RemoveAndStore => self.remove_and_store(),
            Step::GoneBeforeTheReply => {
                self.gone_before_the_reply(false);
                self.gone_before_the_reply(true);
            }
        }
    }

    fn promises(&self) -> MutexGuard<'_, Promises> {
        self.work.promises.lock().unwrap()
    }

    fn new_name(&mut self, what: &str) -> String {
        self.made += 1;
        format!("{}-{what}-{}", self.own, self.made)
    }

    /// Mostly small ones, for the tree is read for each cut.
    fn contents(&mut self) -> Vec<u8> {
        let most = [
            10, 600, 5000, 5000, 40_000, 40_000, 200_000, 200_000, 700_000, 3_000_000,
        ];
        let most = most[self.random.below(most.len())];
        let length = self.random.below(most) + 1;
        self.random.bytes(length)
    }

    /// One of the session's finished files.
    fn a_file(&mut self) -> usize {
        if self.files.is_empty() {
            self.step(Step::New);
        }
        self.random.below(self.files.len())
    }

    fn begin(&mut self, name: &str, contents: &[u8]) -> Upload {
        let now = self.work.clock.now();
        self.promises().begin(name, contents.to_vec(), now)
    }

    /// Sends bytes in the way that the command says and waits for the promise.
    fn send(&mut self, command: &str, bytes: &[u8], upload: &Upload) {
        let mut data = self.client.epsv();
        self.client.expect(command, 150);
        data.write_all(bytes).unwrap();
        let now = self.work.clock.now();
        self.promises().whole(upload, now);
        drop(data);
        let reply = self.client.reply();
        let now = self.work.clock.now();
        reply.expect(226);
        self.promises().promised(upload, now);
    }

    fn store(&mut self, name: &str, contents: Vec<u8>) {
        let upload = self.begin(name, &contents);
        self.send(&format!("STOR {name}"), &contents, &upload);
    }

    fn change_in_place(&mut self, append: bool) {
        let which = self.a_file();
        let (name, old) = self.files[which].clone();
        let from = if append {
            old.len()
        } else {
            self.random.below(old.len() + 1)
        };
        // What is behind the offset is replaced: never by less than was there.
        let mut bytes = self.contents();
        if from + bytes.len() < old.len() {
            bytes.resize(old.len() - from, b'+');
        }
        let new = [&old[..from], &bytes].concat();
        let upload = self.begin(&name, &new);
        self.promises().in_place(&upload, from);
        if append {
            self.send(&format!("APPE {name}"), &bytes, &upload);
        } else {
            self.client.expect(format!("REST {from}"), 350);
            self.send(&format!("STOR {name}"), &bytes, &upload);
        }
        self.files[which].1 = new;
    }

    /// An upload that is cut off and continued.
    fn resume(&mut self, by_rest: bool) {
        let name = self.new_name("resumed");
        let contents = [self.contents(), self.contents()].concat();
        let upload = self.begin(&name, &contents);
        let sent = self.random.below(contents.len());
        let mut data = self.client.epsv();
        self.client.expect(format!("STOR {name}"), 150);
        data.write_all(&contents[..sent]).unwrap();
        // On its way before the reset overtakes it.
        std::thread::sleep(Duration::from_millis(20));
        reset(data);
        self.client.reply().expect(426);
        let size = self.client.command(format!("SIZE {name}"));
        let from = match size.code {
            213 => String::from_utf8_lossy(size.last()).parse().unwrap(),
            // Nothing had arrived.
            _ => 0,
        };
        if by_rest {
            self.client.expect(format!("REST {from}"), 350);
            self.send(&format!("STOR {name}"), &contents[from..], &upload);
        } else {
            self.send(&format!("APPE {name}"), &contents[from..], &upload);
        }
        self.files.push((name, contents));
    }

    /// A client that dies when it has sent everything: the file is what it was before. It may have been the new one for a
    /// moment, whole, and is not for good.
    fn gone_before_the_reply(&mut self, replaces: bool) {
        let name = self.new_name("gone");
        if replaces {
            let old = self.contents();
            self.store(&name, old);
        }
        let contents = self.contents();
        let upload = self.begin(&name, &contents);
        let mut client = connect(self.server);
        let mut data = client.epsv();
        client.expect(format!("STOR {name}"), 150);
        data.write_all(&contents).unwrap();
        let now = self.work.clock.now();
        self.promises().whole(&upload, now);
        drop(data);
        drop(client);
        let server = self.server;
        eventually("the server is done with who is gone", || {
            let log = server.log_text();
            let mut lines = log.lines();
            lines.any(|line| {
                line.contains(&format!("/{name} ")) && line.contains("control connection lost")
            })
        });
        let now = self.work.clock.now();
        self.promises().withdrawn(&upload, now);
        let Some(from) = left_of(&name, &server.path("")).filter(|_| self.random.below(2) == 0)
        else {
            return;
        };
        // It comes again, and knows how much it has sent.
        let upload = self.begin(&name, &contents);
        self.client.expect(format!("REST {from}"), 350);
        self.send(&format!("STOR {name}"), &contents[from..], &upload);
    }

    fn make_directory(&mut self, name: &str) {
        let now = self.work.clock.now();
        self.promises().making(name, now);
        let reply = self.client.command(format!("MKD {name}"));
        let now = self.work.clock.now();
        reply.expect(257);
        self.promises().made(name, now);
    }

    fn directory(&mut self) {
        let name = self.new_name("dir");
        self.make_directory(&name);
        let inner = format!("{name}/inner");
        self.make_directory(&inner);
        let contents = self.contents();
        let name = format!("{inner}/file");
        self.store(&name, contents.clone());
        self.files.push((name, contents));
    }

    fn rename(&mut self, over: bool) {
        let from = self.new_name("uploading");
        let contents = self.contents();
        self.store(&from, contents.clone());
        let to = if over {
            let which = self.a_file();
            self.files[which].1 = contents;
            self.files[which].0.clone()
        } else {
            let name = self.new_name("renamed");
            self.files.push((name.clone(), contents));
            name
        };
        self.client.expect(format!("RNFR {from}"), 350);
        let now = self.work.clock.now();
        let upload = self.promises().renaming(&from, &to, now);
        let reply = self.client.command(format!("RNTO {to}"));
        let now = self.work.clock.now();
        reply.expect(250);
        self.promises().renamed(&from, &upload, now);
    }

    fn rename_directory(&mut self) {
        let (from, to) = (self.new_name("dir"), self.new_name("renamed-dir"));
        self.make_directory(&from);
        for number in 0..2 {
            let contents = self.contents();
            self.store(&format!("{from}/{number}"), contents);
        }
        self.client.expect(format!("RNFR {from}"), 350);
        let now = self.work.clock.now();
        let files = self.promises().renaming_directory(&from, &to, now);
        let reply = self.client.command(format!("RNTO {to}"));
        let now = self.work.clock.now();
        reply.expect(250);
        self.promises().renamed_directory((&from, &to), &files, now);
    }

    /// That it is gone is not promised; that it is there again is.
    fn remove_and_store(&mut self) {
        let which = self.a_file();
        let name = self.files[which].0.clone();
        let now = self.work.clock.now();
        self.promises().removing(&name, now);
        self.client.expect(format!("DELE {name}"), 250);
        let contents = self.contents();
        self.store(&name, contents.clone());
        self.files[which].1 = contents;
    }
}
