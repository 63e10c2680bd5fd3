//! Power cuts: a disk is recorded while clients upload, and then put into the state in which a cut leaves it, hundreds of
//! times. Whatever was acknowledged by then must be there, whole, under its name; and whatever has a name must be whole.
//!
//! | file | subject |
//! |---|---|
//! | `disk` | the disk that records, and what a cut leaves of it |
//! | `work` | what the clients do meanwhile |
//! | `interrupted` | an upload whose connections and whose power are cut by turns |
//! | `promises` | what they were promised, and whether that is kept |
//!
//! Each run takes another seed and prints it; `POWER_CUT_SEED` takes it again. `POWER_CUT_TIME=10` gives each test ten times the
//! time, so that no cut is left out on a slow machine, and goes through all of what comes behind a cut instead of some. A cut that breaks a promise leaves the disk as a
//! file, to be looked at.

#[path = "../common/mod.rs"]
mod common;
mod disk;
mod interrupted;
mod promises;
mod random;
mod work;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::mounts::{Mount, format, may_mount, program};
use common::{Server, skip};
use disk::{Disk, Entry, Loss};
use interrupted::Interrupted;
use nix::mount::MsFlags;
use nix::sys::signal::Signal;
use promises::{Found, Promises, Unpromised};
use random::Random;
use tempfile::{NamedTempFile, TempDir};
use work::Work;

/// A file system to try.
struct Kind {
    name: &'static str,
    mkfs: &'static [&'static str],
    /// Of the disk, in bytes.
    size: u64,
    options: &'static str,
    unpromised: Unpromised,
    /// What must succeed on the disk after a cut, once it was mounted.
    fsck: Option<&'static [&'static str]>,
}

const EXT4: Kind = Kind {
    name: "ext4",
    mkfs: &[
        "mkfs.ext4",
        "-q",
        "-F",
        "-b4096",
        "-E",
        "lazy_itable_init=0,lazy_journal_init=0",
    ],
    size: 192 << 20,
    options: "noatime",
    unpromised: Unpromised::WholeOrContinued,
    fsck: Some(&["e2fsck", "-fn"]),
};

/// With fast commits to flush a file is no commit of the journal: names may stay behind, and those of Linux 6.18 lose a little
/// even where all is flushed in full besides. The server makes none. That the kernel replays directories in a way that
/// e2fsck(8) complains of is its own affair.
const FAST_COMMITS: Kind = Kind {
    mkfs: &["mkfs.ext4", "-q", "-F", "-b4096", "-O", "fast_commit"],
    fsck: None,
    ..EXT4
};

const XFS: Kind = Kind {
    name: "xfs",
    mkfs: &["mkfs.xfs", "-q", "-f"],
    size: 320 << 20,
    options: "noatime",
    unpromised: Unpromised::Whole,
    fsck: None,
};

const BTRFS: Kind = Kind {
    name: "btrfs",
    mkfs: &["mkfs.btrfs", "-q", "-f"],
    size: 320 << 20,
    options: "noatime,nodiscard",
    unpromised: Unpromised::Whole,
    fsck: None,
};

/// What was recorded.
struct Recording {
    kind: Kind,
    disk: Disk,
    log: Vec<Entry>,
    /// Where the clients' work begins in it.
    start: usize,
    promises: Promises,
    /// All old versions are kept.
    versions: bool,
    /// Clients continue what was cut off.
    continued: bool,
    /// This upload is continued, and cut again.
    interrupted: Option<Interrupted>,
    boots: Option<Boots>,
    settings: String,
    /// Broken promises are what is looked for: nothing is said of each.
    expected: bool,
    seed: u64,
    at: TempDir,
}

/// Whether the kernel and the tools for it are there; else why not.
fn is_there(kind: &Kind, image: &Path, at: &Path) -> Result<(), String> {
    format(image, kind.size, kind.mkfs)?;
    Mount::image(image, kind.name, kind.options, at).map(Mount::unmount)
}

