//! Listings: LIST, NLST, STAT with a path (RFC 959 §4.1.3), MLSD and MLST (RFC 3659 §7).
//!
//! Whatever is wrong with the path is said before any 150. From then on lines are made one directory entry at a time,
//! as fast as the client takes them, so that the size of a directory costs no memory.
use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Answer;
use super::expand::{ENTRY, HELD, expand};
use super::interrupts::interrupted;
use super::transfer::{conclude, must_have_data_port, transfer};
use crate::ftp::data::watch::Interruption;
use crate::ftp::data::{Outcome, send};
use crate::ftp::protocol::facts::{self, FactType, Facts, entry_into, name_fits_mlsd};
use crate::ftp::protocol::glob::is_pattern;
use crate::ftp::protocol::list::{
    ListFlags, ListLine, long_line_into, name_line_into, parse_list_argument,
};
use crate::ftp::protocol::reply::{Reply, middle_line_into, opening_line_into};
use crate::ftp::refusal::Refusal;
use crate::ftp::session::Session;
use crate::observe::printable;
use crate::storage::{
    self, Entry, Kind, Listing, Metadata, Permission, View, VirtualPath, group_name, user_name,
};
use crate::tls::Purpose;

/// Names that STAT tells before it looks at the control connection again.
const BETWEEN_GLANCES: usize = 64;

pub fn list(session: &mut Session, argument: &[u8]) -> Answer {
    let lister = Lister::for_argument(session, argument, Style::Long)?;
    send_lines(session, "LIST", lister)
}

pub fn nlst(session: &mut Session, argument: &[u8]) -> Answer {
    let lister = Lister::for_argument(session, argument, Style::Names)?;
    send_lines(session, "NLST", lister)
}

/// Without a path the state of the session; with one, LIST on the control connection.
pub fn stat(session: &mut Session, argument: &[u8]) -> Answer {
    if argument.is_empty() {
        return Ok(super::information::state(session));
    }
    let mut lister = Lister::for_argument(session, argument, Style::Long)?;
    let code = if lister.is_directory { 212 } else { 213 };
    opening_line_into(code, "Listing:", session.connection.control.output());
    let mut lines = Vec::new();
    let mut more = true;
    while more && !session.connection.ended {
        lines.clear();
        more = lister.produce(&mut lines).unwrap_or_else(|error| {
            log::error!(
                "{}: STAT: {}: {error}",
                session.who(),
                printable(&error.path)
            );
            false
        });
        for line in lines
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            middle_line_into(
                session.connection.control.output(),
                line.strip_suffix(b"\r").unwrap_or(line),
            );
        }
        session.connection.ended = session.connection.control.flush_if_large().is_err();
        if lister.seen % BETWEEN_GLANCES == 0 {
            match interrupted(&mut session.connection.control) {
                Interruption::None => {}
                Interruption::Abort => {
                    // The reply has begun with its code and must end with it.
                    session.reply(&Reply::new(code, "The listing was aborted."));
                    return Ok(Reply::new(226, "Abort successful."));
                }
                Interruption::Lost => session.connection.ended = true,
            }
        }
    }
    if lister.is_cut_off {
        // The reply has begun with its code and must end with it.
        log::warn!("{}: STAT: {}", session.who(), lister.cut_off_because());
        return Ok(Reply::new(code, lister.cut_off_because()));
    }
    Ok(Reply::new(code, "End"))
}

fn send_lines(session: &mut Session, verb: &str, mut lister: Lister) -> Answer {
    must_have_data_port(session)?;
    let what = format!("{verb} {}", printable(lister.start.as_bytes()));
    let sent = transfer(
        session,
        &what,
        "Opening ASCII mode data connection for the listing.",
        (Purpose::Sending, false),
        &mut |stream, watch| {
            let mut produce = |out: &mut Vec<u8>| lister.produce(out).map_err(Outcome::Storage);
            send::produced(stream, &mut produce, watch)
        },
    )?;
    if !sent.outcome.is_complete() {
        log::warn!("{}: {what}: {}", session.who(), sent.outcome.describe());
    }
    if sent.outcome.is_complete() && lister.is_cut_off {
        return Err(lister.cut_off());
    }
    conclude(session, sent.outcome, "Transfer complete.")
}

fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() as i64)
}

/// A name that looks like flags, such as `-a`, is meant when it is there.
fn flags_and_path<'a>(
    session: &Session,
    argument: &'a [u8],
) -> Result<(ListFlags, &'a [u8]), Refusal> {
    let (flags, typed) = parse_list_argument(argument);
    if typed != argument {
        let literal = session.path(argument)?;
        if session.view()?.symlink_metadata(&literal).is_ok() {
            return Ok((ListFlags::default(), argument));
        }
    }
    Ok((flags, typed))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Long,
    /// NLST: each name can be used as a path (RFC 1123 §4.1.2.7).
    Names,
    /// LIST -1, as `ls` does it.
    BareNames,
}

/// Makes the lines of LIST and NLST.
struct Lister {
    view: std::sync::Arc<View>,
    flags: ListFlags,
    style: Style,
    now: i64,
    start: VirtualPath,
    is_directory: bool,
    /// Single names still to be shown, each as the client will see it.
    names: VecDeque<(Vec<u8>, VirtualPath)>,
    /// Directories still to be opened, the next ones last, and how many bytes that is.
    waiting: Vec<Waiting>,
    held: usize,
    current: Option<Current>,
    /// The names of directories are shown above their entries.
    headings: bool,
    lines: usize,
    /// Names of a recursive listing so far, how many there may be, and whether it ended for that or for want of room.
    seen: usize,
    most: usize,
    is_cut_off: bool,
}

struct Current {
    listing: Listing,
    path: VirtualPath,
    /// What NLST puts before each name, so that it can be used as a path (RFC 1123 §4.1.2.7).
    prefix: Vec<u8>,
    /// The directories in it.
    below: Vec<Vec<u8>>,
}

/// Directories of one directory. What their paths have in common is held once, for it can be as long as a line.
struct Waiting {
    path: VirtualPath,
    prefix: Vec<u8>,
    /// The next one last.
    names: Vec<Vec<u8>>,
}

impl Waiting {
    /// What it takes beside its names.
    fn size(&self) -> usize {
        2 * ENTRY + self.path.as_bytes().len() + self.prefix.len()
    }
}

