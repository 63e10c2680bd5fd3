//! The certificate made at the first start, so that encryption is there without anybody asking for it: ECDSA P-256, certificate
//! and key in one file that only its owner reads.
//!
//! Clients remember it, and so it is made anew in two cases only, with the same key: it has expired, or it names none of the
//! addresses that the host has in its networks, for it was made before the host had any. No clock is believed for that: it is
//! valid from 1970 on, where clocks start that were never set, and for ten years from the day it is made.
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, date_time_ymd};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;

use super::certificate::{Certificate, Source};

const YEARS: i16 = 10;

/// No clock of a host that serves says less, unless it was never set.
const FIRST_YEAR: i16 = 2020;

/// The last year that 32 bits hold: what a certificate is valid for that was made without a clock.
const LAST_YEAR: i16 = 2037;

/// What a file begins with that was made here. PEM takes it for nothing (RFC 7468 §2).
const MARK: &str =
    "thriftpd made this file, and may make the certificate in it anew with the same key.\n";

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";

const NO_ADDRESS: &str = "the certificate was made before the host had an address";

/// Where the certificate is.
#[derive(Clone, Debug)]
pub struct Made {
    pub source: Source,
    /// It was made just now.
    pub is_new: bool,
}

/// The certificate kept in the file, or a new one where there is none or that one is of no use any more. Where the file cannot
/// be written, the certificate lives in memory until the server ends.
///
/// # Errors
/// When no certificate can be made. A file that is there and of no use is the affair of who loads it.
pub fn ensure(file: &Path, names: &[String]) -> io::Result<Made> {
    let source = in_file(file);
    let mut key = None;
    if file.exists() {
        let old = fs::read_to_string(file).unwrap_or_default();
        let Some(why) = why_anew(&source, &old, names) else {
            return Ok(Made {
                source,
                is_new: false,
            });
        };
        log::warn!("{}: {why}; making a new one", file.display());
        key = key_in(&old);
    }
    let pem = make(names, key)?;
    let source = match place(file, &pem) {
        Ok(()) => source,
        Err(error) => {
            log::warn!(
                "cannot keep the certificate in {}: {error}; clients will be shown another one after the next start",
                file.display()
            );
            Source::Memory(pem)
        }
    };
    Ok(Made {
        source,
        is_new: true,
    })
}

/// Why the certificate is to be made anew; None: it is good, or nobody may touch it.
fn why_anew(source: &Source, text: &str, names: &[String]) -> Option<String> {
    match Certificate::load(source, &super::provider()) {
        Err(error) if error.expired => Some(error.what),
        // A power cut while it was made anew in its place: its key is whole.
        Err(error) if is_ours(text) && key_in(text).is_some() => Some(error.what),
        Ok(old) if is_ours(text) && has_address(names) && !has_address(&old.names) => {
            Some(NO_ADDRESS.into())
        }
        _ => None,
    }
}

fn is_ours(text: &str) -> bool {
    text.starts_with(MARK)
}

fn key_in(text: &str) -> Option<KeyPair> {
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).ok()?;
    KeyPair::try_from(&key).ok()
}

/// Whether there is an address among the names by which others can reach the host.
fn has_address(names: &[String]) -> bool {
    let addresses = names.iter().filter_map(|name| name.parse::<IpAddr>().ok());
    addresses.into_iter().any(is_reachable)
}

fn is_reachable(address: IpAddr) -> bool {
    let is_link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    !address.is_loopback() && !is_link_local
}

/// The file of a certificate that was made before the host had an address, opened while that may be done: a server that has
/// confined itself can neither see addresses come nor make files. It learns of one from the first client that comes there.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
    file: File,
    /// The certificate names no address yet.
    waits: AtomicBool,
}

impl Kept {
    /// None where the certificate has an address, or nobody may touch it.
    pub fn open(made: &Made) -> Option<Self> {
        let Source::Files { certificate, .. } = &made.source else {
            return None;
        };
        let opened = OpenOptions::new().read(true).write(true).open(certificate);
        let kept = Self {
            path: certificate.clone(),
            file: opened.ok()?,
            waits: AtomicBool::new(true),
        };
        kept.needs_address().ok()?.then_some(kept)
    }

    /// A client has come to this address of the host. The first one that others can reach goes into the certificate, on a thread
    /// of its own: the next connections see it.
    pub fn is_reached_at(self: &Arc<Self>, address: IpAddr) {
        if !self.waits.load(Ordering::Relaxed) || !is_reachable(address) {
            return;
        }
        if !self.waits.swap(false, Ordering::Relaxed) {
            return;
        }
        let this = Arc::clone(self);
        let add = move || {
            if let Err(error) = this.add(address) {
                let file = this.path.display();
                log::warn!("{file}: cannot be made anew: {error}; try `thriftpd cert renew`");
            }
        };
        let thread = std::thread::Builder::new().name("certificate".into());
        if let Err(error) = thread.stack_size(256 * 1024).spawn(add) {
            log::warn!("no certificate is made for {address}: {error}");
        }
    }

