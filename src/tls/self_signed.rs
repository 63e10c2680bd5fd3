//! The certificate made at the first start, so that encryption is there without anybody asking for it: ECDSA P-256, valid
//! for ten years, certificate and key in one file that only its owner reads.
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, date_time_ymd};

use super::certificate::{Certificate, Source};

const YEARS: i16 = 10;

/// Where the certificate is.
#[derive(Clone, Debug)]
pub struct Made {
    pub source: Source,
    /// It was made just now.
    pub is_new: bool,
}

/// The certificate kept in the file, or a new one where there is none or it has expired. Where the file cannot be
/// written, the certificate lives in memory until the server ends.
///
/// # Errors
/// When no certificate can be made. A file that is there and of no use is the affair of who loads it.
pub fn ensure(file: &Path, names: &[String]) -> io::Result<Made> {
    let source = in_file(file);
    if file.exists() {
        match Certificate::load(&source, &super::provider()) {
            Err(error) if error.expired => {
                log::warn!("{error}; making a new one");
            }
            _ => {
                return Ok(Made {
                    source,
                    is_new: false,
                });
            }
        }
    }
    let pem = make(names)?;
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

/// A new certificate in the place of the one in the file.
///
/// # Errors
/// When it can be neither made nor written.
pub fn renew(file: &Path, names: &[String]) -> io::Result<Source> {
    place(file, &make(names)?)?;
    Ok(in_file(file))
}

fn in_file(file: &Path) -> Source {
    Source::Files {
        certificate: file.to_owned(),
        key: file.to_owned(),
    }
}

fn make(names: &[String]) -> io::Result<String> {
    let failed =
        |error: rcgen::Error| io::Error::other(format!("cannot make a certificate: {error}"));
    let key = KeyPair::generate().map_err(failed)?;
    let mut parameters = CertificateParams::new(names).map_err(failed)?;
    let today = jiff::Timestamp::now()
        .to_zoned(jiff::tz::TimeZone::UTC)
        .date();
    let on = |year: i16| {
        // A day that every month has: the 29th of February has no anniversary.
        let (month, day) = (
            today.month().unsigned_abs(),
            today.day().unsigned_abs().min(28),
        );
        date_time_ymd(i32::from(year), month, day)
    };
    // From a year ago: the clock of a small host or of its clients may be late.
    parameters.not_before = on(today.year() - 1);
    parameters.not_after = on(today.year() + YEARS);
    let name = names.first().map_or("thriftpd", String::as_str);
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = parameters.self_signed(&key).map_err(failed)?;
    Ok(certificate.pem() + &key.serialize_pem())
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
