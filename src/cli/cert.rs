//! `thriftpd cert`: the server's own certificate, shown or made anew.
use std::io;
use std::path::{Path, PathBuf};

use argh::FromArgs;

use super::Outcome;
use crate::config::{Config, TlsMode, directory};
use crate::os::addresses::{host_name, lan_addresses};
use crate::server::privileges;
use crate::tls::{self, Certificate, Made, Source};

/// The self-signed certificate with its key, beside the configuration.
const FILE: &str = "certificate.pem";

/// show or renew the certificate that clients see
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "cert")]
pub struct CertArguments {
    #[argh(subcommand)]
    what: What,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
enum What {
    Show(ShowArguments),
    Renew(RenewArguments),
}

/// print the certificates: names, last day, SHA-256 fingerprint, and PEM for clients to believe
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "show")]
struct ShowArguments {
    /// the configuration file (TOML)
    #[argh(option, arg_name = "file")]
    config: Option<PathBuf>,
}

/// make a new self-signed certificate; a running server shows it to new connections
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "renew")]
struct RenewArguments {
    /// the configuration file (TOML)
    #[argh(option, arg_name = "file")]
    config: Option<PathBuf>,
}

/// # Errors
/// What is wrong with the certificate or the configuration.
pub fn run(arguments: &CertArguments) -> Outcome {
    match &arguments.what {
        What::Show(arguments) => show(arguments.config.as_deref()),
        What::Renew(arguments) => renew(arguments.config.as_deref()),
    }
}

fn show(config: Option<&Path>) -> Outcome {
    let mut sources = configured(config)?;
    if sources.is_empty() {
        let file = self_signed(config);
        if !file.exists() {
            return Err(format!(
                "there is no certificate yet; `thriftpd serve` makes one in {}, and so does `thriftpd cert renew`",
                file.display()
            ));
        }
        sources.push(Source::Files {
            certificate: file.clone(),
            key: file,
        });
    }
    sources.iter().try_for_each(print)
}

fn renew(config: Option<&Path>) -> Outcome {
    if let Some(Source::Files { certificate, .. }) = configured(config)?.first() {
        return Err(format!(
            "{} was not made by thriftpd: put a new one in its place, and a running server takes it up",
            certificate.display()
        ));
    }
    let file = self_signed(config);
    let source = tls::renew(&file, &names())
        .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    print(&source)
}

fn configured(config: Option<&Path>) -> Result<Vec<Source>, String> {
    let config = config.map(Config::load).transpose();
    let config = config.map_err(|error| error.to_string())?;
    Ok(config
        .map(|config| config.tls.service.certificates)
        .unwrap_or_default())
}

fn self_signed(config: Option<&Path>) -> PathBuf {
    directory(config, privileges::is_root()).join(FILE)
}

/// Every name and address that a client on the LAN could call this host by.
fn names() -> Vec<String> {
    let host = host_name();
    let mut names = vec![host.clone()];
    if !host.contains('.') {
        // What it is called by multicast DNS (RFC 6762 §3).
        names.push(format!("{host}.local"));
    }
    names.push("localhost".into());
    names.extend(lan_addresses().iter().map(ToString::to_string));
    names.extend(["127.0.0.1".into(), "::1".into()]);
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

fn print(source: &Source) -> Outcome {
    let certificate = describe(source)?;
    if let Source::Files {
        certificate: file, ..
    } = source
    {
        println!("file: {}", file.display());
    }
    println!("names: {}", certificate.names.join(", "));
    println!(
        "valid until: {} ({} days)",
        certificate.last_day(),
        certificate.days_left()
    );
    println!("SHA-256: {}", certificate.fingerprint);
    print!("{}", certificate.pem);
    Ok(())
}

/// # Errors
/// What is wrong with it, with the file's name.
pub fn describe(source: &Source) -> Result<Certificate, String> {
    Certificate::load(source, &tls::provider()).map_err(|error| error.to_string())
}

/// Where encryption is wanted and no certificate is configured, the self-signed one is used, and made where there is none.
///
/// # Errors
/// When none can be made.
pub fn provide(config: &mut Config, file: Option<&Path>) -> io::Result<Option<Made>> {
    let certificates = &mut config.tls.service.certificates;
    if config.tls.mode == TlsMode::Off || !certificates.is_empty() {
        return Ok(None);
    }
    let made = tls::ensure(&self_signed(file), &names())?;
    certificates.push(made.source.clone());
    Ok(Some(made))
}

/// As [`provide`], for a server that has confined itself: it can use the certificate that is there, and make none.
///
/// # Errors
/// When there is none.
pub fn find(config: &mut Config, file: Option<&Path>) -> Outcome {
    let certificates = &mut config.tls.service.certificates;
    if config.tls.mode == TlsMode::Off || !certificates.is_empty() {
        return Ok(());
    }
    let own = self_signed(file);
    if !own.exists() {
        return Err(format!(
            "there is no certificate; make one with `thriftpd cert renew`, or restart the server (wanted: {})",
            own.display()
        ));
    }
    certificates.push(Source::Files {
        certificate: own.clone(),
        key: own,
    });
    Ok(())
}
