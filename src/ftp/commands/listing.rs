//! Listings: LIST, NLST, STAT with a path (RFC 959 §4.1.3), MLSD and MLST (RFC 3659 §7).
//!
//! Whatever is wrong with the path is said before any 150. From then on lines are made one directory entry at a time,
//! as fast as the client takes them, so that the size of a directory costs no memory.
use std::collections::VecDeque;

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
use crate::ftp::protocol::visible_into;
use crate::ftp::refusal::Refusal;
use crate::ftp::session::Session;
use crate::observe::printable;
use crate::os::clock::now;
use crate::os::users::{group_name, user_name};
use crate::storage::{
    self, Asked, Entry, Kind, Links, Listing, Metadata, Permission, View, VirtualPath,
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

/// What a line of LIST shows.
const LONG: Asked = Asked::KIND
    .and(Asked::MODE)
    .and(Asked::LINKS)
    .and(Asked::OWNERS)
    .and(Asked::SIZE)
    .and(Asked::MODIFIED);

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
        let opened = match flags.directory {
            true => Err(lister.view.metadata(&start).err()),
            false => lister.open(&start).map_err(Some),
        };
        match opened {
            Ok(listing) => {
                lister.is_directory = true;
                lister.enter(listing, start, prefix_of(typed));
            }
            Err(None) => lister.names.push_back((shown(typed), start)),
            // What is no directory can be listed, and so can a symlink to nowhere.
            Err(Some(_)) if is_no_directory(&lister.view, &start) => {
                lister.names.push_back((shown(typed), start))
            }
            Err(Some(error)) if error.kind == storage::ErrorKind::NotFound && is_pattern(typed) => {
                lister.names = expand(&lister.view, &here, typed, lister.most)?;
                if let [(name, path)] = lister.names.make_contiguous() {
                    // One directory that a pattern names is listed, as a shell's ls would.
                    let (name, path) = (name.clone(), path.clone());
                    let is_directory = lister
                        .view
                        .metadata(&path)
                        .is_ok_and(|found| found.kind == Kind::Directory);
                    if is_directory && !flags.directory && lister.style != Style::Names {
                        let listing = lister.open(&path)?;
                        lister.names.clear();
                        lister.enter(listing, path, prefix_of(&name));
                    }
                }
            }
            Err(Some(error)) => return Err(error.into()),
        }
        Ok(lister)
    }

    /// The directory, with the facts that lines show.
    fn open(&self, path: &VirtualPath) -> Result<Listing, storage::Error> {
        let (asked, links) = match self.style {
            Style::Long => (LONG, Links::Read),
            Style::Names | Style::BareNames => {
                let marks = Asked::KIND.and(Asked::MODE).if_wanted(self.flags.classify);
                let below = Asked::KIND.if_wanted(self.flags.recursive);
                (marks.and(below), Links::Shown)
            }
        };
        self.view.list(path, asked, links)
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
                let target = match metadata.kind {
                    Kind::Symlink if self.style == Style::Long => self.view.link_target(&path),
                    _ => None,
                };
                self.line((b"", &name), &metadata, target.as_deref(), out);
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
        match current.listing.next_entry() {
            Some(entry) => {
                self.seen += 1;
                let entry = entry?;
                let name = (current.prefix.as_slice(), entry.name);
                self.line(name, &entry.metadata, entry.target.as_deref(), out);
                if self.flags.recursive && entry.metadata.kind == Kind::Directory {
                    self.held += ENTRY + entry.name.len();
                    current.below.push(entry.name.to_vec());
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
            if let Ok(listing) = self.open(&path) {
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
            visible_into(heading, out);
            out.extend(b":\r\n");
            self.lines += 1;
        }
        if self.flags.all {
            for (name, path) in [
                (b".".as_slice(), current.path.clone()),
                (b"..", current.path.parent()),
            ] {
                if let Ok(metadata) = self.view.metadata(&path) {
                    self.line((current.prefix.as_slice(), name), &metadata, None, out);
                }
            }
        }
    }

    /// With what NLST puts before the name.
    fn line(
        &mut self,
        (prefix, name): (&[u8], &[u8]),
        metadata: &Metadata,
        target: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) {
        self.lines += 1;
        let kind = kind_letter(metadata.kind);
        if self.style != Style::Long {
            if self.style == Style::Names {
                visible_into(prefix, out);
            }
            name_line_into(name, kind, metadata.mode, self.flags.classify, out);
            return;
        }
        let line = ListLine {
            kind,
            mode: metadata.mode,
            links: metadata.links,
            owner: &user_name(metadata.uid),
            group: &group_name(metadata.gid),
            size: metadata.size,
            modified: metadata.modified,
            name,
            target,
        };
        long_line_into(&line, self.now, self.flags.human, self.flags.classify, out);
    }
}

fn is_no_directory(view: &View, path: &VirtualPath) -> bool {
    let is_directory = |found: Metadata| found.kind == Kind::Directory;
    view.symlink_metadata(path).is_ok() && !view.metadata(path).is_ok_and(is_directory)
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
    let facts = session.parameters.facts;
    let asked = asked_for(&facts);
    let mut listing = view.list(&path, asked, Links::Left)?;
    must_have_data_port(session)?;
    let who = session.who();
    let is_writable = listing.is_writable();
    let mut first = true;
    let mut produce = |out: &mut Vec<u8>| {
        if std::mem::take(&mut first) {
            let here = with_creation(&view, &facts, &path, metadata.clone());
            fact_line(&facts, b".", FactType::Cdir, &here, out);
            let up = path.parent();
            if up == path {
                fact_line(&facts, b"..", FactType::Pdir, &here, out);
            } else if let Ok(parent) = view.metadata(&up) {
                let parent = with_creation(&view, &facts, &up, parent);
                fact_line(&facts, b"..", FactType::Pdir, &parent, out);
            }
            return Ok(true);
        }
        let Some(entry) = listing.next_entry() else {
            return Ok(false);
        };
        let Entry { name, metadata, .. } = entry.map_err(Outcome::Storage)?;
        if !name_fits_mlsd(name) {
            log::warn!(
                "{who}: MLSD leaves out {}: no line can carry this name",
                printable(name)
            );
            return Ok(true);
        }
        let metadata = match metadata.kind {
            // What a symlink leads to is what a client can work with; one that leads nowhere stays a symlink.
            Kind::Symlink => {
                let followed = path.join_name(name).and_then(|link| {
                    let through = view.metadata_through_link(&link, asked, is_writable);
                    through.or_else(|_| view.symlink_metadata(&link))
                });
                match followed {
                    Ok(metadata) => metadata,
                    // It vanished meanwhile.
                    Err(_) => return Ok(true),
                }
            }
            _ => metadata,
        };
        fact_line(&facts, name, fact_type(metadata.kind), &metadata, out);
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
    let metadata = with_creation(&view, &session.parameters.facts, &path, metadata);
    let mut line = Vec::new();
    let kind = fact_type(metadata.kind);
    let facts = &session.parameters.facts;
    fact_line(facts, path.as_bytes(), kind, &metadata, &mut line);
    let line = line.strip_suffix(b"\r\n").unwrap_or(&line).to_vec();
    Ok(Reply::multi(250, "Facts:", vec![line], "End"))
}

/// What the facts are told from.
fn asked_for(facts: &Facts) -> Asked {
    [
        (facts.kind, Asked::KIND),
        (facts.size, Asked::KIND.and(Asked::SIZE)),
        (facts.modify, Asked::MODIFIED),
        (facts.create, Asked::CREATED),
        (facts.perm, Asked::KIND.and(Asked::PERMISSIONS)),
        (facts.unique, Asked::UNIQUE),
        (facts.unix_mode, Asked::MODE),
        (facts.unix_owner || facts.unix_group, Asked::OWNERS),
    ]
    .into_iter()
    .fold(Asked::NOTHING, |all, (on, asked)| {
        all.and(asked.if_wanted(on))
    })
}

/// Outside of listings the time of creation costs a look of its own.
fn with_creation(view: &View, facts: &Facts, path: &VirtualPath, metadata: Metadata) -> Metadata {
    let created = facts.create.then(|| view.created(path)).flatten();
    Metadata {
        created,
        ..metadata
    }
}

fn fact_type(kind: Kind) -> FactType {
    match kind {
        Kind::File => FactType::File,
        Kind::Directory => FactType::Dir,
        Kind::Symlink => FactType::Link,
        Kind::Other => FactType::Other,
    }
}

fn fact_line(facts: &Facts, name: &[u8], kind: FactType, metadata: &Metadata, out: &mut Vec<u8>) {
    let mut letters = [0; LETTERS];
    let entry = facts::Entry {
        kind,
        size: metadata.size,
        modified: metadata.modified,
        created: metadata.created,
        perm: perm(metadata, &mut letters),
        unique: (metadata.device, metadata.inode),
        mode: metadata.mode,
        owner: &user_name(metadata.uid),
        group: &group_name(metadata.gid),
        name,
    };
    entry_into(facts, &entry, out);
}

/// The most letters of the `perm` fact.
const LETTERS: usize = 7;

/// The `perm` fact (RFC 3659 §7.5.5), from what the configuration and the kernel together allow.
fn perm<'a>(metadata: &Metadata, letters: &'a mut [u8; LETTERS]) -> &'a str {
    let possible: &[(u8, Permission)] = match metadata.kind {
        Kind::Directory => &[
            (b'c', Permission::Upload),
            (b'd', Permission::Rmdir),
            (b'e', Permission::List),
            (b'f', Permission::Rename),
            (b'l', Permission::List),
            (b'm', Permission::Mkdir),
            (b'p', Permission::Delete),
        ],
        _ => &[
            (b'a', Permission::Append),
            (b'd', Permission::Delete),
            (b'f', Permission::Rename),
            (b'r', Permission::Download),
            (b'w', Permission::Overwrite),
        ],
    };
    let mut length = 0;
    for (letter, permission) in possible {
        if metadata.permissions.contains(*permission) {
            letters[length] = *letter;
            length += 1;
        }
    }
    std::str::from_utf8(&letters[..length]).unwrap_or_default()
}
