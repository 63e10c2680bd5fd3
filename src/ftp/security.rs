//! How a session is encrypted: what it may be answered with, what was agreed on, and what is asked of the client
//! (RFC 2228, RFC 4217).
use std::sync::Arc;

use super::data::secure::Protection;
use crate::config::TlsMode;
use crate::server::hooks::orders::Wanted;
use crate::tls::{Answers, SESSION_ID, SessionId, Tls};

/// The encryption of one session.
#[derive(Debug)]
pub struct Security {
    /// None: there is none to be had.
    answers: Option<Arc<Answers>>,
    /// Names this session in its tickets.
    pub id: SessionId,
    /// TLS began with the first byte: there is no clear state to return to.
    pub implicit: bool,
    /// TLS has begun, and may have ended again (CCC): PROT may be said.
    pub has_begun: bool,
    /// PROT P: data connections are encrypted.
    pub private_data: bool,
    /// What the client's certificate calls it.
    pub client_names: Vec<String>,
}

/// What happens once the reply to the command is out, to the control connection above all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AfterReply {
    Encrypt,
    StopEncryption,
    /// A program of the owner's is run.
    Run(Box<Wanted>),
}

impl Security {
    pub fn new(tls: Option<&Tls>, implicit: bool) -> Self {
        let mut id = [0; SESSION_ID];
        // Without random numbers no handshake succeeds either.
        let _ = getrandom::fill(&mut id);
        Self {
            answers: tls.map(Tls::answers),
            id,
            implicit,
            has_begun: implicit,
            private_data: implicit,
            client_names: Vec::new(),
        }
    }

    /// Back to what holds without AUTH.
    pub fn reset(&mut self) {
        self.has_begun = self.implicit;
        self.private_data = self.implicit;
        if !self.implicit {
            self.client_names.clear();
        }
    }

    pub fn is_offered(&self) -> bool {
        self.answers.is_some()
    }

    pub fn answers(&self) -> Option<Arc<Answers>> {
        self.answers.clone()
    }

    /// How the next data connection is encrypted; None: not at all.
    pub fn protection(&self, required_reuse: bool) -> Option<Protection> {
        let answers = self.answers.as_ref().filter(|_| self.private_data)?;
        Some(Protection {
            answers: Arc::clone(answers),
            session: self.id,
            must_resume: required_reuse,
        })
    }
}

/// Whether a user may not log in in the clear; `own` is what the account itself says.
pub fn login_needs_tls(mode: TlsMode, own: Option<bool>) -> bool {
    match mode {
        TlsMode::Off | TlsMode::Offered => own == Some(true),
        TlsMode::Logins => own != Some(false),
        TlsMode::Required => true,
    }
}

/// Whether a user's files may not flow in the clear.
pub fn data_needs_tls(mode: TlsMode, own: Option<bool>) -> bool {
    mode == TlsMode::Required || own == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_of_whom() {
        use TlsMode::{Logins, Offered, Required};
        for (mode, own, login, data) in [
            (Offered, None, false, false),
            (Offered, Some(true), true, true),
            (Logins, None, true, false),
            (Logins, Some(false), false, false),
            (Required, Some(false), true, true),
        ] {
            assert_eq!(login_needs_tls(mode, own), login, "{mode:?} {own:?}");
            assert_eq!(data_needs_tls(mode, own), data, "{mode:?} {own:?}");
        }
    }
}
