//! TLS: certificates (load, make, take up new ones), and the encrypted side of control and data connections. Knows no
//! verb, no server, and no waiting: its streams are non-blocking, who drives them polls.
//!
//! | file | subject |
//! |---|---|
//! | `certificate` | PEM files read and checked |
//! | `self_signed` | the certificate made at the first start |
//! | `service` | what handshakes are answered with; changed files are taken up |
//! | `suites` | the order of the cipher suites on this CPU |
//! | `tickets` | what a resumed session proves |
//! | `handshake` | a connection on its way to being encrypted |
//! | `stream` | a connection in the clear or encrypted |
//! | `duplex`, `inbound` | encryption both ways, and of uploads |
//! | `socket` | what encryption reads from, and how an end looks that nobody meant |
//! | `sealing` | the keys of what is sent, for the kernel |
//!
//! rustls does the work, with the cryptography of ring: TLS 1.2 and 1.3, AEAD suites only, no renegotiation.
mod certificate;
mod duplex;
mod handshake;
mod inbound;
mod sealing;
mod self_signed;
mod service;
mod socket;
mod stream;
mod suites;
mod tickets;

pub use certificate::{Certificate, CertificateError, Source};
pub use handshake::{Answers, Handshake, HandshakeError, Purpose};
pub use sealing::{Cipher, Sealing};
pub use self_signed::{Kept, Made, ensure, renew};
pub use service::{Reuse, Settings, Tls};
pub use socket::is_truncated;
pub use stream::{Encryption, Stream};
pub use tickets::{SESSION_ID, SessionId};

/// The cryptography that everything here is done with.
pub fn provider() -> rustls::crypto::CryptoProvider {
    suites::provider(!suites::has_aes())
}
