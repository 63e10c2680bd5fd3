//! Transfers: RETR, STOR, APPE, STOU, REST, ABOR, ALLO (RFC 959 §4.1.3, RFC 3659 §5), and what they share with the
//! listings: opening the data connection, and telling how it ended.
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Answer;
use super::interrupts::Interrupts;
use crate::ftp::data::open::{DataPort, OpenError, open};
use crate::ftp::data::receive::{self, Receiver};
use crate::ftp::data::watch::Watch;
use crate::ftp::data::{Outcome, secure, send};
use crate::ftp::parameters::Representation;
use crate::ftp::protocol::numbers::{parse_allo, parse_decimal};
use crate::ftp::protocol::reply::Reply;
use crate::ftp::refusal::Refusal;
use crate::ftp::security::AfterReply;
use crate::ftp::session::Session;
use crate::observe::printable;
use crate::observe::transfer_log::Direction;
use crate::service::rates::Pace;
use crate::service::record::{Record, Stored};
use crate::storage::integrity::checksum::Stopped;
use crate::storage::{Download, How, Upload, View, VirtualPath};
use crate::tls::{Purpose, Stream, is_truncated};

/// Bytes whose checksum is no work that is worth counting.
const LIGHT: u64 = 1 << 20;

/// What came of a transfer.
pub struct Transferred {
    pub outcome: Outcome,
    /// Bytes over the data connection.
    pub bytes: u64,
    pub duration: Duration,
    /// The SHA-256 of the whole file in hexadecimal, where it is known.
    pub sha256: Option<String>,
}

