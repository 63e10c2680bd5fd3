//! The keys that say how uploads are made and what is kept, of the server, of a user and of a folder: each takes what it does
//! not say from the one before.
use std::time::Duration;

use serde_spanned::Spanned;

use super::checked::{Checked, Checker};
use super::file::{File, Folder, Seconds, User};
use super::values::{parse_room, parse_size, parse_uploads, seconds};
use crate::accounts::Program;
use crate::storage::{Expiry, Permissions, Quota, Room, Rules, Uploads};

/// How long a program behind an upload may take, unless told otherwise.
const PROGRAM_TIME: Duration = Duration::from_secs(300);

/// The longest time that is worth a lock or an expectation, in seconds: a century.
const LONGEST: u64 = 100 * 366 * 24 * 3600;

/// The keys as written, wherever they were.
struct Written<'a> {
    access: &'a Option<Spanned<String>>,
    permissions: &'a Option<Spanned<Vec<Spanned<String>>>>,
    uploads: &'a Option<Spanned<String>>,
    lock: &'a Option<Spanned<Seconds>>,
    versions: &'a Option<Spanned<i64>>,
    show_versions: Option<bool>,
    keep_days: &'a Option<Spanned<i64>>,
    keep_free: &'a Option<Spanned<String>>,
    keep_last: &'a Option<Spanned<i64>>,
    require_mount: bool,
}

macro_rules! written {
    ($table:expr, $access:expr, $permissions:expr, $require_mount:expr) => {
        Written {
            access: $access,
            permissions: $permissions,
            uploads: &$table.uploads,
            lock: &$table.lock,
            versions: &$table.versions,
            show_versions: $table.show_versions,
            keep_days: &$table.keep_days,
            keep_free: &$table.keep_free,
            keep_last: &$table.keep_last,
            require_mount: $require_mount,
        }
    };
}

impl Checker<'_> {
    pub fn rules_of_all(&self, file: &File) -> Checked<Rules> {
        let default = Rules::plain(Permissions::ALL);
        self.rules(&written!(file, &None, &None, false), &default)
    }

    pub fn rules_of_user(&self, user: &User, default: &Rules) -> Checked<Rules> {
        let (access, permissions) = (&user.access, &user.permissions);
        self.rules(
            &written!(user, access, permissions, user.require_mount),
            default,
        )
    }

    pub fn rules_of_folder(&self, folder: &Folder, default: &Rules) -> Checked<Rules> {
        let (access, permissions) = (&folder.access, &folder.permissions);
        self.rules(
            &written!(folder, access, permissions, folder.require_mount),
            default,
        )
    }

    fn rules(&self, written: &Written<'_>, default: &Rules) -> Checked<Rules> {
        let uploads = self.parsed("uploads", written.uploads, parse_uploads)?;
        let expiry = Expiry {
            days: self
                .number("keep_days", written.keep_days, 1, 36_500)?
                .map(|days| days as u32)
                .or(default.expiry.days),
            free: self
                .parsed("keep_free", written.keep_free, parse_room)?
                .or(default.expiry.free),
            spared: self
                .number("keep_last", written.keep_last, 0, 1_000_000)?
                .map_or(default.expiry.spared, |last| last as u32),
        };
        let rules = Rules {
            permissions: self.permissions(
                written.access,
                written.permissions,
                default.permissions,
            )?,
            uploads: uploads.unwrap_or(default.uploads),
            lock: match self.long_time("lock", written.lock)? {
                None => default.lock,
                // Nothing, where a user has one and a folder is to have none.
                Some(Duration::ZERO) => None,
                lock => lock,
            },
            versions: self
                .number("versions", written.versions, 0, 1000)?
                .map_or(default.versions, |versions| versions as usize),
            show_versions: written.show_versions.unwrap_or(default.show_versions),
            require_mount: written.require_mount,
            expiry,
        };
        let written = [
            ("lock", written.lock.as_ref().map(Spanned::span)),
            ("uploads", written.uploads.as_ref().map(Spanned::span)),
        ];
        let last = written
            .into_iter()
            .find_map(|(key, span)| Some((key, span?)));
        match last {
            Some((key, span)) if rules.lock.is_some() && rules.uploads == Uploads::Direct => {
                let what = "uploads = \"direct\" and a lock exclude each other: an upload that is cut off would stay broken, for the lock keeps everybody from mending it; take \"atomic\", or no lock here (lock = 0)";
                self.wrong(&span, key, what)
            }
            _ => Ok(rules),
        }
    }

    pub fn min_free(&self, file: &File) -> Checked<Room> {
        let given = self.parsed("min_free", &file.min_free, parse_room)?;
        Ok(given.unwrap_or(super::MIN_FREE))
    }

    pub fn quota(&self, user: &User) -> Checked<Quota> {
        Ok(Quota {
            bytes: self.parsed("quota", &user.quota, parse_size)?,
            files: self.number("quota_files", &user.quota_files, 1, 1_000_000_000_000)?,
        })
    }

    /// A time that may be long; zero is one too.
    pub fn long_time(
        &self,
        key: &str,
        value: &Option<Spanned<Seconds>>,
    ) -> Checked<Option<Duration>> {
        let Some(value) = value else { return Ok(None) };
        match seconds(value.get_ref()).filter(|seconds| *seconds <= LONGEST) {
            Some(seconds) => Ok(Some(Duration::from_secs(seconds))),
            None => self.wrong(
                &value.span(),
                key,
                "expected a time such as \"26h\" or \"30d\"",
            ),
        }
    }

    pub fn program(
        &self,
        command: &Option<Spanned<Vec<String>>>,
        time: &Option<Spanned<Seconds>>,
    ) -> Checked<Option<Program>> {
        let time = match (self.long_time("on_upload_timeout", time)?, time) {
            (Some(Duration::ZERO), Some(value)) => {
                return self.wrong(
                    &value.span(),
                    "on_upload_timeout",
                    "expected a time such as \"5m\"",
                );
            }
            (time, _) => time.unwrap_or(PROGRAM_TIME),
        };
        let Some(command) = command else {
            return Ok(None);
        };
        match command.get_ref().split_first() {
            Some((path, arguments)) if path.starts_with('/') => Ok(Some(Program {
                path: path.into(),
                arguments: arguments.to_vec(),
                time,
            })),
            _ => self.wrong(
                &command.span(),
                "on_upload",
                "expected a program's absolute path and its arguments, such as [\"/usr/local/bin/stored\", \"--now\"]",
            ),
        }
    }

    pub fn number(
        &self,
        key: &str,
        value: &Option<Spanned<i64>>,
        least: u64,
        most: u64,
    ) -> Checked<Option<u64>> {
        let Some(value) = value else { return Ok(None) };
        match u64::try_from(*value.get_ref()) {
            Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => self.wrong(
                &value.span(),
                key,
                format!("expected a number from {least} to {most}"),
            ),
        }
    }
}
