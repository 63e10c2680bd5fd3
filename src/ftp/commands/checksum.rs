//! Checksums of files: HASH (draft-bryan-ftpext-hash §3), the older XCRC, XMD5, XSHA1, XSHA256 and XSHA512, and RANG
//! (draft-bryan-ftp-range §3), which says what part of a file is meant.
//!
//! While a file is read for its checksum the control connection is watched as during a transfer.
use std::fs::File;
use std::ops::Range as ByteRange;

use super::Answer;
use super::transfer::{conclude, end_of_range};
use super::work::heavy;
use crate::ftp::data::Outcome;
use crate::ftp::protocol::hash;
use crate::ftp::protocol::range::{Range, parse_range};
use crate::ftp::protocol::reply::Reply;
use crate::ftp::protocol::xcrc::{FileRange, parse_file_range};
use crate::ftp::refusal::Refusal;
use crate::ftp::session::Session;
use crate::observe::printable;
use crate::storage::Download;
use crate::storage::integrity::checksum::{Algorithm, Stopped, compute, stored};

/// The bytes of the file as they are, whatever the representation type (§3): a range counts those.
pub fn hash(session: &mut Session, argument: &[u8]) -> Answer {
    let start = std::mem::take(&mut session.steps.restart);
    let last = session.steps.range_last.take();
    let algorithm = session.parameters.algorithm;
    let Download { file, size } = session.view()?.open_for_reading(&session.path(argument)?)?;
    let end = end_of_range(start, last, size)?;
    if start == end && start > 0 {
        return Err(beyond_end(size));
    }
    let what = format!("HASH {}", printable(argument));
    let digest = digest_of(session, &what, &file, size, start..end, algorithm)?;
    answer(session, &what, digest, |digest| {
        let text = hash::reply_text(algorithm.name(), start, end, digest, argument);
        Reply::new(213, text)
    })
}

pub fn xcrc(session: &mut Session, argument: &[u8]) -> Answer {
    by_convention(session, "XCRC", argument, Algorithm::Crc32)
}

pub fn xmd5(session: &mut Session, argument: &[u8]) -> Answer {
    by_convention(session, "XMD5", argument, Algorithm::Md5)
}

pub fn xsha1(session: &mut Session, argument: &[u8]) -> Answer {
    by_convention(session, "XSHA1", argument, Algorithm::Sha1)
}

pub fn xsha256(session: &mut Session, argument: &[u8]) -> Answer {
    by_convention(session, "XSHA256", argument, Algorithm::Sha256)
}

pub fn xsha512(session: &mut Session, argument: &[u8]) -> Answer {
    by_convention(session, "XSHA512", argument, Algorithm::Sha512)
}

/// The end is the byte behind the last one, as the servers have it that began with these verbs: clients send the size.
fn by_convention(
    session: &mut Session,
    verb: &str,
    argument: &[u8],
    algorithm: Algorithm,
) -> Answer {
    let Some(FileRange { path, start, end }) = parse_file_range(argument) else {
        return Err(Refusal::new(
            501,
            format!(
                "Syntax: {verb} <path> [start [end]], the path in quotes where it ends in numbers"
            ),
        ));
    };
    let Download { file, size } = session.view()?.open_for_reading(&session.path(&path)?)?;
    let end = end.unwrap_or(size);
    if start > size || end > size {
        return Err(beyond_end(size));
    }
    let what = format!("{verb} {}", printable(&path));
    let digest = digest_of(session, &what, &file, size, start..end, algorithm)?;
    answer(session, &what, digest, |digest| Reply::new(250, digest))
}

fn beyond_end(size: u64) -> Refusal {
    Refusal::new(
        554,
        format!("The file has {size} bytes: the range is beyond its end."),
    )
}

/// The checksum of a range: known at once where it was stored with the file, else computed under the eyes of the control
/// connection.
fn digest_of(
    session: &mut Session,
    what: &str,
    file: &File,
    size: u64,
    range: ByteRange<u64>,
    algorithm: Algorithm,
) -> Result<Result<String, Outcome>, Refusal> {
    if algorithm == Algorithm::Sha256 && range == (0..size) {
        if let Some(digest) = stored(file) {
            return Ok(Ok(digest));
        }
    }
    let mut digest = String::new();
    let done = heavy(session, what, &mut |watch| {
        let computed = compute(file, range.clone(), algorithm, &mut |bytes| {
            watch.add(bytes);
            watch.glance()
        });
        match computed {
            Ok(computed) => {
                digest = computed;
                Outcome::Complete
            }
            Err(Stopped::By(outcome)) => outcome,
            Err(Stopped::Unreadable(error)) => Outcome::Source(error),
            Err(Stopped::Shrunk) => Outcome::Shrunk,
        }
    })?;
    Ok(match done.outcome {
        Outcome::Complete => Ok(digest),
        outcome => Err(outcome),
    })
}

fn answer(
    session: &mut Session,
    what: &str,
    digest: Result<String, Outcome>,
    reply: impl FnOnce(&str) -> Reply,
) -> Answer {
    match digest {
        Ok(digest) => Ok(reply(&digest)),
        Err(Outcome::Shrunk) => Err(Refusal::new(451, "The file became shorter meanwhile.")),
        Err(outcome) => {
            log::warn!("{}: {what}: {}", session.who(), outcome.describe());
            conclude(session, outcome, "")
        }
    }
}

/// Whether the file has such bytes turns out when the range is used (§4.3).
pub fn rang(session: &mut Session, argument: &[u8]) -> Answer {
    match parse_range(argument) {
        Some(Range::Whole) => {
            session.steps.restart = 0;
            Ok(Reply::new(350, "The whole file again."))
        }
        Some(Range::Octets { first, last }) => {
            session.steps.restart = first;
            session.steps.range_last = Some(last);
            Ok(Reply::new(
                350,
                format!("The next RETR or HASH starts at {first} and ends with {last}."),
            ))
        }
        None => Err(Refusal::new(
            501,
            "Syntax: RANG <first> <last>, two offsets in order, or RANG 1 0 for the whole file",
        )),
    }
}

/// OPTS HASH (§3.2): tells the algorithm, or selects one until REIN.
pub fn options(session: &mut Session, value: &[u8]) -> Answer {
    let name = hash::parse_options(value).ok();
    let selected = name.and_then(|name| match name {
        None => Some(session.parameters.algorithm),
        Some(name) => Algorithm::named(name),
    });
    match selected {
        Some(algorithm) => {
            session.parameters.algorithm = algorithm;
            Ok(Reply::new(200, algorithm.name()))
        }
        None => Err(Refusal::new(
            501,
            format!(
                "Unknown algorithm; it stays {}. FEAT tells all.",
                session.parameters.algorithm.name()
            ),
        )),
    }
}

/// The line of HASH in FEAT (§3.1).
pub fn feat_line(session: &Session) -> String {
    hash::feat_line(
        &Algorithm::ALL.map(Algorithm::name),
        session.parameters.algorithm.name(),
    )
}
