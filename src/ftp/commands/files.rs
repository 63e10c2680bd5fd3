//! Names and facts of files: RNFR, RNTO, DELE (RFC 959 §4.1.3), SIZE, MDTM (RFC 3659), MFMT, MFCT, MFF
//! (draft-somers-ftp-mfxx), AVBL.
use std::time::Duration;

use super::{Answer, transfer};
use crate::ftp::data::Outcome;
use crate::ftp::parameters::Representation;
use crate::ftp::protocol::mff::{Fact, MffError, parse_mff};
use crate::ftp::protocol::reply::Reply;
use crate::ftp::protocol::time::{format_timeval, parse_timeval};
use crate::ftp::refusal::Refusal;
use crate::ftp::session::Session;
use crate::observe::printable;
use crate::observe::transfer_log::Direction;
use crate::storage::{Kind, VirtualPath};

/// SIZE in ASCII reads the whole file: beyond this it is refused rather than let any client make the server read on
/// and on. In bytes.
const ASCII_SIZE_BOUND: u64 = 64 * 1024 * 1024;

pub fn rnfr(session: &mut Session, argument: &[u8]) -> Answer {
    let path = session.path(argument)?;
    session.view()?.symlink_metadata(&path)?;
    session.steps.rename_source = Some(path);
    Ok(Reply::new(350, "Ready for RNTO."))
}

pub fn rnto(session: &mut Session, argument: &[u8]) -> Answer {
    let Some(from) = session.steps.rename_source.take() else {
        return Err(Refusal::new(503, "RNFR must come right before."));
    };
    let to = session.path(argument)?;
    let view = session.view()?;
    view.rename(&from, &to)?;
    log::info!(
        "{}: RNTO {} -> {}",
        session.who(),
        host(&view.host_path(&from)),
        host(&view.host_path(&to))
    );
    Ok(Reply::new(250, "Rename successful."))
}

pub fn dele(session: &mut Session, argument: &[u8]) -> Answer {
    let path = session.path(argument)?;
    let view = session.view()?;
    view.remove_file(&path)?;
    let host_path = view.host_path(&path);
    let done = transfer::Transferred {
        outcome: Outcome::Complete,
        bytes: 0,
        duration: Duration::ZERO,
        sha256: None,
    };
    transfer::record(session, "DELE", &host_path, Direction::Deleted, &done)?;
    Ok(Reply::new(250, "File deleted."))
}

fn host(path: &std::path::Path) -> String {
    printable(path.as_os_str().as_encoded_bytes()).to_string()
}

pub fn size(session: &mut Session, argument: &[u8]) -> Answer {
    let path = session.path(argument)?;
    let view = session.view()?;
    let metadata = view.metadata_with_length(&path)?;
    if metadata.kind != Kind::File {
        return Err(Refusal::new(550, "Only files have a size."));
    }
    if session.parameters.representation == Representation::Image {
        return Ok(Reply::new(213, metadata.size.to_string()));
    }
    match transfer::ascii_size(&view, &path, ASCII_SIZE_BOUND)? {
        Some(size) => Ok(Reply::new(213, size.to_string())),
        None => Err(Refusal::new(
            550,
            "The file is too long for its size in ASCII; use TYPE I.",
        )),
    }
}

/// Tells the time, or sets it where a time stands before the path, as many clients do. A file whose name looks like
/// that wins over the setting: asking must never change anything.
pub fn mdtm(session: &mut Session, argument: &[u8]) -> Answer {
    let path = session.path(argument)?;
    let asked = session.view()?.metadata_or_partial(&path);
    if asked.is_err() {
        if let Some((time, rest)) = split_word(argument) {
            if let (Some((seconds, _)), false) = (parse_timeval(time), rest.is_empty()) {
                let path = session.path(rest)?;
                session.view()?.set_times(&path, seconds, None)?;
                return Ok(Reply::new(213, format!("{} set.", format_timeval(seconds))));
            }
        }
    }
    Ok(Reply::new(213, format_timeval(asked?.modified)))
}

pub fn mfmt(session: &mut Session, argument: &[u8]) -> Answer {
    let (seconds, path) = time_and_path(session, argument)?;
    session.view()?.set_times(&path, seconds, None)?;
    Ok(with_path(
        213,
        &format!("Modify={};", format_timeval(seconds)),
        &path,
    ))
}

pub fn mfct(session: &mut Session, argument: &[u8]) -> Answer {
    time_and_path(session, argument)?;
    Err(Refusal::new(
        504,
        "The time of creation cannot be set here.",
    ))
}

fn time_and_path(session: &Session, argument: &[u8]) -> Result<(i64, VirtualPath), Refusal> {
    let malformed = || Refusal::new(501, "Syntax: YYYYMMDDhhmmss, a space, a path.");
    let (time, path) = split_word(argument).ok_or_else(malformed)?;
    let (seconds, _) = parse_timeval(time).ok_or_else(malformed)?;
    Ok((seconds, session.path(path)?))
}

/// Sets all facts or, when one of them is unknown, none (draft-somers-ftp-mfxx §5).
pub fn mff(session: &mut Session, argument: &[u8]) -> Answer {
    let (facts, path) = parse_mff(argument).map_err(|error| match error {
        MffError::Syntax => Refusal::new(501, "Syntax: MFF <fact=value;...> <path>"),
        MffError::UnsupportedFact(name) => {
            Refusal::new(504, format!("The fact {name} cannot be set."))
        }
    })?;
    let path = session.path(path)?;
    let view = session.view()?;
    let mut done = String::new();
    for fact in facts {
        match fact {
            Fact::Modify(seconds, _) => {
                view.set_times(&path, seconds, None)?;
                done += &format!("Modify={};", format_timeval(seconds));
            }
            Fact::UnixMode(mode) => {
                view.set_mode(&path, mode)?;
                done += &format!("UNIX.mode={:04o};", mode & 0o777);
            }
        }
    }
    Ok(with_path(213, &done, &path))
}

pub fn avbl(session: &mut Session, argument: &[u8]) -> Answer {
    let path = session.path_or_here(argument)?;
    let view = session.view()?;
    view.check_directory(&path)?;
    Ok(Reply::new(213, view.available(&path)?.to_string()))
}

fn with_path(code: u16, facts: &str, path: &VirtualPath) -> Reply {
    let mut text = format!("{facts} ").into_bytes();
    text.extend(path.as_bytes());
    Reply::new(code, text)
}

/// What stands before the first space and behind it.
pub fn split_word(argument: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = argument.iter().position(|&byte| byte == b' ')?;
    Some((&argument[..space], &argument[space + 1..]))
}
