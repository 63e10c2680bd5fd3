//! An upload whose connections and whose power are cut by turns, and which is resumed each time, as clients do that want a file
//! to get there: over a new name by SIZE and REST or APPE, over a finished file by REST where the client knows how much it has
//! sent. However often it is cut, in the end it is what was to be sent, and until then nothing has its name but what had it
//! before.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use crate::common::{Client, Server, reset};
use crate::promises::VERSIONS;
use crate::random::Random;
use crate::work::{connect, left_of, partial_of};

const MIB: usize = 1 << 20;

/// What a server does not count on behind a power cut: a client need not send again what was before that.
const UNSURE: usize = 32 * MIB;

/// Of the whole file: so much that what was sent before the first cut is what the server counts on before it ends.
const LENGTH: usize = 60 * MIB;

pub struct Interrupted {
    pub name: String,
    /// What it replaces.
    pub old: Option<Vec<u8>>,
    pub contents: Vec<u8>,
}

/// What has become of it in one boot.
pub struct Continued {
    /// Promises that were broken.
    pub broken: Vec<String>,
    /// What had the name when the boot began.
    had: Option<Vec<u8>>,
    /// All of it was sent.
    is_whole: bool,
    /// The server has said that it is stored.
    pub is_promised: bool,
}

impl Interrupted {
    pub fn new(seed: u64, replaces: bool) -> Self {
        let mut random = Random::new(seed, 5);
        Self {
            name: "interrupted".to_owned(),
            old: replaces.then(|| random.bytes(MIB)),
            contents: random.bytes(LENGTH),
        }
    }

    /// Where its connections are cut in the first boot, and its end.
    pub fn ends(&self, random: &mut Random) -> Vec<usize> {
        let mut ends = vec![(16 + random.below(8)) * MIB + random.below(MIB)];
        for _ in 0..random.below(3) {
            ends.push(ends[ends.len() - 1] + random.below(8 * MIB) + 1);
        }
        ends.push(LENGTH);
        ends
    }

    /// Sends the command by which an upload is begun, or continued from an offset that the server knows.
    pub fn go_on(&self, client: &mut Client, from: usize, random: &mut Random) -> TcpStream {
        let size = client.command(format!("SIZE {}", self.name));
        let is_told =
            self.old.is_none() && size.code == 213 && size.last() == from.to_string().as_bytes();
        let data = client.epsv();
        if is_told && random.below(2) == 0 {
            client.expect(format!("APPE {}", self.name), 150);
            return data;
        }
        if from > 0 {
            client.expect(format!("REST {from}"), 350);
        }
        client.expect(format!("STOR {}", self.name), 150);
        data
    }

    /// From where a client goes on whose connection was cut, but not the power: from what SIZE tells, or where it knows better
    /// from there.
    pub fn left(&self, client: &mut Client, server: &Server, random: &mut Random) -> usize {
        if self.old.is_none() && random.below(2) == 0 {
            let size = client.command(format!("SIZE {}", self.name));
            return size_of(&size.expect(213));
        }
        left_of(&self.name, &server.path("")).unwrap_or(0)
    }

    /// How much of it the server of another boot lets a client take for granted, at most; and whether that is there.
    fn granted(&self, client: &mut Client, root: &Path) -> (usize, Option<String>) {
        let Some((path, length)) = partial_of(&self.name, root) else {
            return (0, None);
        };
        let told = client.command(format!("SIZE {}", self.name));
        let told = if self.old.is_none() && told.code == 213 {
            size_of(&told)
        } else {
            0
        };
        // What is most is refused first.
        let more = [0, MIB, UNSURE / 2, UNSURE].map(|unsure| length.saturating_sub(unsure));
        let mut more = more.into_iter().filter(|&more| more > told);
        let granted = more
            .find(|&more| self.may_go_on(client, more))
            .unwrap_or(told);
        if granted == 0 {
            return (0, None);
        }
        let there = fs::read(&path).unwrap();
        let same = granted.min(there.len());
        let is_there = there.len() >= granted && there[..same] == self.contents[..same];
        let complaint = (!is_there).then(|| {
            let first = there.iter().zip(&self.contents).position(|(is, was)| is != was);
            format!(
                "{}: {granted} bytes count as sure, of {} that are there; the first that is wrong: {first:?}",
                self.name,
                there.len()
            )
        });
        (granted, complaint)
    }

