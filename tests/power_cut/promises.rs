//! What the clients sent and what the server promised them, each with the moment; and whether a tree of files, as it was found
//! after a power cut, keeps the promises.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// When something happened.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// How much had happened to the disk.
    pub position: usize,
    /// Tells what came first among the clients.
    pub order: u64,
}

/// Contents that an upload is to give a file.
#[derive(Debug)]
struct Version {
    contents: Vec<u8>,
    begun: Moment,
    /// From when the file may hold them: all was sent, and the end of it.
    whole: Option<Moment>,
    promised: Option<Moment>,
    /// The server knows that the client was gone: since then it is no file.
    withdrawn: Option<Moment>,
    /// The finished file is changed where it is, from this offset on.
    in_place_from: Option<usize>,
}

#[derive(Debug, Default)]
struct File {
    versions: Vec<Version>,
    /// When removing it, or giving it another name, was begun.
    removed: Vec<Moment>,
    /// Where it went, for good: from when, since when, to which name.
    moved: Option<(Moment, Option<Moment>, String)>,
}

/// A directory, which may have been renamed.
#[derive(Debug, Default)]
struct Directory {
    promised: Option<Moment>,
    begun: Option<Moment>,
    removed: Option<Moment>,
    gone: Option<Moment>,
}

#[derive(Debug, Default)]
pub struct Promises {
    files: BTreeMap<String, File>,
    directories: BTreeMap<String, Directory>,
}

/// One upload, to be told more about.
#[derive(Clone, Debug)]
pub struct Upload {
    name: String,
    number: usize,
}

/// What was found in a tree.
#[derive(Debug, Default)]
pub struct Found {
    /// Promises that were broken.
    pub broken: Vec<String>,
    /// Old versions that are none.
    pub half_versions: Vec<String>,
    /// Files that had to be there.
    pub promised: usize,
}

/// What a server of these settings promises of files that it has not acknowledged yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpromised {
    /// They are whole, or what they were before.
    Whole,
    /// The same, but for finished files that are continued.
    WholeOrContinued,
    /// Nothing: they grow under their own names.
    Anything,
}

impl Promises {
    /// An upload begins.
    pub fn begin(&mut self, name: &str, contents: Vec<u8>, begun: Moment) -> Upload {
        let versions = &mut self.files.entry(name.to_owned()).or_default().versions;
        versions.push(Version {
            contents,
            begun,
            whole: None,
            promised: None,
            withdrawn: None,
            in_place_from: None,
        });
        Upload {
            name: name.to_owned(),
            number: versions.len() - 1,
        }
    }

    fn version(&mut self, upload: &Upload) -> &mut Version {
        let file = self.files.get_mut(&upload.name).unwrap();
        &mut file.versions[upload.number]
    }

    /// It changes the finished file itself, from an offset on.
    pub fn in_place(&mut self, upload: &Upload, from: usize) {
        self.version(upload).in_place_from = Some(from);
    }

    /// All of it is sent; now comes its end, or its name.
    pub fn whole(&mut self, upload: &Upload, moment: Moment) {
        self.version(upload).whole = Some(moment);
    }

    /// The server has said that it is stored.
    pub fn promised(&mut self, upload: &Upload, moment: Moment) {
        self.version(upload).promised = Some(moment);
    }

    /// The server has found the client gone, and has done with it.
    pub fn withdrawn(&mut self, upload: &Upload, moment: Moment) {
        self.version(upload).withdrawn = Some(moment);
    }

    /// A file is to be removed.
    pub fn removing(&mut self, name: &str, moment: Moment) {
        self.files.get_mut(name).unwrap().removed.push(moment);
    }

    /// A file, whose name is never used again, is to have another name. The upload is to the new name.
    pub fn renaming(&mut self, from: &str, to: &str, moment: Moment) -> Upload {
        let file = self.files.get_mut(from).unwrap();
        file.removed.push(moment);
        file.moved = Some((moment, None, to.to_owned()));
        let contents = file.versions.last().unwrap().contents.clone();
        let upload = self.begin(to, contents, moment);
        self.whole(&upload, moment);
        upload
    }

