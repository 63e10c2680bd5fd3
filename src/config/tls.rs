//! The section `[tls]`: whether and how connections are encrypted.
use std::net::SocketAddr;

use super::checked::{Checked, Checker};
use super::file;
use super::values::parse_listen;
use crate::tls::{Reuse, Settings, Source};

/// What is asked of clients (RFC 4217 §11).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// There is no encryption.
    Off,
    /// Who wants it has it.
    #[default]
    Offered,
    /// No password in the clear.
    Logins,
    /// Neither passwords nor files in the clear.
    Required,
}

/// The section, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    pub mode: TlsMode,
    /// Certificates and authorities. No certificate: one is made.
    pub service: Settings,
    /// Listeners on which TLS begins with the first byte.
    pub implicit: Vec<SocketAddr>,
    /// Downloads may be sealed by the kernel.
    pub by_kernel: bool,
    /// CCC may bring the control connection back to the clear.
    pub allow_ccc: bool,
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self {
            mode: TlsMode::default(),
            service: Settings::default(),
            implicit: Vec::new(),
            by_kernel: true,
            allow_ccc: false,
        }
    }
}

const MODES: [(&str, TlsMode); 4] = [
    ("off", TlsMode::Off),
    ("offered", TlsMode::Offered),
    ("logins", TlsMode::Logins),
    ("required", TlsMode::Required),
];

impl TlsMode {
    /// As it is written in the configuration.
    pub fn name(self) -> &'static str {
        MODES
            .iter()
            .find(|(_, mode)| *mode == self)
            .map_or("", |(name, _)| name)
    }
}

impl Checker<'_> {
    pub fn tls(&self, section: &file::Tls) -> Checked<TlsSettings> {
        let mode = self.parsed("mode", &section.mode, parse_mode)?;
        let mode = mode.unwrap_or_default();
        let mut certificates = Vec::new();
        match (&section.cert, &section.key) {
            (Some(cert), key) => certificates.push(self.source(cert, key.as_ref())),
            (None, Some(key)) => {
                return self.wrong(&key.span(), "key", "there is no `cert` to this key");
            }
            (None, None) => {}
        }
        for more in &section.certificate {
            certificates.push(self.source(&more.cert, more.key.as_ref()));
        }
        let mut implicit = Vec::new();
        for address in &section.implicit {
            if mode == TlsMode::Off {
                return self.wrong(
                    &address.span(),
                    "implicit",
                    "there is no encryption with `mode = \"off\"`",
                );
            }
            match parse_listen(address.get_ref()) {
                Ok(address) => implicit.push(address),
                Err(what) => return self.wrong(&address.span(), "implicit", what),
            }
        }
        let reuse = self.parsed(
            "data_session_reuse",
            &section.data_session_reuse,
            parse_reuse,
        )?;
        Ok(TlsSettings {
            mode,
            service: Settings {
                certificates,
                client_ca: section
                    .client_ca
                    .as_ref()
                    .map(|file| self.beside(file.get_ref())),
                reuse: reuse.unwrap_or_default(),
            },
            implicit,
            by_kernel: section.kernel.unwrap_or(true),
            allow_ccc: section.allow_ccc,
        })
    }

    /// Without a key of its own the certificate's file holds it.
    fn source(
        &self,
        cert: &serde_spanned::Spanned<String>,
        key: Option<&serde_spanned::Spanned<String>>,
    ) -> Source {
        Source::Files {
            certificate: self.beside(cert.get_ref()),
            key: self.beside(key.unwrap_or(cert).get_ref()),
        }
    }
}

fn parse_mode(text: &str) -> Result<TlsMode, String> {
    let known = MODES.map(|(name, _)| name).join(", ");
    MODES
        .iter()
        .find(|(name, _)| *name == text)
        .map(|(_, mode)| *mode)
        .ok_or_else(|| format!("expected one of {known}"))
}

fn parse_reuse(text: &str) -> Result<Reuse, String> {
    match text {
        "prefer" => Ok(Reuse::Prefer),
        "require" => Ok(Reuse::Require),
        _ => Err("expected \"prefer\" or \"require\"".into()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    fn parse(text: &str) -> Result<TlsSettings, String> {
        let config = Config::parse(Path::new("/etc/thriftpd/thriftpd.toml"), text);
        config
            .map(|config| config.tls)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_section_is_read_and_files_lie_beside_the_configuration() {
        let text = "[tls]\nmode = \"required\"\ncert = \"nas.pem\"\nimplicit = [\"127.0.0.1:990\"]\n\
            client_ca = \"/etc/ca.pem\"\ndata_session_reuse = \"require\"\nallow_ccc = true\nkernel = false\n\
            [[tls.certificate]]\ncert = \"b.pem\"\nkey = \"b.key\"\n";
        let tls = parse(text).unwrap();
        let at = |name: &str| Path::new("/etc/thriftpd").join(name);
        assert_eq!(
            tls.service.certificates,
            [
                Source::Files {
                    certificate: at("nas.pem"),
                    key: at("nas.pem")
                },
                Source::Files {
                    certificate: at("b.pem"),
                    key: at("b.key")
                },
            ]
        );
        assert_eq!(
            (tls.mode, tls.service.reuse, tls.allow_ccc),
            (TlsMode::Required, Reuse::Require, true)
        );
        assert_eq!(tls.implicit.len(), 1);
        assert!(!tls.by_kernel && TlsSettings::default().by_kernel);
        assert_eq!(
            tls.service.client_ca.as_deref(),
            Some(Path::new("/etc/ca.pem"))
        );
        assert_eq!(parse("").unwrap(), TlsSettings::default());
        assert_eq!(TlsMode::Logins.name(), "logins");
    }

    #[test]
    fn what_cannot_be_is_refused_with_line_and_key() {
        for (text, expected) in [
            (
                "[tls]\nmode = \"on\"",
                ":2: `mode`: expected one of off, offered, logins, required",
            ),
            ("[tls]\nkey = \"a.key\"", ":2: `key`: there is no `cert`"),
            (
                "[tls]\nmode = \"off\"\nimplicit = [\"990\"]",
                ":3: `implicit`: there is no encryption",
            ),
            (
                "[tls]\nimplicit = [\"nas:990\"]",
                ":2: `implicit`: expected an address",
            ),
            (
                "[tls]\ndata_session_reuse = \"yes\"",
                ":2: `data_session_reuse`: expected \"prefer\"",
            ),
            ("[tls]\nciphers = \"all\"", ":2: `ciphers`: unknown key"),
            ("[[tls.certificate]]\nkey = \"a\"", "missing field `cert`"),
        ] {
            let refusal = parse(text).unwrap_err();
            assert!(refusal.contains(expected), "{text}\n-> {refusal}");
        }
    }
}