    fn needs_address(&self) -> io::Result<bool> {
        let (old, source) = self.read()?;
        let names = Certificate::load(&source, &super::provider()).map(|old| old.names);
        Ok(is_ours(&old) && names.is_ok_and(|names| !has_address(&names)))
    }

    fn read(&self) -> io::Result<(String, Source)> {
        let length = usize::try_from(self.file.metadata()?.len()).unwrap_or(0);
        let mut text = vec![0; length];
        self.file.read_exact_at(&mut text, 0)?;
        let text = String::from_utf8_lossy(&text).into_owned();
        Ok((text.clone(), Source::Memory(text)))
    }

    /// Makes the certificate anew in the same file: behind the key, which stays where it is, whatever happens meanwhile.
    fn add(&self, address: IpAddr) -> io::Result<()> {
        let (old, source) = self.read()?;
        let mut names = Certificate::load(&source, &super::provider())
            .map_err(io::Error::other)?
            .names;
        names.push(address.to_string());
        let (true, Some(key)) = (is_ours(&old), key_in(&old)) else {
            return Ok(());
        };
        let new = make(&names, Some(key))?;
        let head = new.find(BEGIN).unwrap_or(new.len());
        if old.get(..head) != new.get(..head) {
            return Err(io::Error::other("the key is not where it belongs"));
        }
        self.file
            .write_all_at(&new.as_bytes()[head..], head as u64)?;
        self.file.set_len(new.len() as u64)?;
        self.file.sync_all()?;
        log::warn!(
            "{}: {NO_ADDRESS}; a new one is made for {address}",
            self.path.display()
        );
        Ok(())
    }
}

/// A new certificate in the place of the one in the file.
///
/// # Errors
/// When it can be neither made nor written.
pub fn renew(file: &Path, names: &[String]) -> io::Result<Source> {
    place(file, &make(names, None)?)?;
    Ok(in_file(file))
}

fn in_file(file: &Path) -> Source {
    Source::Files {
        certificate: file.to_owned(),
        key: file.to_owned(),
    }
}

/// The file's text, with this key or a new one.
fn make(names: &[String], key: Option<KeyPair>) -> io::Result<String> {
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    make_on(today.date(), names, key)
}

fn make_on(today: jiff::civil::Date, names: &[String], key: Option<KeyPair>) -> io::Result<String> {
    let failed =
        |error: rcgen::Error| io::Error::other(format!("cannot make a certificate: {error}"));
    let key = key.map_or_else(KeyPair::generate, Ok).map_err(failed)?;
    let mut parameters = CertificateParams::new(names).map_err(failed)?;
    parameters.not_before = date_time_ymd(1970, 1, 1);
    parameters.not_after = match today.year() {
        ..FIRST_YEAR => date_time_ymd(LAST_YEAR.into(), 12, 31),
        // A day that every month has: the 29th of February has no anniversary.
        year => date_time_ymd(
            i32::from(year.min(9000) + YEARS),
            today.month().unsigned_abs(),
            today.day().unsigned_abs().min(28),
        ),
    };
    let name = names.first().map_or("thriftpd", String::as_str);
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = parameters.self_signed(&key).map_err(failed)?;
    // The key first, where it stays when the certificate is made anew.
    Ok([MARK, &key.serialize_pem(), &certificate.pem()].concat())
}

/// Written aside and renamed, so that there is never half a certificate, nor one without its key.
fn place(file: &Path, pem: &str) -> io::Result<()> {
    if let Some(directory) = file
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        // Others may pass through it, not look around: the server reads on after it gave up root.
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(directory)?;
    }
    let aside = file.with_extension(format!("pem.{}", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&aside)
        .and_then(|mut out| {
            out.write_all(pem.as_bytes())?;
            out.sync_all()
        })
        .and_then(|()| keep_owner(file, &aside))
        .and_then(|()| fs::rename(&aside, file));
    if written.is_err() {
        let _ = fs::remove_file(&aside);
    }
    written
}

