//! Work that takes its time without a data connection: while it goes on the control connection is watched as during a
//! transfer.
use std::time::Instant;

use super::interrupts::Interrupts;
use super::transfer::Transferred;
use crate::ftp::data::Outcome;
use crate::ftp::data::watch::Watch;
use crate::ftp::refusal::Refusal;
use crate::ftp::session::Session;
use crate::service::rates::{Pace, Throttle};

/// Lets `work` run, which glances at the watch between its steps and tells it of its bytes, for STAT. `what` is its
/// name, for STAT and SITE WHO.
///
/// # Errors
/// 450 while the server does as much such work as it may.
pub fn heavy(
    session: &mut Session,
    what: &str,
    work: &mut dyn FnMut(&mut Watch<'_>) -> Outcome,
) -> Result<Transferred, Refusal> {
    let _slot = session.heavy_work()?;
    Ok(watched(session, what, work))
}

/// The same for work that is not counted.
pub fn watched(
    session: &mut Session,
    what: &str,
    work: &mut dyn FnMut(&mut Watch<'_>) -> Outcome,
) -> Transferred {
    // Replies to what came before must not wait for the end.
    if session.connection.control.flush().is_err() {
        session.connection.ended = true;
    }
    session.connection.row.set_doing(what.as_bytes());
    let started = Instant::now();
    let mut interrupts = Interrupts::new(&mut session.connection.control, what, false);
    let begun = interrupts.begin().into_result();
    let patience = session.config.timeouts.stalled;
    let nobody_waits = || false;
    let mut watch = Watch::new(
        &mut interrupts,
        &session.connection.stop,
        patience,
        Throttle::default(),
        Pace::new(0, patience, &nobody_waits),
    );
    let outcome = match begun {
        Ok(()) => work(&mut watch),
        Err(outcome) => outcome,
    };
    let bytes = watch.bytes();
    session.connection.row.set_doing(b"");
    Transferred {
        outcome,
        bytes,
        duration: started.elapsed(),
        sha256: None,
    }
}
