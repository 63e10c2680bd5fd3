//! Certificates and their keys in PEM files (RFC 7468): read, checked, described. Each error names the file.
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::os::clock::now;

/// Where a certificate and its key come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// PEM files; one file may hold both.
    Files { certificate: PathBuf, key: PathBuf },
    /// PEM text that could not be kept in a file.
    Memory(String),
}

/// What is wrong with a certificate or its key, and in which file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateError {
    pub file: PathBuf,
    pub what: String,
    /// Nothing is wrong with it but its age.
    pub expired: bool,
}

impl CertificateError {
    pub fn new(file: &Path, what: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            what: what.into(),
            expired: false,
        }
    }

    fn unreadable(file: &Path, error: &io::Error) -> Self {
        let hint = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "; the user that the server runs as must be able to read it"
            }
            _ => "",
        };
        Self::new(file, format!("cannot be read: {error}{hint}"))
    }
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.what)
    }
}

impl std::error::Error for CertificateError {}

/// A certificate that can be shown to clients, with its chain and its key.
#[derive(Debug)]
pub struct Certificate {
    pub certified: Arc<CertifiedKey>,
    /// What its subject alternative names say, or its common name where there are none: host names and addresses.
    pub names: Vec<String>,
    /// Seconds since 1970.
    not_before: i64,
    /// Seconds since 1970.
    not_after: i64,
    /// The certificate alone in PEM, for clients to believe.
    pub pem: String,
    /// SHA-256 of the certificate, as browsers and clients show it: `AB:CD:...`.
    pub fingerprint: String,
}

impl Certificate {
    /// Reads and checks the chain and the key: RSA, ECDSA or Ed25519, in PKCS#1, PKCS#8 or SEC1.
    ///
    /// # Errors
    /// When a file cannot be read or holds nothing of use, the key is not the certificate's, or it has expired.
    pub fn load(source: &Source, provider: &CryptoProvider) -> Result<Self, CertificateError> {
        match source {
            Source::Files { certificate, key } => {
                let chain = read(certificate)?;
                let key_text = if certificate == key {
                    chain.clone()
                } else {
                    read(key)?
                };
                Self::parse((certificate, &chain), (key, &key_text), provider)
            }
            Source::Memory(pem) => {
                let nowhere = Path::new("the certificate made at the start");
                Self::parse(
                    (nowhere, pem.as_bytes()),
                    (nowhere, pem.as_bytes()),
                    provider,
                )
            }
        }
    }

    fn parse(
        (chain_file, chain_text): (&Path, &[u8]),
        (key_file, key): (&Path, &[u8]),
        provider: &CryptoProvider,
    ) -> Result<Self, CertificateError> {
        let chain = certificates(chain_file, chain_text)?;
        let Some(leaf) = chain.first().cloned() else {
            return Err(CertificateError::new(
                chain_file,
                "there is no certificate in it (-----BEGIN CERTIFICATE-----)",
            ));
        };
        let certified = certified_key(chain_file, chain, key_file, key, provider)?;
        let described = describe(chain_file, &leaf)?;
        if described.not_after <= now() {
            let day = day(described.not_after);
            let what = format!("the certificate expired on {day}; put a new one there");
            return Err(CertificateError {
                expired: true,
                ..CertificateError::new(chain_file, what)
            });
        }
        Ok(Self {
            certified: Arc::new(certified),
            pem: first_block(chain_text),
            fingerprint: fingerprint(&leaf),
            names: described.names,
            not_before: described.not_before,
            not_after: described.not_after,
        })
    }

    /// Whole days until it expires.
    pub fn days_left(&self) -> i64 {
        (self.not_after - now()).div_euclid(24 * 3600)
    }

    /// Whether its life has not begun, as on a host that starts without a clock.
    pub fn is_early(&self) -> bool {
        now() < self.not_before
    }

    /// When its life begins, in seconds since 1970.
    #[cfg(test)]
    pub fn valid_from(&self) -> i64 {
        self.not_before
    }

    /// The last day of its life, as `2036-11-24`.
    pub fn last_day(&self) -> String {
        day(self.not_after)
    }

    /// Whether it is made for the host name, wildcards included (RFC 6125 §6.4.3: the left-most label only).
    pub fn is_for(&self, host: &str) -> bool {
        self.names.iter().any(|name| name_matches(name, host))
    }
}

fn name_matches(name: &str, host: &str) -> bool {
    match name.strip_prefix("*.") {
        Some(parent) => host
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(parent)),
        None => name.eq_ignore_ascii_case(host),
    }
}

/// All certificates of a PEM file, such as the authorities whose clients are trusted.
///
/// # Errors
/// When the file cannot be read or is not PEM.
pub fn load_all(file: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    certificates(file, &read(file)?)
}

fn read(file: &Path) -> Result<Vec<u8>, CertificateError> {
    fs::read(file).map_err(|error| CertificateError::unreadable(file, &error))
}

fn certificates(file: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| CertificateError::new(file, format!("is not a PEM file: {error}")))
}

fn certified_key(
    chain_file: &Path,
    chain: Vec<CertificateDer<'static>>,
    key_file: &Path,
    key: &[u8],
    provider: &CryptoProvider,
) -> Result<CertifiedKey, CertificateError> {
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| {
        let encrypted = key.windows(9).any(|window| window == b"ENCRYPTED");
        let what = if encrypted {
            "the key has a passphrase; remove it (openssl pkey -in FILE -out NEW)"
        } else {
            "there is no private key in it (PEM: PKCS#8, PKCS#1 or SEC1)"
        };
        CertificateError::new(key_file, what)
    })?;
    let key = provider.key_provider.load_private_key(key).map_err(|error| {
        CertificateError::new(
            key_file,
            format!("the key is of no kind that can be used (RSA from 2048 bits, ECDSA P-256 or P-384, Ed25519): {error}"),
        )
    })?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        // What cannot be compared is not known to differ.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(certified)
        }
        Err(rustls::Error::InconsistentKeys(_)) => Err(CertificateError::new(
            key_file,
            format!(
                "the key is not that of the certificate in {}",
                chain_file.display()
            ),
        )),
        Err(error) => Err(CertificateError::new(
            chain_file,
            format!("the certificate cannot be used: {error}"),
        )),
    }
}

