//! Why a command is not done, and the one place where what storage says becomes what a client reads.
use super::protocol::reply::Reply;
use crate::observe::printable;
use crate::storage;

/// The reply, and where it is worth a line, the reason for the log.
#[derive(Debug)]
pub struct Refusal {
    pub reply: Reply,
    pub reason: Option<String>,
}

impl Refusal {
    pub fn new(code: u16, text: impl AsRef<[u8]>) -> Self {
        Self {
            reply: Reply::new(code, text),
            reason: None,
        }
    }

    pub fn logged(self, reason: impl Into<String>) -> Self {
        Self {
            reason: Some(reason.into()),
            ..self
        }
    }
}

impl From<storage::Error> for Refusal {
    fn from(error: storage::Error) -> Self {
        use storage::ErrorKind as Kind;
        let code = match error.kind {
            Kind::NoSpace { .. } | Kind::Shutdown => 452,
            Kind::Quota | Kind::OverQuota { .. } | Kind::NoRoom { .. } | Kind::TooLarge => 552,
            Kind::BadName | Kind::NameTooLong | Kind::Reserved => 553,
            Kind::BeyondEnd { .. } => 554,
            Kind::Busy | Kind::NotMounted | Kind::LengthChanged => 450,
            Kind::ReplacementLeft | Kind::OtherLeft => 450,
            Kind::Io => 451,
            _ => 550,
        };
        let mut text = error.path.clone();
        text.extend(format!(": {error}.").into_bytes());
        let reason = format!("{}: {error}", printable(&error.path));
        let reason = match error.advice() {
            Some(advice) => Some(format!("{reason} ({advice})")),
            // A name that is not there is everyday life; what the disk or the kernel refused is worth a line.
            None if matches!(
                error.kind,
                Kind::NotFound | Kind::Exists | Kind::IsADirectory | Kind::NotADirectory
            ) =>
            {
                None
            }
            None => Some(reason),
        };
        Self {
            reply: Reply::new(code, text),
            reason,
        }
    }
}
