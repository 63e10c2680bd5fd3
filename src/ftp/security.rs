//! How a session is encrypted: what it may be answered with, what was agreed on, and what is asked of the client
//! (RFC 2228, RFC 4217).
use std::cell::OnceCell;
use std::sync::Arc;

use super::data::secure::Protection;
use crate::config::TlsMode;
use crate::server::hooks::orders::Wanted;
use crate::tls::{Answers, SESSION_ID, SessionId, Tls};

/// The encryption of one session.
#[derive(Debug)]
pub struct Security {
    /// None: there is none to be had.
    tls: Option<Arc<Tls>>,
    /// What handshakes are answered with, and what names this session in its tickets: from the first use on, for whoever never
    /// encrypts needs no look at the certificate's file.
    agreed: OnceCell<(Arc<Answers>, SessionId)>,
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
    pub fn new(tls: Option<Arc<Tls>>, implicit: bool) -> Self {
        Self {
            tls,
            agreed: OnceCell::new(),
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
        self.tls.is_some()
    }

    /// What a handshake is answered with, and the name of the session.
    pub fn answers(&self) -> Option<(Arc<Answers>, SessionId)> {
        let tls = self.tls.as_ref()?;
        let agreed = self.agreed.get_or_init(|| {
            let mut id = [0; SESSION_ID];
            // Without random numbers no handshake succeeds either.
            let _ = getrandom::fill(&mut id);
            (tls.answers(), id)
        });
        Some(agreed.clone())
    }

    /// How the next data connection is encrypted; None: not at all.
    pub fn protection(&self, required_reuse: bool) -> Option<Protection> {
        if !self.private_data {
            return None;
        }
        let (answers, session) = self.answers()?;
        Some(Protection {
            answers,
            session,
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