/// The first certificate's lines; the key and what else lies in the file is nobody's business.
fn first_block(pem: &[u8]) -> String {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let text = String::from_utf8_lossy(pem);
    let block = text
        .split_once(BEGIN)
        .and_then(|(_, rest)| rest.split_once(END));
    block.map_or_else(String::new, |(body, _)| format!("{BEGIN}{body}{END}\n"))
}

struct Described {
    names: Vec<String>,
    not_before: i64,
    not_after: i64,
}

fn describe(file: &Path, der: &CertificateDer<'_>) -> Result<Described, CertificateError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| {
        CertificateError::new(file, format!("the certificate cannot be read: {error}"))
    })?;
    let mut names = alternative_names(&certificate);
    if names.is_empty() {
        names = common_names(&certificate);
    }
    Ok(Described {
        names,
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
    })
}

/// Every name a certificate gives its owner: common names and subject alternative names. What cannot be read gives none.
pub fn all_names(der: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return Vec::new();
    };
    let mut names = common_names(&certificate);
    names.extend(alternative_names(&certificate));
    names
}

fn common_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject().iter_common_name();
    names
        .filter_map(|name| name.as_str().ok().map(str::to_owned))
        .collect()
}

fn alternative_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let names = extension.value.general_names.iter();
    names.filter_map(|name| written(name)).collect()
}

fn written(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => {
            Some((*name).to_owned())
        }
        GeneralName::IPAddress(bytes) => address(bytes),
        _ => None,
    }
}

fn address(bytes: &[u8]) -> Option<String> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(std::net::Ipv4Addr::from(v4).to_string());
    }
    let v6 = <[u8; 16]>::try_from(bytes).ok()?;
    Some(std::net::Ipv6Addr::from(v6).to_string())
}

fn fingerprint(der: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, der);
    let bytes: Vec<String> = digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect();
    bytes.join(":")
}

fn day(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(
        |_| "an unknown day".into(),
        |time| time.strftime("%Y-%m-%d").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    fn provider() -> CryptoProvider {
        rustls::crypto::ring::default_provider()
    }

    fn written_to(directory: &Path, name: &str, text: &str) -> PathBuf {
        let path = directory.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn pair(names: &[&str], until: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut parameters = CertificateParams::new(names).unwrap();
        parameters.not_after = date_time_ymd(until, 1, 1);
        let certificate = parameters.self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn load(certificate: &Path, key: &Path) -> Result<Certificate, String> {
        let source = Source::Files {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        };
        Certificate::load(&source, &provider()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_certificate_tells_its_names_its_days_and_its_fingerprint() {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = pair(&["nas.local", "127.0.0.1", "*.example.org"], 2090);
        let both = written_to(directory.path(), "both.pem", &(certificate + &key));
        let loaded = load(&both, &both).unwrap();
        assert_eq!(loaded.names, ["nas.local", "127.0.0.1", "*.example.org"]);
        assert_eq!(loaded.last_day(), "2090-01-01");
        assert!(loaded.days_left() > 10_000);
        assert_eq!(loaded.fingerprint.len(), 32 * 3 - 1);
        for (host, fits) in [
            ("NAS.local", true),
            ("a.example.org", true),
            ("example.org", false),
            (".example.org", false),
            ("a.b.example.org", false),
            ("nas", false),
        ] {
            assert_eq!(loaded.is_for(host), fits, "{host}");
        }
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_the_files_name() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str, text: &str| written_to(directory.path(), name, text);
        let (certificate, key) = pair(&["a"], 2090);
        let (_, foreign) = pair(&["a"], 2090);
        let (old, old_key) = pair(&["a"], 2001);
        let good = at("good.pem", &certificate);
        let good_key = at("good.key", &key);
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let encrypted =
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        for (certificate, key, expected) in [
            (
                directory.path().join("none.pem"),
                good_key.clone(),
                "none.pem: cannot be read: No such file",
            ),
            (
                at("empty.pem", ""),
                good_key.clone(),
                "empty.pem: there is no certificate in it",
            ),
            (
                at("broken.pem", broken),
                good_key.clone(),
                "broken.pem: the certificate cannot be",
            ),
            (
                at("torn.pem", &certificate[..certificate.len() - 40]),
                good_key.clone(),
                "torn.pem: is not a PEM file",
            ),
            (
                good.clone(),
                at("empty.key", "hello"),
                "empty.key: there is no private key in it",
            ),
            (
                good.clone(),
                at("secret.key", encrypted),
                "secret.key: the key has a passphrase",
            ),
            (
                good.clone(),
                at("foreign.key", &foreign),
                "foreign.key: the key is not that of the certificate in",
            ),
            (
                at("old.pem", &old),
                at("old.key", &old_key),
                "old.pem: the certificate expired on 2001-01-01",
            ),
        ] {
            let refusal = load(&certificate, &key).unwrap_err();
            assert!(refusal.contains(expected), "{expected}\n-> {refusal}");
        }
        assert!(load(&good, &good_key).is_ok());
    }
}