/// Records the disk of a server with these settings while clients work. None, and the test is skipped, where that cannot be
/// done.
fn record(
    kind: Kind,
    settings: &str,
    clients_work: impl FnOnce(&Work, &Server),
) -> Option<Recording> {
    if !may_mount() {
        return None;
    }
    let (at, images) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let image = images.path().join("image");
    let disk = is_there(&kind, &image, at.path()).and_then(|()| Disk::new(&image));
    let mut disk = match disk {
        Ok(disk) => disk,
        Err(why) => {
            skip(format_args!("no {} here: {why}", kind.name));
            return None;
        }
    };
    let (seed, began) = (random::seed(), Instant::now());
    let mount = Mount::image(&disk.file(), kind.name, kind.options, at.path()).unwrap();
    let root = at.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let clock = disk.clock();
    let work = Work::new(clock.clone(), seed, |name, contents| {
        std::fs::write(root.join(name), contents).unwrap();
    });
    nix::unistd::syncfs(File::open(at.path()).unwrap()).unwrap();
    let start = clock.now().position;
    let server = serve(settings, &root);
    clients_work(&work, &server);
    server.signal(Signal::SIGKILL);
    server.wait();
    let end = clock.now().position;
    drop(server);
    mount.unmount();
    let mut log = disk.rewind();
    log.truncate(end);
    let flushes = log.iter().filter(|entry| matches!(entry, Entry::Flush));
    let flushes = flushes.count();
    println!(
        "{}: seed {seed}: recorded {} writes and {flushes} flushes in {:.1} s",
        kind.name,
        log.len() - flushes,
        began.elapsed().as_secs_f64()
    );
    Some(Recording {
        kind,
        disk,
        log,
        start,
        promises: work.promises.into_inner().unwrap(),
        versions: settings.contains("versions"),
        continued: false,
        interrupted: None,
        boots: None,
        settings: settings.to_owned(),
        expected: false,
        seed,
        at,
    })
}

/// A server with these settings of its users.
fn serve(settings: &str, root: &Path) -> Server {
    Server::build()
        .user("")
        .keys(&format!("{settings}\n"))
        .serving(root)
        .start()
}

/// How many times the time that they are given by default the tests take.
fn times() -> u64 {
    std::env::var("POWER_CUT_TIME").map_or(1, |times| times.parse().unwrap())
}

/// One power cut.
#[derive(Clone, Copy, Debug)]
struct Cut {
    position: usize,
    loss: Loss,
}

/// What cuts have broken.
#[derive(Default)]
struct Damage {
    broken: Vec<String>,
    half_versions: BTreeSet<String>,
}

impl Recording {
    /// The instants of the acknowledgements, with all lost that may be, or some of it; at most so many.
    fn at_acknowledgements(&self, most: usize) -> Vec<Cut> {
        let mut random = Random::new(self.seed, 1);
        let mut positions = self.promises.positions(self.start);
        while positions.len() > most {
            positions.remove(random.below(positions.len()));
        }
        let losses = [Loss::All, Loss::All, Loss::Pieces].into_iter().cycle();
        let cuts = positions.into_iter().zip(losses);
        cuts.map(|(position, loss)| Cut { position, loss })
            .collect()
    }

    fn at_random(&self, count: usize) -> Vec<Cut> {
        let mut random = Random::new(self.seed, 2);
        let cuts = (0..count).map(|_| Cut {
            position: self.start + random.below(self.log.len() + 1 - self.start),
            loss: Loss::EACH[random.below(Loss::EACH.len())],
        });
        cuts.collect()
    }

    /// Makes these cuts, fewer where there is not the time for all.
    fn make(&mut self, mut cuts: Vec<Cut>, time: Duration) -> Damage {
        let time = time * u32::try_from(times()).unwrap();
        cuts.sort_by_key(|cut| cut.position);
        let (began, all) = (Instant::now(), cuts.len());
        let (mut made, mut bad, mut lost, mut promised) = (0, 0, 0, 0);
        let mut random = Random::new(self.seed, 3);
        let mut damage = Damage::default();
        for (number, cut) in cuts.into_iter().enumerate() {
            // Those that are left out are spread over the log.
            if began.elapsed().as_secs_f64() > time.as_secs_f64() * (number + 1) as f64 / all as f64
            {
                continue;
            }
            lost += self
                .disk
                .cut(&self.log, cut.position, cut.loss, &mut random);
            let mut found = self.look(cut);
            if self.interrupted.is_some() && (number % 8 == 0 || times() > 1) {
                found.broken.extend(self.go_on(number as u64));
            }
            made += 1;
            promised += found.promised;
            if !found.broken.is_empty() {
                if bad < 3 && !self.expected {
                    self.tell(cut, &found);
                }
                bad += 1;
            }
            damage.broken.extend(found.broken);
            damage.half_versions.extend(found.half_versions);
        }
        println!(
            "{}: seed {}: {made} of {all} cuts, with {} writes at stake and {} files promised each on average, in {:.1} s; \
             {bad} broke a promise",
            self.kind.name,
            self.seed,
            lost / made.max(1),
            promised / made.max(1),
            began.elapsed().as_secs_f64(),
        );
        damage
    }

