//! What handshakes are answered with: certificates by name, tickets, authorities of clients. Certificate files that have
//! changed are taken up by the next connection; a broken one is said once, and the old certificate stays.
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::Ticketer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoClientAuth, ProducesTickets, ResolvesServerCert, ServerConfig,
    ServerSessionMemoryCache, StoresServerSessions, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, version};

use super::certificate::{Certificate, CertificateError, Source, load_all};
use super::handshake::{Answers, Configs};
use super::suites;

/// A certificate that expires within so many days is worth a warning.
const DAYS_OF_WARNING: i64 = 14;

/// TLS 1.3 tickets that connections bring, so that a client which uses each once never runs out. Uploads bring some only
/// where they are asked for: a client that closes with tickets unread resets the connection under its own data.
/// Go's clients take sixteen in a row for an attack.
const TICKETS_OF_CONTROL: usize = 8;
const TICKETS_OF_DATA: usize = 2;

/// Sessions kept for clients that keep no tickets; a few hundred bytes each.
const CACHED_SESSIONS: usize = 256;

/// Whether a data connection must prove by a resumed TLS session that it is its control connection's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reuse {
    #[default]
    Prefer,
    Require,
}

/// Where everything comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The first is shown to clients that ask for no name, or for one that no certificate has.
    pub certificates: Vec<Source>,
    /// PEM file of the authorities whose client certificates are believed; None: clients are not asked for any.
    pub client_ca: Option<PathBuf>,
    pub reuse: Reuse,
}

/// TLS as the server offers it.
#[derive(Debug)]
pub struct Tls {
    settings: Settings,
    state: Mutex<State>,
}

/// By which sessions are resumed: tickets, or the cache.
#[derive(Clone, Debug)]
struct Resumption {
    ticketer: Arc<dyn ProducesTickets>,
    cache: Arc<dyn StoresServerSessions>,
}

impl Resumption {
    fn new() -> Result<Self, CertificateError> {
        let ticketer = Ticketer::new().map_err(|error| {
            CertificateError::new(
                Path::new("tls"),
                format!("no random numbers to be had: {error}"),
            )
        })?;
        let cache = ServerSessionMemoryCache::new(CACHED_SESSIONS);
        Ok(Self { ticketer, cache })
    }

    /// The same; but where clients are asked for certificates, a resumed session would be believed what an authority said
    /// that may be trusted no more.
    fn after_change(&self, asks_for_certificates: bool) -> Result<Self, CertificateError> {
        if asks_for_certificates {
            Self::new()
        } else {
            Ok(self.clone())
        }
    }
}

#[derive(Debug)]
struct State {
    stamps: Vec<Stamp>,
    resumption: Resumption,
    answers: Arc<Answers>,
    fingerprint: String,
}

/// What tells a file from the one that was read: device, inode, size, time of modification. None: it is not there.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

impl Tls {
    /// Reads and checks all files.
    ///
    /// # Errors
    /// The first file that is of no use.
    pub fn open(settings: Settings) -> Result<Self, CertificateError> {
        Self::with(settings, Resumption::new()?)
    }

    /// The same service from other settings; sessions made before can still be resumed, where no authority has changed.
    ///
    /// # Errors
    /// As [`Tls::open`].
    pub fn reopened(&self, settings: Settings) -> Result<Self, CertificateError> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let asks = settings.client_ca.is_some() || self.settings.client_ca.is_some();
        let resumption = state.resumption.after_change(asks)?;
        Self::with(settings, resumption)
    }

    fn with(settings: Settings, resumption: Resumption) -> Result<Self, CertificateError> {
        let state = Mutex::new(read(&settings, resumption)?);
        Ok(Self { settings, state })
    }

    /// What the next connection is answered with; files that have changed since are read again first.
    pub fn answers(&self) -> Arc<Answers> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps(&self.settings);
        if let Some(stamps) = stamps.filter(|stamps| *stamps != state.stamps) {
            let resumption = state
                .resumption
                .after_change(self.settings.client_ca.is_some());
            match resumption.and_then(|resumption| read(&self.settings, resumption)) {
                Ok(new) => {
                    log::info!(
                        "new certificate for new connections: SHA-256 {}",
                        new.fingerprint
                    );
                    *state = new;
                }
                Err(error) => {
                    log::error!("the old certificate stays: {error}");
                    // Said once; the next change is looked at again.
                    state.stamps = stamps;
                }
            }
        }
        Arc::clone(&state.answers)
    }

    /// SHA-256 of the first certificate.
    pub fn fingerprint(&self) -> String {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.fingerprint.clone()
    }
}

/// None where the server may not look, having given up root: then nothing changes.
fn stamps(settings: &Settings) -> Option<Vec<Stamp>> {
    let mut files: Vec<&Path> = Vec::new();
    for source in &settings.certificates {
        if let Source::Files { certificate, key } = source {
            files.extend([certificate.as_path(), key.as_path()]);
        }
    }
    files.extend(settings.client_ca.as_deref());
    files.into_iter().map(stamp).collect()
}

