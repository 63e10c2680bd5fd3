//! The keys against abuse: who may come from where, how many may wait for their login, bans, rates.
use std::path::PathBuf;
use std::time::Duration;

use serde_spanned::Spanned;

use super::checked::{Checked, Checker};
use super::file::{File, OneOrMany, Seconds, User};
use super::values::parse_size;
use crate::accounts::{Networks, Rates, Reach};

/// What the server does against those who wear it down.
#[derive(Clone, Debug)]
pub struct Abuse {
    pub reach: Reach,
    /// None: by `sessions`; see [`Abuse::before_login`].
    pub sessions_before_login: Option<usize>,
    /// Commands a second; more of them before the login wait.
    pub commands_before_login: u32,
    /// Failed logins of one address; 0: nobody is banned.
    pub ban_after: u32,
    pub ban_for: Duration,
    pub ban_loopback: bool,
    pub ban_file: Option<PathBuf>,
    /// Bytes a second that a transfer must move while the server is busy; 0: none.
    pub min_rate: u64,
    /// How long a transfer may be slower.
    pub slow: Duration,
    /// All sessions together.
    pub rates: Rates,
    /// Each session.
    pub session_rates: Rates,
    /// Names that one listing or pattern looks at.
    pub names_per_command: usize,
    /// Copies and checksums on command, of all sessions.
    pub heavy_at_once: usize,
}

impl Default for Abuse {
    fn default() -> Self {
        Self {
            reach: Reach::default(),
            sessions_before_login: None,
            commands_before_login: 20,
            ban_after: 10,
            ban_for: Duration::from_secs(15 * 60),
            ban_loopback: false,
            ban_file: None,
            min_rate: 1000,
            slow: Duration::from_secs(60),
            rates: Rates::default(),
            session_rates: Rates::default(),
            names_per_command: 1_000_000,
            heavy_at_once: 2,
        }
    }
}

impl Abuse {
    /// How many sessions may be without a login, and how many connections silent besides: half of all, but on small
    /// servers enough for the clients that open several at once.
    pub fn before_login(&self, sessions: usize) -> usize {
        let default = (sessions / 2).max(8);
        self.sessions_before_login.unwrap_or(default).min(sessions)
    }
}

impl Checker<'_> {
    pub fn abuse(&self, file: &File) -> Checked<Abuse> {
        let default = Abuse::default();
        let number = |key: &str, value: &Option<Spanned<i64>>, least, most| {
            let number = self.number(key, value, least, most)?;
            Ok(number.map(|number| number as usize))
        };
        Ok(Abuse {
            reach: self.reach(&file.allow, &file.deny, default.reach)?,
            sessions_before_login: number(
                "sessions_before_login",
                &file.sessions_before_login,
                1,
                100_000,
            )?,
            commands_before_login: number(
                "commands_before_login",
                &file.commands_before_login,
                1,
                100_000,
            )?
            .map_or(default.commands_before_login, |count| count as u32),
            ban_after: number("ban_after", &file.ban_after, 0, 100_000)?
                .map_or(default.ban_after, |count| count as u32),
            ban_for: self
                .short_time("ban_for", &file.ban_for)?
                .unwrap_or(default.ban_for),
            ban_loopback: file.ban_loopback,
            ban_file: file.ban_file.as_ref().map(|path| self.beside(path)),
            min_rate: self
                .parsed("min_rate", &file.min_rate, parse_size)?
                .unwrap_or(default.min_rate),
            slow: self
                .short_time("slow", &file.timeouts.slow)?
                .unwrap_or(default.slow),
            rates: Rates {
                up: self.rate("rate_up", &file.rate_up)?,
                down: self.rate("rate_down", &file.rate_down)?,
            },
            session_rates: Rates {
                up: self.rate("session_rate_up", &file.session_rate_up)?,
                down: self.rate("session_rate_down", &file.session_rate_down)?,
            },
            names_per_command: number(
                "names_per_command",
                &file.names_per_command,
                1,
                100_000_000,
            )?
            .unwrap_or(default.names_per_command),
            heavy_at_once: number("heavy_at_once", &file.heavy_at_once, 1, 1000)?
                .unwrap_or(default.heavy_at_once),
        })
    }

    /// What holds for one user: anywhere that the server answers, unless the file says less.
    pub fn reach_of_user(&self, user: &User) -> Checked<Reach> {
        self.reach(&user.allow, &user.deny, Reach::anywhere())
    }

    /// Of all sessions of the user together, and of each.
    pub fn rates_of_user(&self, user: &User) -> Checked<[Rates; 2]> {
        let all = Rates {
            up: self.rate("rate_up", &user.rate_up)?,
            down: self.rate("rate_down", &user.rate_down)?,
        };
        let each = Rates {
            up: self.rate("session_rate_up", &user.session_rate_up)?,
            down: self.rate("session_rate_down", &user.session_rate_down)?,
        };
        Ok([all, each])
    }

    fn reach(
        &self,
        allow: &Option<Spanned<OneOrMany>>,
        deny: &Option<Spanned<OneOrMany>>,
        default: Reach,
    ) -> Checked<Reach> {
        Ok(Reach {
            allow: self.networks("allow", allow)?.unwrap_or(default.allow),
            deny: self.networks("deny", deny)?.unwrap_or(default.deny),
        })
    }

    pub fn networks(
        &self,
        key: &str,
        value: &Option<Spanned<OneOrMany>>,
    ) -> Checked<Option<Networks>> {
        let Some(value) = value else { return Ok(None) };
        match Networks::parse(value.get_ref().words()) {
            Ok(networks) => Ok(Some(networks)),
            Err(what) => self.wrong(&value.span(), key, what),
        }
    }

    /// Bytes a second.
    fn rate(&self, key: &str, value: &Option<Spanned<String>>) -> Checked<Option<u64>> {
        self.parsed(key, value, |text| match parse_size(text) {
            Ok(0) => {
                Err("expected at least a byte a second; leave the key out for no limit".into())
            }
            other => other,
        })
    }

    fn short_time(&self, key: &str, value: &Option<Spanned<Seconds>>) -> Checked<Option<Duration>> {
        match (self.long_time(key, value)?, value) {
            (Some(Duration::ZERO), Some(value)) => self.wrong(
                &value.span(),
                key,
                "expected a time such as \"90s\" or \"15m\"",
            ),
            (time, _) => Ok(time),
        }
    }
}