    /// Mounts what is left, as after a start, and looks at it.
    fn look(&mut self, cut: Cut) -> Found {
        let file = self.disk.file();
        let mount = match Mount::image(&file, self.kind.name, self.kind.options, self.at.path()) {
            Ok(mount) => mount,
            Err(why) => {
                return Found {
                    broken: vec![format!("cannot be mounted: {why}")],
                    ..Found::default()
                };
            }
        };
        let root = self.at.path().join("root");
        let (promises, position) = (&self.promises, cut.position);
        let mut found = promises.check(&root, position, self.kind.unpromised);
        if self.versions {
            found.broken.extend(promises.check_kept(&root, position));
        }
        if self.continued {
            found.broken.extend(continue_all(
                &promises.to_be_continued(&root, position),
                &root,
            ));
        }
        if let Some(interrupted) = &self.interrupted {
            if let Some(boots) = &self.boots {
                boots.begin(&mut Random::new(self.seed, 1000 + cut.position as u64));
            }
            let server = serve(&self.settings, &root);
            found.broken.extend(interrupted.check_what_is_sure(&server));
        }
        mount.unmount();
        let complaint = self.kind.fsck.and_then(|fsck| check_disk(fsck, &file));
        found.broken.extend(complaint);
        found
    }

    /// Has the client go on with the upload that was interrupted, cuts the power again at random, and once more when the upload
    /// is acknowledged. Tells what promises were broken.
    fn go_on(&mut self, number: u64) -> Vec<String> {
        let mut random = Random::new(self.seed, 2000 + number);
        let root = self.at.path().join("root");
        for boot in [2, 3] {
            match self.go_on_until_a_cut(&root, boot == 3, &mut random) {
                Ok(false) => {}
                Ok(true) => return Vec::new(),
                Err(broken) => return vec![format!("boot {boot}: {broken}")],
            }
        }
        vec!["was never stored".to_owned()]
    }

    /// One boot, and a cut at its end, or at random. Whether the upload is stored.
    fn go_on_until_a_cut(
        &mut self,
        root: &Path,
        to_the_end: bool,
        random: &mut Random,
    ) -> Result<bool, String> {
        let interrupted = self.interrupted.as_ref().unwrap();
        let (kind, options, at) = (self.kind.name, self.kind.options, self.at.path());
        let (mark, clock) = (self.disk.record_again(), self.disk.clock());
        let mount = Mount::image(&self.disk.file(), kind, options, at)?;
        if let Some(boots) = &self.boots {
            boots.begin(random);
        }
        let server = serve(&self.settings, root);
        let start = clock.now().position;
        let is_sent = to_the_end || random.below(2) == 0;
        let is_stored = interrupted.is_stored(root);
        let continued =
            (!is_stored).then(|| interrupted.go_on_in_another_boot(&server, is_sent, random));
        let end = clock.now().position;
        server.signal(Signal::SIGKILL);
        server.wait();
        drop(server);
        mount.unmount();
        let log = self.disk.end_recording();
        let Some(mut continued) = continued else {
            return Ok(true);
        };
        let mut position = end;
        let mut loss = Loss::All;
        if !to_the_end {
            position = start + random.below(end + 1 - start);
            loss = Loss::EACH[random.below(Loss::EACH.len())];
            // It may be, or not.
            continued.is_promised = false;
        }
        if let Some(broken) = continued.broken.pop() {
            return Err(broken);
        }
        self.disk.cut_again((mark, &log), position, loss, random);
        let mount = Mount::image(&self.disk.file(), kind, options, at)?;
        let checked = interrupted.check(root, &continued);
        mount.unmount();
        checked
    }

    /// Says what a cut broke, and keeps the disk.
    fn tell(&self, cut: Cut, found: &Found) {
        let (kind, seed) = (self.kind.name, self.seed);
        let name = format!("power-cut-{kind}-{seed}-{}", cut.position);
        let kept: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        self.disk.keep(&kept);
        println!(
            "{kind}: seed {seed}, {cut:?}: {:#?}; the disk, after it was mounted: {}",
            found.broken,
            kept.display()
        );
    }
}