    /// Whether the server would continue it there. Nothing is sent, so nothing is changed.
    fn may_go_on(&self, client: &mut Client, from: usize) -> bool {
        client.expect(format!("REST {from}"), 350);
        let data = client.epsv();
        let reply = client.command(format!("STOR {}", self.name));
        reset(data);
        if reply.code == 554 {
            return false;
        }
        reply.expect(150);
        client.reply().expect(426);
        true
    }

    /// Looks at what the server of another boot counts on.
    pub fn check_what_is_sure(&self, server: &Server) -> Option<String> {
        self.granted(&mut connect(server), &server.path("")).1
    }

    /// What a client does when the power has come back: it goes on, is cut off some more times, and may get to the end.
    pub fn go_on_in_another_boot(
        &self,
        server: &Server,
        to_the_end: bool,
        random: &mut Random,
    ) -> Continued {
        let mut client = connect(server);
        let mut continued = Continued {
            broken: Vec::new(),
            had: fs::read(server.path(&self.name)).ok(),
            is_whole: false,
            is_promised: false,
        };
        let (mut from, complaint) = self.granted(&mut client, &server.path(""));
        continued.broken.extend(complaint);
        if self.old.is_none() && random.below(2) == 0 {
            // By what it is told.
            let told = client.command(format!("SIZE {}", self.name));
            from = if told.code == 213 { size_of(&told) } else { 0 };
        }
        let (cuts, mut neighbours) = (random.below(3), 0);
        for turn in 0..=cuts {
            let is_last = turn == cuts && to_the_end;
            let end = if is_last {
                LENGTH
            } else {
                from + random.below(LENGTH - from) / 2
            };
            let mut data = self.go_on(&mut client, from, random);
            for (number, slice) in self.contents[from..end].chunks(MIB).enumerate() {
                data.write_all(slice).unwrap();
                if number % 8 == 3 {
                    // Has the disk commit what there is.
                    connect(server).stor(&format!("neighbour-{turn}-{neighbours}"), b"contents");
                    neighbours += 1;
                }
            }
            if is_last {
                continued.is_whole = true;
                drop(data);
                client.reply().expect(226);
                continued.is_promised = true;
                if server.read(&self.name) != self.contents {
                    continued.broken.push(format!(
                        "{}: is not what was sent, and acknowledged",
                        self.name
                    ));
                }
            } else {
                std::thread::sleep(Duration::from_millis(20));
                reset(data);
                client.reply().expect(426);
                from = self.left(&mut client, server, random);
            }
        }
        continued
    }

    /// Looks at what has its name behind a power cut: whether that is the file which was to be sent.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self, root: &Path, continued: &Continued) -> Result<bool, String> {
        let there = fs::read(root.join(&self.name)).ok();
        let is_new = there.as_ref() == Some(&self.contents);
        let is_right = match continued.is_promised {
            true => is_new,
            false => there == continued.had || (continued.is_whole && is_new),
        };
        if !is_right {
            let length = there.map(|there| there.len());
            return Err(format!(
                "{}: {length:?} bytes are not what they should be",
                self.name
            ));
        }
        let Some(old) = continued.had.as_ref().filter(|_| is_new) else {
            return Ok(is_new);
        };
        let kept = fs::read_dir(root.join(VERSIONS).join(&self.name));
        let mut kept = kept.into_iter().flatten().flatten();
        match kept.any(|kept| fs::read(kept.path()).is_ok_and(|kept| kept == *old)) {
            true => Ok(true),
            false => Err(format!("{}: its old version is lost", self.name)),
        }
    }

    /// Whether it is there in the end.
    pub fn is_stored(&self, root: &Path) -> bool {
        fs::read(root.join(&self.name)).is_ok_and(|there| there == self.contents)
    }
}

fn size_of(reply: &crate::common::Reply) -> usize {
    String::from_utf8_lossy(reply.last()).parse().unwrap()
}