    pub fn renamed(&mut self, from: &str, upload: &Upload, moment: Moment) {
        self.promised(upload, moment);
        let file = self.files.get_mut(from).unwrap();
        file.moved.as_mut().unwrap().1 = Some(moment);
    }

    pub fn making(&mut self, directory: &str, moment: Moment) {
        let directories = &mut self.directories;
        directories.entry(directory.to_owned()).or_default().begun = Some(moment);
    }

    pub fn made(&mut self, directory: &str, moment: Moment) {
        self.directories.get_mut(directory).unwrap().promised = Some(moment);
    }

    /// A directory, whose name is never used again, is to have another name, and so are the files in it. Returns what to say
    /// then.
    pub fn renaming_directory(
        &mut self,
        from: &str,
        to: &str,
        moment: Moment,
    ) -> Vec<(String, Upload)> {
        self.directories.get_mut(from).unwrap().removed = Some(moment);
        self.making(to, moment);
        let inside = format!("{from}/");
        let names = self.files.keys().filter(|name| name.starts_with(&inside));
        let names: Vec<String> = names.cloned().collect();
        let moved = names.into_iter().map(|name| {
            let new = format!("{to}/{}", &name[inside.len()..]);
            let upload = self.renaming(&name, &new, moment);
            (name, upload)
        });
        moved.collect()
    }

    pub fn renamed_directory(
        &mut self,
        (from, to): (&str, &str),
        files: &[(String, Upload)],
        moment: Moment,
    ) {
        self.directories.get_mut(from).unwrap().gone = Some(moment);
        self.made(to, moment);
        for (name, upload) in files {
            self.renamed(name, upload, moment);
        }
    }

    /// Positions from `start` on at which the server had just promised something, in their order.
    pub fn positions(&self, start: usize) -> Vec<usize> {
        let files = self.files.values().flat_map(|file| {
            let versions = file.versions.iter();
            versions.filter_map(|version| version.promised)
        });
        let directories = self.directories.values().filter_map(|made| made.promised);
        let positions = files.chain(directories).map(|moment| moment.position);
        let positions: BTreeSet<usize> = positions.filter(|&at| at >= start).collect();
        positions.into_iter().collect()
    }

    /// Looks at what a power cut at a position of the log has left.
    pub fn check(&self, top: &Path, position: usize, unpromised: Unpromised) -> Found {
        let (mut files, mut directories) = (BTreeMap::new(), BTreeSet::new());
        if let Err(error) = walk(top, "", &mut files, &mut directories) {
            return Found {
                broken: vec![format!("cannot be read: {error}")],
                ..Found::default()
            };
        }
        let mut found = Found::default();
        for (whole_name, contents) in &files {
            let name = whole_name;
            if is_partial(name) {
                continue;
            }
            if let Some(name) = old_version(name) {
                // A copy that was cut off has not become a version.
                if whole_name.ends_with(".partial") {
                    continue;
                }
                let complaint = self.check_old(name, contents, position);
                found.half_versions.extend(complaint);
                continue;
            }
            let complaint = match self.files.get(name) {
                Some(file) => file.check(contents, position, unpromised),
                None => Some("nobody sent such a file".to_owned()),
            };
            found
                .broken
                .extend(complaint.map(|complaint| format!("{name}: {complaint}")));
        }
        for (name, file) in &self.files {
            if file.must_be_there(position) {
                found.promised += 1;
                if !files.contains_key(name) {
                    found.broken.push(format!("{name}: is lost"));
                }
            }
            found.broken.extend(file.check_move(name, position, &files));
        }
        self.check_directories(position, &directories, &mut found);
        found
    }

    fn check_directories(&self, position: usize, there: &BTreeSet<String>, found: &mut Found) {
        for name in there {
            let is_ours = self.directories.contains_key(name) || name.starts_with(VERSIONS);
            if !is_ours {
                found
                    .broken
                    .push(format!("{name}: nobody made such a directory"));
            }
        }
        for (name, directory) in &self.directories {
            let by_then =
                |moment: Option<Moment>| moment.is_some_and(|moment| moment.position <= position);
            let is_there = there.contains(name);
            if by_then(directory.promised) && !by_then(directory.removed) && !is_there {
                found.broken.push(format!("{name}: the directory is lost"));
            }
            if is_there && (by_then(directory.gone) || !by_then(directory.begun)) {
                found
                    .broken
                    .push(format!("{name}: the directory should not be there"));
            }
        }
    }