fn check_disk(fsck: &[&str], disk: &Path) -> Option<String> {
    let checker = program(fsck[0])?;
    let mut command = Command::new(checker);
    let output = command.args(&fsck[1..]).arg(disk).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (!output.status.success()).then(|| format!("{}: {}\n{text}", fsck[0], output.status))
}

/// Starts a server on what a cut has left and sends the rest of each upload, as clients do; which of the files are not what
/// was to be sent.
fn continue_all(uploads: &[(String, &[u8])], root: &Path) -> Vec<String> {
    if uploads.is_empty() {
        return Vec::new();
    }
    let server = Server::build().serving(root).start();
    let mut client = server.client();
    let mut broken = Vec::new();
    for (number, (name, contents)) in uploads.iter().enumerate() {
        let size = client.command(format!("SIZE {name}"));
        let from = match size.code {
            213 => String::from_utf8_lossy(size.last()).parse().unwrap(),
            _ => 0,
        };
        if from > contents.len() {
            broken.push(format!(
                "{name}: {from} bytes are there of {}",
                contents.len()
            ));
            continue;
        }
        let command = if number % 2 == 0 {
            client.expect(format!("REST {from}"), 350);
            "STOR"
        } else {
            "APPE"
        };
        client
            .upload(format!("{command} {name}"), &contents[from..])
            .expect(226);
        if server.read(name) != *contents {
            broken.push(format!(
                "{name}: was continued from {from} to something else, and acknowledged"
            ));
        }
    }
    broken
}

/// Has programs believe that the machine was started anew, which it is not.
struct Boots(NamedTempFile);

impl Boots {
    fn pretend() -> Self {
        let file = NamedTempFile::new().unwrap();
        let (identity, none) = ("/proc/sys/kernel/random/boot_id", None::<&str>);
        nix::mount::mount(Some(file.path()), identity, none, MsFlags::MS_BIND, none).unwrap();
        Self(file)
    }

    fn begin(&self, random: &mut Random) {
        let digits = format!("{:016x}{:016x}", random.next(), random.next());
        let (a, rest) = digits.split_at(8);
        let (b, c, d) = (&rest[..4], &rest[4..8], &rest[8..12]);
        let name = format!("{a}-{b}-{c}-{d}-{}\n", &rest[12..]);
        std::fs::write(self.0.path(), name).unwrap();
    }
}

fn alone_and_in_a_crowd(work: &Work, server: &Server) {
    work.alone(server);
    work.crowd(server, 8, 12);
}

/// Makes cuts in a recording: at the instants of acknowledgements, at most so many, and at random.
#[track_caller]
fn no_cut_breaks_a_promise(
    recording: Option<Recording>,
    (acknowledged, random): (usize, usize),
    seconds: u64,
) {
    let Some(mut recording) = recording else {
        return;
    };
    let mut cuts = recording.at_acknowledgements(acknowledged);
    cuts.extend(recording.at_random(random));
    let damage = recording.make(cuts, Duration::from_secs(seconds));
    assert_eq!(damage.broken, [""; 0]);
}

#[test]
fn no_power_cut_breaks_a_promise_on_ext4() {
    let recording = record(EXT4, "", alone_and_in_a_crowd);
    no_cut_breaks_a_promise(recording, (1000, 200), 90);
}

#[test]
fn no_power_cut_breaks_a_promise_on_xfs() {
    let recording = record(XFS, "", alone_and_in_a_crowd);
    no_cut_breaks_a_promise(recording, (100, 150), 60);
}

#[test]
fn no_power_cut_breaks_a_promise_on_btrfs() {
    let recording = record(BTRFS, "", alone_and_in_a_crowd);
    no_cut_breaks_a_promise(recording, (100, 150), 60);
}

#[test]
fn no_power_cut_breaks_a_promise_on_ext4_with_fast_commits() {
    let recording = record(FAST_COMMITS, "", alone_and_in_a_crowd);
    no_cut_breaks_a_promise(recording, (100, 150), 60);
}

#[test]
fn no_power_cut_loses_an_old_version_that_is_kept() {
    let recording = record(EXT4, "versions = 1000", |work, server| {
        work.crowd(server, 3, 14);
    });
    no_cut_breaks_a_promise(recording, (60, 40), 40);
}