/// Opens the data connection behind the reply 150, encrypts it where that was agreed upon, and lets `work` use it.
///
/// # Errors
/// 425 (or 522), when there is no data connection; before 150 when none was agreed upon.
pub fn transfer(
    session: &mut Session,
    what: &str,
    opening: impl AsRef<[u8]>,
    (purpose, may_hang_up): (Purpose, bool),
    work: &mut dyn FnMut(Stream, &mut Watch<'_>) -> Outcome,
) -> Result<Transferred, Refusal> {
    must_have_data_port(session)?;
    let protection = session.protection();
    let port = std::mem::take(&mut session.parameters.data_port).taken_in();
    session.connection.control.queue(&Reply::new(150, opening));
    let from = session.active_from();
    let timeouts = session.config.timeouts;
    if session.connection.control.flush().is_err() && !may_hang_up {
        session.connection.ended = true;
    }
    session.connection.row.set_doing(what.as_bytes());
    let throttle = session.throttle(purpose);
    let (least, slow) = (session.config.abuse.min_rate, session.config.abuse.slow);
    let (sessions, most) = (&session.service.shared.sessions, session.config.sessions);
    let is_busy = || sessions.count() * 2 > most;
    let moved = Arc::clone(session.connection.row.moved());
    let started = Instant::now();
    let mut interrupts = Interrupts::new(&mut session.connection.control, what, may_hang_up);
    let begun = interrupts.begin().into_result();
    let pace = Pace::new(least, slow, &is_busy);
    let mut watch = Watch::new(
        &mut interrupts,
        &session.connection.stop,
        timeouts.stalled,
        throttle,
        pace,
    )
    .counting(match purpose {
        Purpose::Receiving => &moved.received,
        _ => &moved.sent,
    });
    let opened = begun
        .map_err(OpenError::Interrupted)
        .and_then(|()| open(port, from, timeouts.data_connect, &mut watch))
        .map(Stream::clear)
        .and_then(|mut stream| {
            if let Some(protection) = &protection {
                let time = timeouts.data_connect;
                secure::encrypt(&mut stream, protection, purpose, time, &mut watch)?;
            }
            Ok(stream)
        });
    let outcome = match opened {
        Ok(stream) => work(stream, &mut watch),
        Err(OpenError::Interrupted(outcome)) => outcome,
        Err(error) => {
            session.connection.row.set_doing(b"");
            return Err(Refusal::new(error.code(), error.to_string())
                .logged(format!("no data connection: {error}")));
        }
    };
    let bytes = watch.bytes();
    session.connection.row.set_doing(b"");
    Ok(Transferred {
        outcome,
        bytes,
        duration: started.elapsed(),
        sha256: None,
    })
}

/// Refuses before anything is touched what cannot be done for want of a data connection, or of its encryption (RFC 4217
/// §9).
pub fn must_have_data_port(session: &mut Session) -> Result<(), Refusal> {
    if session.must_protect_data() && !session.connection.security.private_data {
        return Err(Refusal::new(
            521,
            "Data connections must be encrypted here: use PROT P.",
        ));
    }
    let error = match session.parameters.data_port {
        DataPort::None => OpenError::NothingAgreed,
        DataPort::Expired => OpenError::Expired,
        _ => return Ok(()),
    };
    Err(Refusal::new(425, error.to_string()))
}

/// The one place where the end of a transfer becomes its reply.
pub fn conclude(session: &mut Session, outcome: Outcome, done: impl AsRef<[u8]>) -> Answer {
    match outcome {
        Outcome::Complete => Ok(Reply::new(226, done)),
        Outcome::Aborted => {
            // Two replies: one for the transfer, one for ABOR (RFC 959 §4.1.3).
            session.reply(&Reply::new(426, "Transfer aborted."));
            Ok(Reply::new(226, "Abort successful."))
        }
        Outcome::Reset(error) => Err(Refusal::new(
            426,
            format!("Connection closed; transfer aborted: {error}."),
        )),
        Outcome::Stalled => Err(Refusal::new(
            426,
            "Nothing moved for too long; transfer ended.",
        )),
        Outcome::TooSlow => Err(Refusal::new(
            426,
            "Too slow while others wait; transfer ended.",
        )),
        Outcome::ControlLost => {
            session.connection.ended = true;
            Err(Refusal::new(
                426,
                "The control connection was closed during the transfer.",
            ))
        }
        Outcome::Ended(why) => {
            session.connection.ended = true;
            Err(Refusal::new(421, why))
        }
        Outcome::ShutDown => Err(Refusal::new(
            426,
            "The server is shutting down; transfer ended.",
        )),
        Outcome::Storage(error) => Err(error.into()),
        Outcome::Source(error) => Err(Refusal::new(
            451,
            format!("The file cannot be read: {error}."),
        )),
        Outcome::Shrunk => Err(Refusal::new(
            451,
            "The file became shorter meanwhile; what was sent is not whole.",
        )),
    }
}

// ---- to the client

pub fn retr(session: &mut Session, argument: &[u8]) -> Answer {
    let offset = std::mem::take(&mut session.steps.restart);
    let last = session.steps.range_last.take();
    let path = session.path(argument)?;
    let view = session.view()?;
    let Download { file, size } = view.open_for_reading(&path)?;
    let ascii = session.parameters.representation == Representation::Ascii;
    not_restarted_in_ascii(ascii, offset > 0 || last.is_some())?;
    let end = end_of_range(offset, last, size)?;
    must_have_data_port(session)?;
    let mode = if ascii { "ASCII" } else { "BINARY" };
    let mut opening = format!("Opening {mode} mode data connection for ").into_bytes();
    opening.extend(argument);
    opening.extend(format!(" ({} bytes).", end - offset).into_bytes());
    let what = format!("RETR {}", printable(path.as_bytes()));
    let how = (Purpose::Sending, false);
    let by_kernel = session.config.tls.by_kernel;
    let sent = transfer(session, &what, opening, how, &mut |stream, watch| {
        if ascii {
            send::file_as_ascii(stream, &file, end, watch)
        } else {
            send::file(stream, &file, offset, end, by_kernel, watch)
        }
    })?;
    let host_path = view.host_path(&path);
    record(session, "RETR", &host_path, Direction::Outgoing, &sent)?;
    conclude(
        session,
        sent.outcome,
        format!("Transfer complete. {} bytes sent.", sent.bytes),
    )
}

/// The byte behind the last one that is asked for, of a file of `size` bytes.
///
/// # Errors
/// 554 where the file has no such bytes. The draft of RANG would have less sent then; a client that counts on what it asked
/// for is better told.
pub fn end_of_range(start: u64, last: Option<u64>, size: u64) -> Result<u64, Refusal> {
    if start > size {
        return Err(Refusal::new(
            554,
            format!("The file has {size} bytes: it cannot start at {start}."),
        ));
    }
    match last {
        Some(last) if last >= size => Err(Refusal::new(
            554,
            format!("The file has {size} bytes: there is none at {last}."),
        )),
        Some(last) => Ok(last + 1),
        None => Ok(size),
    }
}

// ---- from the client

pub fn stor(session: &mut Session, argument: &[u8]) -> Answer {
    let offset = std::mem::take(&mut session.steps.restart);
    let how = if offset == 0 {
        How::Replace
    } else {
        How::At(offset)
    };
    store(session, "STOR", argument, how)
}

/// A marker before APPE has no meaning of its own: the end of the file is where APPE starts (lftp sends one).
pub fn appe(session: &mut Session, argument: &[u8]) -> Answer {
    session.steps.restart = 0;
    store(session, "APPE", argument, How::Append)
}

fn store(session: &mut Session, verb: &str, argument: &[u8], how: How) -> Answer {
    // Whatever becomes of it: what was announced was this one.
    let announced = session.steps.announced.take();
    let path = session.path(argument)?;
    let view = session.view()?;
    let ascii = session.parameters.representation == Representation::Ascii;
    if let How::At(offset) = how {
        not_restarted_in_ascii(ascii, offset > 0)?;
    }
    must_have_data_port(session)?;
    let upload = view.begin_upload(&path, how)?;
    let mode = if ascii { "ASCII" } else { "BINARY" };
    let mut opening = format!("Opening {mode} mode data connection for ").into_bytes();
    opening.extend(argument);
    opening.push(b'.');
    receive_into(session, verb, upload, (opening, announced))
}

/// A name of the server's choice, told in the form of RFC 1123 §4.1.2.9.
pub fn stou(session: &mut Session, prefix: &[u8]) -> Answer {
    let offset = std::mem::take(&mut session.steps.restart);
    if offset > 0 {
        return Err(Refusal::new(
            554,
            format!("STOU makes a new file, which cannot start at {offset}: use REST 0 or STOR."),
        ));
    }
    let announced = session.steps.announced.take();
    must_have_data_port(session)?;
    let directory = session.parameters.directory.clone();
    let prefix = if prefix.is_empty() {
        b"file".as_slice()
    } else {
        prefix
    };
    let upload = session.view()?.begin_unique_upload(&directory, prefix)?;
    let mut opening = b"FILE: ".to_vec();
    opening.extend(upload.path().file_name().unwrap_or_default());
    receive_into(session, "STOU", upload, (opening, announced))
}

/// With the text that opens it, and the bytes that ALLO has announced.
fn receive_into(
    session: &mut Session,
    verb: &str,
    mut upload: Upload,
    (opening, announced): (Vec<u8>, Option<u64>),
) -> Answer {
    let announced = announced.map(|announced| Announced {
        announced,
        to_come: upload.missing_of(announced),
    });
    if let Some(announced) = announced {
        upload.reserve(announced.to_come)?;
    }
    // What is there already is read again for the checksum, however few bytes come.
    let heavy = upload.to_catch_up() > LIGHT;
    let mut slot = heavy.then(|| session.heavy_work()).transpose()?;
    let visitor = session.visitor()?;
    let account = &visitor.account;
    let (may_hang_up, strict) = (account.accept_hangup, account.strict_allo);
    let may_be_truncated = account.accept_missing_close_notify;
    let ascii = session.parameters.representation == Representation::Ascii;
    let host_path = upload.host_path().to_owned();
    let name = upload.path().clone();
    let durable = upload.is_durable();
    let what = format!("{verb} {}", printable(name.as_bytes()));
    let mut upload = Some(upload);
    let mut stored = None;
    let mut received = transfer(
        session,
        &what,
        opening,
        (Purpose::Receiving, may_hang_up),
        &mut |mut stream, watch| {
            let Some(mut upload) = upload.take() else {
                return Outcome::ControlLost;
            };
            if may_be_truncated {
                stream.accept_truncation();
            }
            let outcome = catch_up(&mut upload, watch);
            drop(slot.take());
            let mut receiver = Receiver::new(ascii);
            let outcome = outcome.and_then(|()| receiver.receive(&mut stream, &mut upload, watch));
            let outcome = outcome.map_err(name_setting);
            if let Err(outcome) = &outcome {
                if outcome.is_interruption() {
                    receiver.take_in_what_came(&mut stream, &mut upload, watch);
                }
                receive::break_off(stream);
            }
            let is_all = || match announced {
                Some(announced) if strict => announced.must_have_come(watch.bytes()),
                _ => Ok(()),
            };
            let outcome = outcome.and_then(|()| is_all());
            // Of what was announced and came to the last byte nothing is missing, whatever becomes of the client.
            let is_whole = announced.is_some_and(|announced| announced.to_come == watch.bytes());
            let last_byte = Instant::now();
            let mut look = |behind: Duration| match is_whole {
                true => watch.glance(),
                false => watch.linger(last_byte + behind),
            };
            match outcome.and_then(|()| upload.finish(&mut look)) {
                Ok(whole) => {
                    stored = Some(whole);
                    Outcome::Complete
                }
                Err(outcome) => outcome,
            }
        },
    )?;
    if let (Some(announced), true) = (announced, received.outcome.is_complete()) {
        if received.bytes < announced.to_come {
            log::warn!(
                "{}: {what}: {}",
                session.who(),
                announced.tell(received.bytes)
            );
        }
    }
    let size = stored.as_ref().map_or(0, |stored| stored.size);
    received.sha256 = stored.and_then(|stored| stored.sha256);
    record(session, verb, &host_path, Direction::Incoming, &received)?;
    if received.outcome.is_complete() {
        let stored = Stored {
            path: &name,
            host_path: &host_path,
            size,
            received: received.bytes,
            sha256: received.sha256.as_deref(),
        };
        let program = session.service.note_upload(session.visitor()?, &stored);
        session.connection.after_reply = program.map(|run| AfterReply::Run(Box::new(run)));
    }
    let done = if durable {
        "Transfer complete. Stored and synced to disk"
    } else {
        "Transfer complete. Stored"
    };
    let done = format!(
        "{done}: {} bytes received; the file has {size}.",
        received.bytes
    );
    conclude(session, received.outcome, done)
}

/// Some clients never say close_notify: their owner is told what to set.
fn name_setting(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Reset(error) if is_truncated(&error) => {
            let text = format!("{error} (setting: accept_missing_close_notify of the user)");
            Outcome::Reset(std::io::Error::new(error.kind(), text))
        }
        other => other,
    }
}