    /// An old version is one of those that the file had.
    fn check_old(&self, name: &str, contents: &[u8], position: usize) -> Option<String> {
        let mut versions = self
            .files
            .get(name)
            .into_iter()
            .flat_map(|file| &file.versions);
        let is_one = versions.any(|version| {
            version
                .whole
                .is_some_and(|whole| whole.position <= position)
                && version.contents == contents
        });
        (!is_one).then(|| {
            format!(
                "{name}: {} bytes are no version that there was",
                contents.len()
            )
        })
    }

    /// Where all old versions are kept, those that a promised upload has replaced must be there.
    pub fn check_kept(&self, top: &Path, position: usize) -> Vec<String> {
        let mut lost = Vec::new();
        for (name, file) in &self.files {
            for pair in file.versions.windows(2) {
                let [old, new] = pair else { continue };
                let (Some(was), Some(is)) = (old.promised, new.promised) else {
                    continue;
                };
                let replaced = was.order < new.begun.order
                    && is.position <= position
                    && new.in_place_from.is_none()
                    && !file.removed.iter().any(|moment| moment.order > was.order);
                if !replaced {
                    continue;
                }
                let kept = fs::read_dir(top.join(VERSIONS).join(name));
                let mut kept = kept.into_iter().flatten().flatten();
                if !kept.any(|entry| fs::read(entry.path()).is_ok_and(|kept| kept == old.contents))
                {
                    lost.push(format!(
                        "{name}: its old version of {} bytes is lost",
                        old.contents.len()
                    ));
                }
            }
        }
        lost
    }

    /// Unfinished uploads that a client can continue, and so will: the name and all that it has to send.
    pub fn to_be_continued(&self, top: &Path, position: usize) -> Vec<(String, &[u8])> {
        let (mut files, mut directories) = (BTreeMap::new(), BTreeSet::new());
        if walk(top, "", &mut files, &mut directories).is_err() {
            return Vec::new();
        }
        let targets = files.keys().filter_map(|name| target_of(name));
        let targets: BTreeSet<String> = targets.filter(|name| !files.contains_key(name)).collect();
        let uploads = targets.into_iter().filter_map(|name| {
            let versions = &self.files.get(&name)?.versions;
            let begun = |version: &&Version| version.begun.position <= position;
            let contents = &versions.iter().rev().find(begun)?.contents;
            Some((name, contents.as_slice()))
        });
        uploads.collect()
    }
}

impl File {
    /// What is wrong with the contents, if anything is.
    fn check(&self, contents: &[u8], position: usize, unpromised: Unpromised) -> Option<String> {
        let by_then = |moment: Option<Moment>| moment.filter(|moment| moment.position <= position);
        let mut is_old = false;
        for version in &self.versions {
            let is_it = by_then(version.whole).is_some() && version.contents == contents;
            if !is_it || by_then(version.withdrawn).is_some() {
                continue;
            }
            // Whether another was promised whose end came after this one was promised.
            let replaced = self.versions.iter().any(|other| {
                let (Some(promised), Some(newer)) = (version.promised, other.whole) else {
                    return false;
                };
                by_then(other.promised).is_some() && newer.order > promised.order
            });
            if !replaced {
                return None;
            }
            is_old = true;
        }
        // Written in place while it comes.
        let coming = |version: &&Version| {
            version.begun.position <= position && by_then(version.promised).is_none()
        };
        let mut coming = self.versions.iter().filter(coming);
        let tolerated = match unpromised {
            Unpromised::Whole => false,
            Unpromised::WholeOrContinued => coming.any(|version| version.is_half_way_to(contents)),
            Unpromised::Anything => coming.next().is_some(),
        };
        if tolerated {
            return None;
        }
        if is_old {
            return Some("an older version than the one that was promised".to_owned());
        }
        let versions = self.versions.iter();
        let best = versions.map(|version| common_length(contents, &version.contents));
        Some(format!(
            "{} bytes, which nobody sent; the first {} are of a version",
            contents.len(),
            best.max().unwrap_or(0)
        ))
    }

