//! The data connection: opening it (active, passive), sending, receiving, and watching the control connection
//! meanwhile. Knows no verb.
//!
//! Every transfer takes a [`watch::Watch`] and returns an [`Outcome`], whatever its direction and type. Data sockets
//! are non-blocking; nothing here waits without a deadline and without seeing the control connection and the shutdown.
mod buffers;
pub mod kernel_tls;
pub mod open;
pub mod receive;
pub mod secure;
pub mod send;
pub mod watch;

use std::borrow::Cow;
use std::io;

use crate::storage;

/// How a transfer ended.
#[derive(Debug)]
pub enum Outcome {
    /// All of it, in order.
    Complete,
    /// The client sent ABOR.
    Aborted,
    /// The data connection broke.
    Reset(io::Error),
    /// Nothing moved for the time of the setting `timeouts.stalled`.
    Stalled,
    /// Less moved than the setting `min_rate` asks for, while others needed the place.
    TooSlow,
    /// The control connection is gone, so nobody is left who could be told.
    ControlLost,
    /// The server ends.
    ShutDown,
    /// Others have ended the session, for this reason.
    Ended(&'static str),
    /// The file could not be written (or listed).
    Storage(storage::Error),
    /// The file could not be read.
    Source(io::Error),
    /// The file became shorter than it was when its transfer began.
    Shrunk,
}

impl From<storage::Error> for Outcome {
    fn from(error: storage::Error) -> Self {
        Self::Storage(error)
    }
}

impl Outcome {
    pub fn is_complete(&self) -> bool {
        matches!(self, Self::Complete)
    }

    /// Whether it was ended from elsewhere than the data connection and the files, which are as they were.
    pub fn is_interruption(&self) -> bool {
        matches!(
            self,
            Self::Aborted
                | Self::Stalled
                | Self::TooSlow
                | Self::ControlLost
                | Self::ShutDown
                | Self::Ended(_)
        )
    }

    /// One or two words for the log.
    pub fn describe(&self) -> Cow<'static, str> {
        match self {
            Self::Complete => "complete".into(),
            Self::Aborted => "aborted by the client".into(),
            Self::Reset(error) => format!("data connection broken: {error}").into(),
            Self::Stalled => "stalled".into(),
            Self::TooSlow => "too slow (setting: min_rate)".into(),
            Self::ControlLost => "control connection lost".into(),
            Self::ShutDown => "ended by the shutdown".into(),
            Self::Ended(why) => format!("the session was ended: {why}").into(),
            Self::Storage(error) => format!("storage: {error}").into(),
            Self::Source(error) => format!("cannot read: {error}").into(),
            Self::Shrunk => "the file shrank meanwhile".into(),
        }
    }
}