fn catch_up(upload: &mut Upload, watch: &mut Watch<'_>) -> Result<(), Outcome> {
    let caught_up = upload.catch_up(&mut || watch.glance());
    caught_up.map_err(|stopped| match stopped {
        Stopped::By(outcome) => outcome,
        Stopped::Unreadable(error) => Outcome::Source(error),
        Stopped::Shrunk => Outcome::Shrunk,
    })
}

/// What ALLO announced of an upload, in bytes.
#[derive(Clone, Copy)]
struct Announced {
    announced: u64,
    /// Those that are not there yet. Clients announce the whole file, before and behind REST, or what follows REST.
    to_come: u64,
}

impl Announced {
    /// With `strict_allo` fewer bytes than announced are not the file.
    fn must_have_come(self, came: u64) -> Result<(), Outcome> {
        if came >= self.to_come {
            return Ok(());
        }
        let text = format!("{} (setting: strict_allo)", self.tell(came));
        let error = std::io::Error::new(ErrorKind::UnexpectedEof, text);
        Err(Outcome::Reset(error))
    }

    fn tell(self, came: u64) -> String {
        let Self { announced, to_come } = self;
        format!("ALLO announced {announced} bytes, {to_come} of them were to come, {came} came")
    }
}

/// Writes to the logs what came of it.
///
/// # Errors
/// 530, of a session that nobody is logged in to.
pub fn record(
    session: &Session,
    verb: &str,
    host_path: &Path,
    direction: Direction,
    done: &Transferred,
) -> Result<(), Refusal> {
    let record = Record {
        verb,
        host_path,
        direction,
        ascii: session.parameters.representation == Representation::Ascii,
        bytes: done.bytes,
        duration: done.duration,
        complete: done.outcome.is_complete(),
        end: &done.outcome.describe(),
        sha256: done.sha256.as_deref(),
    };
    session.service.record(session.visitor()?, &record);
    Ok(())
}