/// The server may run as somebody else than who renews: the new file belongs to whom the old one belonged to.
fn keep_owner(old: &Path, new: &Path) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, chown};
    match fs::metadata(old) {
        Ok(old) if old.uid() != fs::metadata(new)?.uid() => {
            chown(new, Some(old.uid()), Some(old.gid()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn load(source: &Source) -> Certificate {
        Certificate::load(source, &crate::tls::provider()).unwrap()
    }

    #[test]
    fn it_is_made_once_for_ten_years_and_kept_from_others() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("new/certificate.pem");
        let names = [
            "nas".to_owned(),
            "nas.local".to_owned(),
            "127.0.0.1".to_owned(),
        ];
        let made = ensure(&file, &names).unwrap();
        let first = load(&made.source);
        assert!(made.is_new && (3640..=3653).contains(&first.days_left()));
        assert_eq!(first.names, names);
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );

        let again = ensure(&file, &["other".to_owned()]).unwrap();
        assert!(!again.is_new);
        assert_eq!(load(&again.source).fingerprint, first.fingerprint);

        let renewed = load(&renew(&file, &names).unwrap());
        assert_ne!(renewed.fingerprint, first.fingerprint);
        assert_eq!(
            fs::read_dir(directory.path().join("new")).unwrap().count(),
            1
        );
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn key(file: &Path) -> Vec<u8> {
        let text = fs::read_to_string(file).unwrap();
        key_in(&text).unwrap().serialize_der()
    }

    #[test]
    fn made_before_the_host_has_an_address_it_is_made_anew_once_with_the_same_key() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("certificate.pem");
        let (early, later) = (
            names(&["nas", "127.0.0.1", "::1"]),
            names(&["nas", "192.0.2.7", "127.0.0.1", "::1"]),
        );
        let first = load(&ensure(&file, &early).unwrap().source);
        let first_key = key(&file);
        assert!(!ensure(&file, &early).unwrap().is_new);
        let made = ensure(&file, &later).unwrap();
        let second = load(&made.source);
        assert!(made.is_new && second.fingerprint != first.fingerprint);
        assert_eq!((&second.names, key(&file)), (&later, first_key));
        // Clients that know it by its fingerprint go on, whatever address comes next and goes.
        for others in [&names(&["nas", "192.0.2.8", "127.0.0.1"]), &early] {
            assert!(!ensure(&file, others).unwrap().is_new);
        }
    }

    #[test]
    fn a_confined_server_makes_it_anew_for_the_first_address_that_clients_come_to() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("certificate.pem");
        let early = names(&["nas", "::1"]);
        let made = ensure(&file, &early).unwrap();
        let (first_key, kept) = (key(&file), Arc::new(Kept::open(&made).unwrap()));
        let at = |address: &str| kept.is_reached_at(address.parse().unwrap());
        ["127.0.0.1", "::1", "fe80::1"].into_iter().for_each(at);
        assert!(kept.waits.load(Ordering::Relaxed));
        kept.add(IpAddr::from([192, 0, 2, 7])).unwrap();
        assert_eq!(load(&in_file(&file)).names, ["nas", "::1", "192.0.2.7"]);
        assert_eq!(key(&file), first_key);
        assert!(Kept::open(&made).is_none());
        // Wherever a power cut stops that, the key is there, and the next start makes the rest.
        let whole = fs::read_to_string(&file).unwrap();
        let head = whole.find(BEGIN).unwrap();
        for length in [head, head + 40, whole.len() - 30] {
            fs::write(&file, &whole[..length]).unwrap();
            assert!(ensure(&file, &early).unwrap().is_new);
            assert_eq!(load(&in_file(&file)).names, early);
            assert_eq!(key(&file), first_key);
        }
    }

    #[test]
    fn no_clock_makes_it_invalid_and_one_that_expired_keeps_its_key() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("certificate.pem");
        let names = names(&["nas", "192.0.2.7"]);
        let on = |year| jiff::civil::date(year, 2, 28);
        fs::write(&file, make_on(on(1970), &names, None).unwrap()).unwrap();
        let made = load(&in_file(&file));
        assert_eq!(made.valid_from(), 0);
        assert_eq!(made.last_day(), "2037-12-31");
        assert!(!ensure(&file, &names).unwrap().is_new);
        let mut parameters = CertificateParams::new(names.clone()).unwrap();
        parameters.not_after = date_time_ymd(1980, 1, 1);
        let own = key_in(&fs::read_to_string(&file).unwrap()).unwrap();
        let expired = parameters.self_signed(&own).unwrap().pem() + &own.serialize_pem();
        let before = key(&file);
        fs::write(&file, expired).unwrap();
        assert!(ensure(&file, &names).unwrap().is_new);
        assert_eq!(key(&file), before);
        assert!(make_on(on(9999), &names, None).is_ok());
    }

    #[test]
    fn what_somebody_else_has_put_there_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("certificate.pem");
        let own = make(&names(&["nas"]), None).unwrap();
        let own = own.strip_prefix(MARK).unwrap();
        for text in [own, &own[..own.len() - 30], "nonsense"] {
            fs::write(&file, text).unwrap();
            let later = names(&["nas", "192.0.2.7"]);
            let made = ensure(&file, &later).unwrap();
            assert!(!made.is_new && Kept::open(&made).is_none());
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
    }

    #[test]
    fn where_nothing_can_be_written_it_lives_in_memory() {
        let directory = tempfile::tempdir().unwrap();
        let in_the_way = directory.path().join("file");
        fs::write(&in_the_way, "").unwrap();
        let made = ensure(&in_the_way.join("certificate.pem"), &["nas".to_owned()]).unwrap();
        assert!(matches!(made.source, Source::Memory(_)));
        assert_eq!(load(&made.source).names, ["nas"]);
    }
}
