//! The working directory and directories: CWD, CDUP, PWD, MKD, RMD (RFC 959 §4.1), their X forms (RFC 1123 §4.1.3.1)
//! and RMDA.
use super::Answer;
use super::transfer::conclude;
use super::work::watched;
use crate::ftp::data::Outcome;
use crate::ftp::protocol::reply::{Reply, quote_path};
use crate::ftp::session::Session;
use crate::observe::printable;
use crate::storage::VirtualPath;

/// Names that RMDA removes before it looks at the control connection again.
const BETWEEN_GLANCES: u64 = 16;

pub fn cwd(session: &mut Session, argument: &[u8]) -> Answer {
    let path = match argument.trim_ascii() {
        b"" => VirtualPath::root(),
        _ => session.path(argument)?,
    };
    go_to(session, path)
}

pub fn cdup(session: &mut Session, _: &[u8]) -> Answer {
    let parent = session.parameters.directory.parent();
    go_to(session, parent)
}

fn go_to(session: &mut Session, path: VirtualPath) -> Answer {
    session.view()?.check_directory(&path)?;
    let reply = quoted(
        250,
        b"Directory changed. ",
        &path,
        b" is the current directory.",
    );
    session.parameters.directory = path;
    Ok(reply)
}

pub fn pwd(session: &mut Session, _: &[u8]) -> Answer {
    Ok(quoted(
        257,
        b"",
        &session.parameters.directory,
        b" is the current directory.",
    ))
}

pub fn mkd(session: &mut Session, argument: &[u8]) -> Answer {
    let path = session.path(argument)?;
    session.view()?.make_directory(&path)?;
    Ok(quoted(257, b"", &path, b" created."))
}

pub fn rmd(session: &mut Session, argument: &[u8]) -> Answer {
    let path = session.path(argument)?;
    session.view()?.remove_directory(&path)?;
    Ok(quoted(250, b"Directory removed: ", &path, b"."))
}

/// Stops half-way at ABOR, when the client goes, and when the server stops; what is gone by then is gone.
pub fn rmda(session: &mut Session, argument: &[u8]) -> Answer {
    let path = session.path(argument)?;
    let view = session.view()?;
    let host_path = view.host_path(&path);
    let what = format!(
        "RMDA {}",
        printable(host_path.as_os_str().as_encoded_bytes())
    );
    let done = watched(session, &what, &mut |watch| {
        let mut stopped = None;
        let mut steps = 0_u64;
        let removed = view.remove_tree(&path, &mut || {
            steps += 1;
            if steps % BETWEEN_GLANCES == 1 {
                stopped = watch.glance().err();
            }
            stopped.is_none()
        });
        match (removed, stopped) {
            (_, Some(outcome)) => outcome,
            (Ok(()), None) => Outcome::Complete,
            (Err(error), None) => Outcome::Storage(error),
        }
    });
    match done.outcome {
        Outcome::Complete => {
            log::info!("{}: {what}", session.who());
            Ok(quoted(
                250,
                b"Directory removed with all that was in it: ",
                &path,
                b".",
            ))
        }
        Outcome::Storage(error) => Err(error.into()),
        outcome => {
            let described = outcome.describe();
            log::warn!("{}: {what}: only in part: {described}", session.who());
            conclude(session, outcome, "")
        }
    }
}

/// A reply that names a path, with quotes doubled (RFC 959 appendix II).
fn quoted(code: u16, before: &[u8], path: &VirtualPath, text: &[u8]) -> Reply {
    let mut line = before.to_vec();
    line.extend(quote_path(path.as_bytes()));
    line.extend(text);
    Reply::new(code, line)
}