// ---- what comes before a transfer, and what ends it

/// One that is refused takes the one before with it: the client knows, and starts at the beginning.
pub fn rest(session: &mut Session, argument: &[u8]) -> Answer {
    session.steps.restart = 0;
    let Some(offset) = parse_decimal(argument) else {
        return Err(Refusal::new(
            501,
            "The offset must be a whole number of bytes.",
        ));
    };
    // Files have sizes below 2^63.
    if i64::try_from(offset).is_err() {
        return Err(Refusal::new(501, "No file is that long."));
    }
    not_restarted_in_ascii(
        session.parameters.representation == Representation::Ascii,
        offset > 0,
    )?;
    session.steps.restart = offset;
    Ok(Reply::new(
        350,
        format!("Restarting at {offset}. Send STOR or RETR."),
    ))
}

/// Offsets count bytes of the file; in ASCII the client counts others.
fn not_restarted_in_ascii(ascii: bool, partial: bool) -> Result<(), Refusal> {
    if ascii && partial {
        return Err(Refusal::new(
            504,
            "An offset has no meaning in ASCII; use TYPE I.",
        ));
    }
    Ok(())
}

/// Without a transfer under way there is nothing to abort but an agreed data port.
pub fn abor(session: &mut Session, _: &[u8]) -> Answer {
    session.parameters.data_port = DataPort::None;
    Ok(Reply::new(226, "No transfer to abort."))
}

