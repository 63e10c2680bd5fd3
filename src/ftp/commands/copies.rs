//! SITE CPFR, CPTO and COPY: copies within the server; SITE SYMLINK. By convention: no standard has them.
use super::work::heavy;
use super::{Answer, transfer};
use crate::ftp::data::Outcome;
use crate::ftp::data::watch::Watch;
use crate::ftp::protocol::reply::Reply;
use crate::ftp::protocol::two_names::parse_two_names;
use crate::ftp::refusal::Refusal;
use crate::ftp::session::Session;
use crate::observe::printable;
use crate::storage::{Copying, VirtualPath};

/// The first of two steps, for clients that cannot put two names into one line; CPTO must be next.
pub fn cpfr(session: &mut Session, argument: &[u8]) -> Answer {
    let path = session.path(argument)?;
    session.view()?.open_for_reading(&path)?;
    session.steps.copy_source = Some(path);
    Ok(Reply::new(350, "Ready for SITE CPTO."))
}

pub fn cpto(session: &mut Session, argument: &[u8]) -> Answer {
    let Some(from) = session.steps.copy_source.take() else {
        return Err(Refusal::new(503, "SITE CPFR must come right before."));
    };
    let to = session.path(argument)?;
    copy_file(session, &from, &to)
}

pub fn copy(session: &mut Session, argument: &[u8]) -> Answer {
    let (from, to) = two_paths(session, argument, "SITE COPY <from> <to>")?;
    copy_file(session, &from, &to)
}

fn two_paths(
    session: &Session,
    argument: &[u8],
    syntax: &str,
) -> Result<(VirtualPath, VirtualPath), Refusal> {
    let (one, other) = parse_two_names(argument).ok_or_else(|| {
        let how = "one space between the names; names with spaces in quotes (\"\")";
        Refusal::new(501, format!("Syntax: {syntax}: {how}"))
    })?;
    Ok((session.path(&one)?, session.path(&other)?))
}

fn copy_file(session: &mut Session, from: &VirtualPath, to: &VirtualPath) -> Answer {
    let view = session.view()?;
    let mut copying = Some(view.begin_copy(from, to)?);
    let what = format!(
        "SITE COPY {} {}",
        printable(from.as_bytes()),
        printable(to.as_bytes())
    );
    let mut size = 0;
    let done = heavy(session, &what, &mut |watch| {
        let Some(copying) = copying.take() else {
            return Outcome::ControlLost;
        };
        match copy_all(copying, watch) {
            Ok(whole) => {
                size = whole;
                Outcome::Complete
            }
            Err(outcome) => outcome,
        }
    })?;
    let (host_path, seconds) = (view.host_path(to), done.duration.as_secs_f64());
    log::info!(
        "{}: {what} to {}: {} bytes {seconds:.3} s {}",
        session.who(),
        printable(host_path.as_os_str().as_encoded_bytes()),
        done.bytes,
        done.outcome.describe()
    );
    match done.outcome {
        Outcome::Complete => Ok(Reply::new(250, format!("File copied: {size} bytes."))),
        outcome => transfer::conclude(session, outcome, ""),
    }
}

fn copy_all(copying: Copying, watch: &mut Watch<'_>) -> Result<u64, Outcome> {
    let mut copying = copying;
    loop {
        let bytes = copying.step().map_err(Outcome::Storage)?;
        watch.add(bytes);
        watch.glance()?;
        if bytes == 0 {
            return copying.finish().map_err(Outcome::Storage);
        }
    }
}

/// Both names are meant as all others are: seen from the working directory.
pub fn symlink(session: &mut Session, argument: &[u8]) -> Answer {
    let (target, link) = two_paths(session, argument, "SITE SYMLINK <target> <link>")?;
    let view = session.view()?;
    view.make_link(&target, &link)?;
    log::info!(
        "{}: SITE SYMLINK {} -> {}",
        session.who(),
        printable(view.host_path(&link).as_os_str().as_encoded_bytes()),
        printable(target.as_bytes())
    );
    Ok(Reply::new(250, "Link created."))
}