fn stamp(file: &Path) -> Option<Stamp> {
    match fs::metadata(file) {
        Ok(m) => Some(Some((
            m.dev(),
            m.ino(),
            m.size(),
            m.mtime(),
            m.mtime_nsec(),
        ))),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => None,
        Err(_) => Some(None),
    }
}

fn read(settings: &Settings, resumption: Resumption) -> Result<State, CertificateError> {
    // Before the files: a change while they are read is seen at the next look.
    let stamps = stamps(settings).unwrap_or_default();
    let ours = Arc::new(super::provider());
    let certificates = settings
        .certificates
        .iter()
        .map(|source| Certificate::load(source, &ours))
        .collect::<Result<Vec<_>, _>>()?;
    certificates.iter().for_each(warn_of_days);
    let fingerprint = certificates
        .first()
        .map(|certificate| certificate.fingerprint.clone())
        .unwrap_or_default();
    let by_name: Arc<dyn ResolvesServerCert> = Arc::new(ByName(certificates));
    let verifier = verifier(settings.client_ca.as_deref(), &ours)?;
    let make = |provider| configs(provider, &verifier, &by_name, &resumption, settings.reuse);
    let answers = Answers {
        chacha: make(Arc::new(suites::provider(true)))?,
        ours: make(ours)?,
    };
    Ok(State {
        stamps,
        resumption,
        answers: Arc::new(answers),
        fingerprint,
    })
}

fn warn_of_days(certificate: &Certificate) {
    let name = certificate.names.first().map_or("", String::as_str);
    if certificate.days_left() < DAYS_OF_WARNING {
        log::warn!(
            "the certificate of {name} expires on {}: renew it",
            certificate.last_day()
        );
    }
    if certificate.is_early() {
        log::warn!("the certificate of {name} is not valid yet: is the clock right?");
    }
}

fn verifier(
    file: Option<&Path>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, CertificateError> {
    let Some(file) = file else {
        return Ok(Arc::new(NoClientAuth));
    };
    let mut roots = RootCertStore::empty();
    for certificate in load_all(file)? {
        roots.add(certificate).map_err(|error| {
            CertificateError::new(
                file,
                format!("holds a certificate that cannot be an authority: {error}"),
            )
        })?;
    }
    // Clients without a certificate come in too, as far as a password takes them.
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .allow_unauthenticated()
        .build()
        .map_err(|error| CertificateError::new(file, format!("names no authority: {error}")))
}

fn configs(
    provider: Arc<CryptoProvider>,
    verifier: &Arc<dyn ClientCertVerifier>,
    by_name: &Arc<dyn ResolvesServerCert>,
    Resumption { ticketer, cache }: &Resumption,
    reuse: Reuse,
) -> Result<Configs, CertificateError> {
    let mut base = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(|error| CertificateError::new(Path::new("tls"), error.to_string()))?
        .with_client_cert_verifier(Arc::clone(verifier))
        .with_cert_resolver(Arc::clone(by_name));
    base.ignore_client_order = true;
    base.ticketer = Arc::clone(ticketer);
    base.session_storage = Arc::clone(cache);
    // A client that names a protocol must name ours: nothing meant for another service is taken (RFC 7301 §3.2).
    base.alpn_protocols = vec![b"ftp".to_vec()];
    base.send_tls13_tickets = TICKETS_OF_CONTROL;
    let mut sending = base.clone();
    sending.alpn_protocols = vec![b"ftp-data".to_vec(), b"ftp".to_vec()];
    sending.send_tls13_tickets = TICKETS_OF_DATA;
    let mut receiving = sending.clone();
    // What is sent may be left to the kernel.
    sending.enable_secret_extraction = true;
    if reuse == Reuse::Prefer {
        receiving.send_tls13_tickets = 0;
    }
    Ok(Configs {
        control: Arc::new(base),
        sending: Arc::new(sending),
        receiving: Arc::new(receiving),
    })
}

/// Chooses by the name that the client asks for (SNI, RFC 6066 §3), and by what signatures it can check.
#[derive(Debug)]
struct ByName(Vec<Certificate>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let usable = |certificate: &&Certificate| {
            let key = &certificate.certified.key;
            key.choose_scheme(hello.signature_schemes()).is_some()
        };
        let named = |certificate: &&Certificate| {
            hello
                .server_name()
                .is_some_and(|name| certificate.is_for(name))
        };
        let certificates = || self.0.iter().filter(usable);
        certificates()
            .find(named)
            .or_else(|| certificates().next())
            .or_else(|| self.0.first())
            .map(|certificate| Arc::clone(&certificate.certified))
    }
}