#[test]
fn no_power_cut_leaves_half_an_old_version() {
    let recording = record(EXT4, "versions = 1000", |work, server| {
        work.crowd(server, 4, 14);
    });
    let Some(mut recording) = recording else {
        return;
    };
    let cuts = recording.at_random(200);
    let damage = recording.make(cuts, Duration::from_secs(40));
    assert_eq!(damage.half_versions, BTreeSet::new());
}

#[test]
fn what_a_power_cut_interrupts_is_continued_to_what_was_to_be_sent() {
    let recording = record(EXT4, "", |work, server| work.crowd(server, 5, 14));
    let Some(mut recording) = recording else {
        return;
    };
    let boots = Boots::pretend();
    boots.begin(&mut Random::new(recording.seed, 4));
    recording.continued = true;
    let cuts = recording.at_random(200);
    let damage = recording.make(cuts, Duration::from_secs(60));
    assert_eq!(damage.broken, [""; 0]);
}

#[test]
fn what_is_acknowledged_is_safe_where_uploads_are_made_in_place() {
    let kind = Kind {
        unpromised: Unpromised::Anything,
        ..EXT4
    };
    let recording = record(kind, "uploads = \"direct\"", |work, server| {
        work.alone(server);
    });
    no_cut_breaks_a_promise(recording, (60, 20), 40);
}

/// Cuts in a recording of an upload whose connections were cut, at random; what comes behind some of them as well.
#[track_caller]
fn however_often_it_is_cut_it_becomes_what_was_sent(kind: Kind, replaces: bool) {
    let kind = Kind {
        size: 320 << 20,
        ..kind
    };
    let interrupted = Interrupted::new(random::seed(), replaces);
    let settings = if replaces { "versions = 5" } else { "" };
    let recording = record(kind, settings, |work, server| {
        work.interrupted(server, &interrupted);
    });
    let Some(mut recording) = recording else {
        return;
    };
    recording.interrupted = Some(interrupted);
    recording.boots = Some(Boots::pretend());
    let mut cuts = recording.at_acknowledgements(10);
    cuts.extend(recording.at_random(100));
    let damage = recording.make(cuts, Duration::from_secs(45));
    assert_eq!(damage.broken, [""; 0]);
    assert_eq!(damage.half_versions, BTreeSet::new());
}

#[test]
fn an_upload_that_is_cut_and_resumed_by_turns_becomes_what_was_sent_on_ext4() {
    however_often_it_is_cut_it_becomes_what_was_sent(EXT4, false);
}

#[test]
fn an_upload_that_is_cut_and_resumed_by_turns_becomes_what_was_sent_on_xfs() {
    however_often_it_is_cut_it_becomes_what_was_sent(XFS, false);
}

#[test]
fn an_upload_that_is_cut_and_resumed_by_turns_becomes_what_was_sent_on_btrfs() {
    however_often_it_is_cut_it_becomes_what_was_sent(BTRFS, false);
}

#[test]
fn an_upload_that_is_cut_and_resumed_by_turns_becomes_what_was_sent_with_fast_commits() {
    however_often_it_is_cut_it_becomes_what_was_sent(FAST_COMMITS, false);
}

#[test]
fn a_replacement_that_is_cut_and_resumed_by_turns_mixes_nothing_on_ext4() {
    however_often_it_is_cut_it_becomes_what_was_sent(EXT4, true);
}

#[test]
fn a_replacement_that_is_cut_and_resumed_by_turns_mixes_nothing_on_xfs() {
    however_often_it_is_cut_it_becomes_what_was_sent(XFS, true);
}

#[test]
fn a_replacement_that_is_cut_and_resumed_by_turns_mixes_nothing_on_btrfs() {
    however_often_it_is_cut_it_becomes_what_was_sent(BTRFS, true);
}

#[test]
fn a_replacement_that_is_cut_and_resumed_by_turns_mixes_nothing_with_fast_commits() {
    however_often_it_is_cut_it_becomes_what_was_sent(FAST_COMMITS, true);
}

#[test]
fn these_tests_find_what_a_server_loses_that_does_not_flush() {
    let Some(mut recording) = record(EXT4, "durable = false", Work::alone) else {
        return;
    };
    recording.expected = true;
    let mut cuts = recording.at_acknowledgements(10);
    cuts.extend(recording.at_random(20));
    let damage = recording.make(cuts, Duration::from_secs(60));
    for part in ["is lost", "the directory is lost", "an older version"] {
        let is_found = damage.broken.iter().any(|broken| broken.contains(part));
        assert!(is_found, "{part}: not found in {:?}", damage.broken);
    }
}