    /// Promised, and not removed since.
    fn must_be_there(&self, position: usize) -> bool {
        self.versions.iter().any(|version| {
            let (Some(whole), Some(promised)) = (version.whole, version.promised) else {
                return false;
            };
            let removed =
                |moment: &Moment| moment.position <= position && moment.order > whole.order;
            promised.position <= position && !self.removed.iter().any(removed)
        })
    }

    /// What was renamed is at its new name, or still at its old one.
    fn check_move(
        &self,
        name: &str,
        position: usize,
        there: &BTreeMap<String, Vec<u8>>,
    ) -> Option<String> {
        let (begun, done, to) = self.moved.as_ref()?;
        let last = self.versions.last()?;
        let was_promised = last
            .promised
            .is_some_and(|moment| moment.position <= position);
        if done.is_some_and(|done| done.position <= position) {
            return there
                .contains_key(name)
                .then(|| format!("{name}: was renamed to {to} and is still there"));
        }
        let lost = begun.position <= position
            && was_promised
            && !there.contains_key(name)
            && !there.contains_key(to);
        lost.then(|| format!("{name}: is lost on its way to {to}"))
    }
}

impl Version {
    /// Whether a finished file that is changed in place may look so meanwhile: what is before the offset is as it was, and it
    /// is not longer than it will be. What was behind the offset may be old, new, or not there yet.
    fn is_half_way_to(&self, contents: &[u8]) -> bool {
        self.in_place_from.is_some_and(|from| {
            contents.len() >= from
                && contents.len() <= self.contents.len()
                && contents[..from] == self.contents[..from]
        })
    }
}

/// Where old versions are kept.
pub const VERSIONS: &str = ".thriftpd-versions";

/// The file whose old version has this name.
fn old_version(name: &str) -> Option<&str> {
    let below = name.strip_prefix(VERSIONS)?.strip_prefix('/')?;
    below.rsplit_once('/').map(|(name, _)| name)
}

/// Whether an unfinished upload has this name.
pub fn is_partial(name: &str) -> bool {
    let base = name.rsplit('/').next().unwrap_or(name);
    base.starts_with(".thriftpd-") && base.ends_with(".partial")
}

/// What an unfinished upload of this name is to become, if it can be continued.
pub fn target_of(name: &str) -> Option<String> {
    let (directory, base) = match name.rsplit_once('/') {
        Some((directory, base)) => (format!("{directory}/"), base),
        None => (String::new(), name),
    };
    let inner = base.strip_prefix(".thriftpd-")?.strip_suffix(".partial")?;
    let (target, digest) = inner.rsplit_once('-')?;
    (digest.len() == 16).then(|| format!("{directory}{target}"))
}

fn common_length(left: &[u8], right: &[u8]) -> usize {
    let same = left.len().min(right.len());
    if left[..same] == right[..same] {
        return same;
    }
    left.iter().zip(right).take_while(|(l, r)| l == r).count()
}

fn walk(
    at: &Path,
    below: &str,
    files: &mut BTreeMap<String, Vec<u8>>,
    directories: &mut BTreeSet<String>,
) -> std::io::Result<()> {
    for entry in fs::read_dir(at)? {
        let entry = entry?;
        // What the server remembers for itself is promised to nobody.
        if entry.file_name() == ".thriftpd" {
            continue;
        }
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        // What the server remembers of a root was promised to nobody.
        if name == ".thriftpd" {
            continue;
        }
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), &format!("{name}/"), files, directories)?;
            directories.insert(name);
        } else {
            // What an unfinished one holds is for whoever continues it.
            let contents = match is_partial(&name) {
                true => Vec::new(),
                false => fs::read(entry.path())?,
            };
            files.insert(name, contents);
        }
    }
    Ok(())
}