impl Lister {
    fn for_argument(session: &Session, argument: &[u8], style: Style) -> Result<Self, Refusal> {
        let view = session.view()?;
        let here = session.parameters.directory.clone();
        let (flags, typed) = flags_and_path(session, argument)?;
        let typed = &*session.without_tilde(typed);
        let start = session.path_or_here(typed)?;
        if !view.permits(&start, Permission::List) {
            let kind = storage::ErrorKind::NotPermitted(Permission::List);
            return Err(storage::Error::new(kind, start.as_bytes()).into());
        }
        let style = match style {
            Style::Names if flags.long => Style::Long,
            Style::Long if flags.one && !flags.long => Style::BareNames,
            asked => asked,
        };
        let mut lister = Self {
            view,
            flags,
            style,
            now: now(),
            start: start.clone(),
            is_directory: false,
            names: VecDeque::new(),
            waiting: Vec::new(),
            held: 0,
            current: None,
            headings: flags.recursive,
            lines: 0,
            seen: 0,
            most: session.config.abuse.names_per_command,
            is_cut_off: false,
        };
        match lister.view.metadata(&start) {
            Ok(metadata) if metadata.kind == Kind::Directory && !flags.directory => {
                lister.is_directory = true;
                let listing = lister.view.list(&start)?;
                lister.enter(listing, start, prefix_of(typed));
            }
            Ok(_) => lister.names.push_back((shown(typed), start)),
            // A symlink to nowhere is there and can be listed.
            Err(_) if lister.view.symlink_metadata(&start).is_ok() => {
                lister.names.push_back((shown(typed), start))
            }
            Err(error) if error.kind == storage::ErrorKind::NotFound && is_pattern(typed) => {
                lister.names = expand(&lister.view, &here, typed, lister.most)?;
                if let [(name, path)] = lister.names.make_contiguous() {
                    // One directory that a pattern names is listed, as a shell's ls would.
                    let (name, path) = (name.clone(), path.clone());
                    let is_directory = lister
                        .view
                        .metadata(&path)
                        .is_ok_and(|found| found.kind == Kind::Directory);
                    if is_directory && !flags.directory && lister.style != Style::Names {
                        let listing = lister.view.list(&path)?;
                        lister.names.clear();
                        lister.enter(listing, path, prefix_of(&name));
                    }
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(lister)
    }

    fn enter(&mut self, listing: Listing, path: VirtualPath, prefix: Vec<u8>) {
        self.current = Some(Current {
            listing,
            path,
            prefix,
            below: Vec::new(),
        });
    }

    /// Adds a line or a few; false when there are no more.
    fn produce(&mut self, out: &mut Vec<u8>) -> Result<bool, storage::Error> {
        if let Some((name, path)) = self.names.pop_front() {
            // What vanished meanwhile is not there to be listed.
            if let Ok(metadata) = self.view.symlink_metadata(&path) {
                self.line(&name, &name, &path, &metadata, out);
            }
            return Ok(true);
        }
        let Some(mut current) = self.current.take() else {
            return self.open_next(out);
        };
        if current.listing.is_at_start() {
            self.directory_head(&current, out);
        }
        if self.flags.recursive && (self.seen >= self.most || self.held > HELD) {
            self.is_cut_off = true;
            return Ok(false);
        }
        match current.listing.next() {
            Some(entry) => {
                self.seen += 1;
                let Entry { name, metadata } = entry?;
                if let Ok(path) = current.path.join_name(&name) {
                    let with_prefix = [current.prefix.as_slice(), &name].concat();
                    self.line(&name, &with_prefix, &path, &metadata, out);
                    if self.flags.recursive && metadata.kind == Kind::Directory {
                        self.held += ENTRY + name.len();
                        current.below.push(name);
                    }
                }
                self.current = Some(current);
            }
            None => self.wait_for(current),
        }
        Ok(true)
    }

    fn cut_off_because(&self) -> String {
        format!("The listing was cut off after {} names.", self.seen)
    }

    fn cut_off(&self) -> Refusal {
        Refusal::new(451, self.cut_off_because()).logged(if self.seen >= self.most {
            "a listing was cut off (setting: names_per_command)"
        } else {
            "a listing was cut off: more directories were still to come than are held"
        })
    }

    /// Has the directories in this one opened next.
    fn wait_for(&mut self, current: Current) {
        let mut names = current.below;
        if names.is_empty() {
            return;
        }
        names.reverse();
        let waiting = Waiting {
            path: current.path,
            prefix: current.prefix,
            names,
        };
        self.held += waiting.size();
        self.waiting.push(waiting);
    }

    /// Goes down into the next directory of LIST -R; one that cannot be read is passed over, as ls does it.
    fn open_next(&mut self, _: &mut Vec<u8>) -> Result<bool, storage::Error> {
        while let Some(mut last) = self.waiting.pop() {
            let Some(name) = last.names.pop() else {
                continue;
            };
            self.held -= ENTRY + name.len();
            let prefix = [last.prefix.as_slice(), &name, b"/"].concat();
            let path = last.path.join_name(&name);
            // A deep tree need not hold all that is above.
            if last.names.is_empty() {
                self.held -= last.size();
            } else {
                self.waiting.push(last);
            }
            let Ok(path) = path else {
                continue;
            };
            if let Ok(listing) = self.view.list(&path) {
                self.enter(listing, path, prefix);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn directory_head(&mut self, current: &Current, out: &mut Vec<u8>) {
        if self.headings {
            if self.lines > 0 {
                out.extend(b"\r\n");
            }
            let heading = current.prefix.strip_suffix(b"/").unwrap_or(&current.prefix);
            let heading = if heading.is_empty() {
                b".".as_slice()
            } else {
                heading
            };
            out.extend(heading.iter().map(|&byte| {
                if byte < b' ' || byte == 0x7f {
                    b'?'
                } else {
                    byte
                }
            }));
            out.extend(b":\r\n");
            self.lines += 1;
        }
        if self.flags.all {
            for (name, path) in [
                (b".".as_slice(), current.path.clone()),
                (b"..", current.path.parent()),
            ] {
                if let Ok(metadata) = self.view.metadata(&path) {
                    self.line(
                        name,
                        &[current.prefix.as_slice(), name].concat(),
                        &path,
                        &metadata,
                        out,
                    );
                }
            }
        }
    }

    fn line(
        &mut self,
        name: &[u8],
        with_prefix: &[u8],
        path: &VirtualPath,
        metadata: &Metadata,
        out: &mut Vec<u8>,
    ) {
        self.lines += 1;
        let kind = kind_letter(metadata.kind);
        if self.style != Style::Long {
            let with_prefix = if self.style == Style::Names {
                with_prefix
            } else {
                name
            };
            name_line_into(with_prefix, kind, metadata.mode, self.flags.classify, out);
            return;
        }
        let target = if metadata.kind == Kind::Symlink {
            self.view.link_target(path)
        } else {
            None
        };
        let line = ListLine {
            kind,
            mode: metadata.mode,
            links: metadata.links,
            owner: &user_name(metadata.uid),
            group: &group_name(metadata.gid),
            size: metadata.size,
            modified: metadata.modified,
            name,
            target: target.as_deref(),
        };
        long_line_into(&line, self.now, self.flags.human, self.flags.classify, out);
    }
}

fn kind_letter(kind: Kind) -> u8 {
    match kind {
        Kind::File => b'-',
        Kind::Directory => b'd',
        Kind::Symlink => b'l',
        Kind::Other => b'p',
    }
}

fn shown(typed: &[u8]) -> Vec<u8> {
    if typed.is_empty() {
        b".".to_vec()
    } else {
        typed.to_vec()
    }
}

fn prefix_of(typed: &[u8]) -> Vec<u8> {
    match typed {
        b"" | b"." | b"./" => Vec::new(),
        [.., b'/'] => typed.to_vec(),
        _ => [typed, b"/"].concat(),
    }
}

// ---- RFC 3659

/// The standard has no flags here, but clients send those of LIST.
pub fn mlsd(session: &mut Session, argument: &[u8]) -> Answer {
    let (_, argument) = flags_and_path(session, argument)?;
    let path = session.path_or_here(argument)?;
    let view = session.view()?;
    let metadata = view.metadata(&path)?;
    if metadata.kind != Kind::Directory {
        return Err(Refusal::new(
            501,
            "MLSD lists directories; MLST tells of a file.",
        ));
    }
    let mut listing = view.list(&path)?;
    must_have_data_port(session)?;
    let facts = session.parameters.facts;
    let who = session.who();
    let mut first = true;
    let mut produce = |out: &mut Vec<u8>| {
        if std::mem::take(&mut first) {
            fact_line(&view, &facts, &path, b".", FactType::Cdir, &metadata, out);
            if let Ok(parent) = view.metadata(&path.parent()) {
                fact_line(
                    &view,
                    &facts,
                    &path.parent(),
                    b"..",
                    FactType::Pdir,
                    &parent,
                    out,
                );
            }
            return Ok(true);
        }
        let Some(entry) = listing.next() else {
            return Ok(false);
        };
        let Entry { name, metadata } = entry.map_err(Outcome::Storage)?;
        if !name_fits_mlsd(&name) {
            log::warn!(
                "{who}: MLSD leaves out {}: no line can carry this name",
                printable(&name)
            );
            return Ok(true);
        }
        let Ok(path) = path.join_name(&name) else {
            return Ok(true);
        };
        let metadata = through_symlink(&view, &path, metadata);
        fact_line(
            &view,
            &facts,
            &path,
            &name,
            fact_type(metadata.kind),
            &metadata,
            out,
        );
        Ok(true)
    };
    let what = format!("MLSD {}", printable(path.as_bytes()));
    let sent = transfer(
        session,
        &what,
        "Opening ASCII mode data connection for the listing.",
        (Purpose::Sending, false),
        &mut |stream, watch| send::produced(stream, &mut produce, watch),
    )?;
    if !sent.outcome.is_complete() {
        log::warn!("{}: {what}: {}", session.who(), sent.outcome.describe());
    }
    conclude(session, sent.outcome, "Transfer complete.")
}

pub fn mlst(session: &mut Session, argument: &[u8]) -> Answer {
    let path = session.path_or_here(argument)?;
    let view = session.view()?;
    let metadata = match view.metadata_with_length(&path) {
        Ok(metadata) => metadata,
        Err(error) => view.symlink_metadata(&path).map_err(|_| error)?,
    };
    let mut line = Vec::new();
    fact_line(
        &view,
        &session.parameters.facts,
        &path,
        path.as_bytes(),
        fact_type(metadata.kind),
        &metadata,
        &mut line,
    );
    let line = line.strip_suffix(b"\r\n").unwrap_or(&line).to_vec();
    Ok(Reply::multi(250, "Facts:", vec![line], "End"))
}

/// What a symlink leads to is what a client can work with; one that leads nowhere stays a symlink.
fn through_symlink(view: &View, path: &VirtualPath, metadata: Metadata) -> Metadata {
    if metadata.kind != Kind::Symlink {
        return metadata;
    }
    view.metadata(path).unwrap_or(metadata)
}

fn fact_type(kind: Kind) -> FactType {
    match kind {
        Kind::File => FactType::File,
        Kind::Directory => FactType::Dir,
        Kind::Symlink => FactType::Link,
        Kind::Other => FactType::Other,
    }
}

fn fact_line(
    view: &View,
    facts: &Facts,
    path: &VirtualPath,
    name: &[u8],
    kind: FactType,
    metadata: &Metadata,
    out: &mut Vec<u8>,
) {
    let entry = facts::Entry {
        kind,
        size: metadata.size,
        modified: metadata.modified,
        created: if facts.create {
            view.created(path)
        } else {
            None
        },
        perm: &perm(metadata),
        unique: (metadata.device, metadata.inode),
        mode: metadata.mode,
        owner: &user_name(metadata.uid),
        group: &group_name(metadata.gid),
        name,
    };
    entry_into(facts, &entry, out);
}

/// The `perm` fact (RFC 3659 §7.5.5), from what the configuration and the kernel together allow.
fn perm(metadata: &Metadata) -> String {
    let letters: &[(char, Permission)] = match metadata.kind {
        Kind::Directory => &[
            ('c', Permission::Upload),
            ('d', Permission::Rmdir),
            ('e', Permission::List),
            ('f', Permission::Rename),
            ('l', Permission::List),
            ('m', Permission::Mkdir),
            ('p', Permission::Delete),
        ],
        _ => &[
            ('a', Permission::Append),
            ('d', Permission::Delete),
            ('f', Permission::Rename),
            ('r', Permission::Download),
            ('w', Permission::Overwrite),
        ],
    };
    let held = letters
        .iter()
        .filter(|(_, permission)| metadata.permissions.contains(*permission));
    held.map(|(letter, _)| letter).collect()
}
