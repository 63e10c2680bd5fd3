//! What is wrong with a configuration file: where, which key, and what was expected.
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Shown as `FILE:LINE: key: what`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub file: PathBuf,
    /// Counted from 1; None where the file as a whole is meant.
    pub line: Option<usize>,
    pub key: Option<String>,
    pub what: String,
}

impl ConfigError {
    pub fn unreadable(file: &Path, error: &io::Error) -> Self {
        let hint = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "; it must be readable by the user that the server runs as"
            }
            io::ErrorKind::NotFound => "; check the path given with --config",
            _ => "",
        };
        Self {
            file: file.to_owned(),
            line: None,
            key: None,
            what: format!("cannot be read: {error}{hint}"),
        }
    }

    /// A key's value cannot be.
    pub fn at(
        file: &Path,
        text: &str,
        span: &Range<usize>,
        key: &str,
        what: impl Into<String>,
    ) -> Self {
        Self {
            file: file.to_owned(),
            line: Some(line_of(text, span.start)),
            key: Some(key.to_owned()),
            what: what.into(),
        }
    }

    /// What the TOML reader said.
    pub fn of_toml(file: &Path, text: &str, error: &toml_edit::de::Error) -> Self {
        let start = error.span().map(|span| span.start);
        let line = start.map(|start| line_of(text, start));
        if let Some((unknown, known)) = unknown_field(error.message()) {
            let nearest = known
                .iter()
                .min_by_key(|known| strsim::damerau_levenshtein(&unknown, known));
            let what = match nearest {
                Some(nearest) => format!(
                    "unknown key; did you mean `{nearest}`? (known here: {})",
                    known.join(", ")
                ),
                None => "unknown key".to_owned(),
            };
            return Self {
                file: file.to_owned(),
                line,
                key: Some(unknown),
                what,
            };
        }
        let key = start.and_then(|start| key_on_line(text, start));
        Self {
            file: file.to_owned(),
            line,
            key,
            what: error.message().replace('\n', " "),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        if let Some(key) = &self.key {
            write!(f, " `{key}`:")?;
        }
        write!(f, " {}", self.what)
    }
}

impl std::error::Error for ConfigError {}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())]
        .iter()
        .filter(|&&byte| byte == b'\n')
        .count()
        + 1
}

fn key_on_line(text: &str, offset: usize) -> Option<String> {
    let line = text.lines().nth(line_of(text, offset) - 1)?;
    let key = line.split('=').next()?.trim();
    (line.contains('=') && !key.is_empty()).then(|| key.to_owned())
}

/// serde's sentence for an unknown field names it and then the known ones, each in backticks.
fn unknown_field(message: &str) -> Option<(String, Vec<String>)> {
    let named = message.strip_prefix("unknown field ")?;
    let mut names = named.split('`').skip(1).step_by(2).map(str::to_owned);
    Some((names.next()?, names.collect()))
}
