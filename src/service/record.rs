//! The record of a transfer, of any protocol: its line in the log and in the transfer log, and what follows an upload that is
//! complete. It is noted for `thriftpd backups`, and once the client knows, the owner's program is run (setting: `on_upload`).
//! None of it can fail the transfer.
use std::path::Path;
use std::time::Duration;

use super::login::Visitor;
use super::settings::Service;
use crate::observe::printable;
use crate::observe::transfer_log::{Direction, Entry};
use crate::server::hooks::orders::Wanted;
use crate::storage::VirtualPath;

/// One transfer that is over.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The command of the client.
    pub verb: &'a str,
    pub host_path: &'a Path,
    pub direction: Direction,
    /// Bytes were converted on the way.
    pub ascii: bool,
    /// Bytes over the data connection.
    pub bytes: u64,
    pub duration: Duration,
    pub complete: bool,
    /// How it ended, in one or two words.
    pub end: &'a str,
    /// The SHA-256 of the whole file in hexadecimal, where it is known.
    pub sha256: Option<&'a str>,
}

/// An upload that is complete.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    pub path: &'a VirtualPath,
    pub host_path: &'a Path,
    /// Bytes of the file, and those of them that are new.
    pub size: u64,
    pub received: u64,
    /// As in [`Record::sha256`].
    pub sha256: Option<&'a str>,
}

impl Service {
    /// Writes what came of a transfer to the log and to the transfer log.
    pub fn record(&self, visitor: &Visitor, record: &Record<'_>) {
        let file = record.host_path.as_os_str().as_encoded_bytes();
        let seconds = record.duration.as_secs_f64();
        let rate = record.bytes as f64 / 1_048_576.0 / seconds.max(1e-6);
        let checksum = record.sha256.map(|digest| format!(" sha256={digest}"));
        let level = match record.complete {
            true => log::Level::Info,
            false => log::Level::Warn,
        };
        log::log!(
            level,
            "{}: {} {} {} bytes {seconds:.3} s {rate:.1} MiB/s {}{}",
            visitor.who(),
            record.verb,
            printable(file),
            record.bytes,
            record.end,
            checksum.unwrap_or_default()
        );
        if let Some(log) = &self.shared.transfer_log {
            log.write(&Entry {
                duration: record.duration,
                peer: visitor.peer,
                bytes: record.bytes,
                file,
                ascii: record.ascii,
                direction: record.direction,
                anonymous: visitor.anonymous,
                user: &visitor.name,
                complete: record.complete,
                sha256: record.sha256,
            });
        }
    }

    /// Notes an upload for `thriftpd backups`. The owner's program, where there is one, is to be run once the client knows (see
    /// [`Service::run_behind`]).
    pub fn note_upload(&self, visitor: &Visitor, stored: &Stored<'_>) -> Option<Wanted> {
        let (account, view) = (&visitor.account, &visitor.view);
        view.note_upload(&account.name, stored.path, stored.size, stored.received);
        let program = account.on_upload.as_ref()?;
        Some(Wanted {
            program: program.clone(),
            what_for: format!(
                "{}: {} behind the upload of {} (setting: on_upload)",
                visitor.who(),
                program.path.display(),
                printable(stored.host_path.as_os_str().as_encoded_bytes()),
            ),
            values: [
                view.real_path(stored.path)
                    .into_os_string()
                    .into_encoded_bytes(),
                stored.path.as_bytes().to_vec(),
                account.name.clone().into_bytes(),
                stored.size.to_string().into_bytes(),
                visitor.peer.to_string().into_bytes(),
                stored.sha256.unwrap_or_default().as_bytes().to_vec(),
            ],
        })
    }

    /// Has a program of the owner's run, as soon as fewer run than may.
    pub fn run_behind(&self, wanted: &Wanted) {
        let at_once = self.config().on_upload_at_once;
        self.shared.programs.run(wanted, at_once);
    }
}