/// Room is looked at here and taken when the upload begins, for only then its place is known, what it replaces and how much
/// of it is there already. So refused is what can fit nowhere. What is not used of it is given back.
pub fn allo(session: &mut Session, argument: &[u8]) -> Answer {
    let Some(bytes) = parse_allo(argument) else {
        return Err(Refusal::new(501, "Syntax: ALLO <bytes> [R bytes]"));
    };
    let free = session.view()?.available(&session.parameters.directory)?;
    if bytes > session.view()?.most_room() {
        return Err(Refusal::new(
            552,
            format!("There is no room for {bytes} bytes: {free} are free."),
        )
        .logged(format!("ALLO of {bytes} bytes, {free} are free")));
    }
    session.steps.announced = Some(bytes);
    let text = match bytes > free {
        true => format!(
            "{bytes} bytes are noted: {free} are free here, and more where they are there in part, replace something or lie elsewhere."
        ),
        false => format!("ALLO command successful: there is room for {bytes} bytes."),
    };
    Ok(Reply::new(200, text))
}

/// The bytes that the file would take in ASCII; None when it is too long to read for that.
pub fn ascii_size(view: &View, path: &VirtualPath, bound: u64) -> Result<Option<u64>, Refusal> {
    let Download { file, size } = view.open_for_reading(path)?;
    if size > bound {
        return Ok(None);
    }
    let unreadable = |error| Refusal::new(451, format!("The file cannot be read: {error}."));
    count_in_ascii(file, size).map(Some).map_err(unreadable)
}

fn count_in_ascii(file: File, size: u64) -> std::io::Result<u64> {
    let mut buffer = vec![0; 64 * 1024];
    let mut length = 0;
    let mut file = file.take(size);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(length),
            Ok(read) => length += crate::ftp::protocol::ascii::network_length(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
