//! What follows an upload that is complete: it is noted for `thriftpd backups`, and once the client knows, the owner's
//! program is run (setting: `on_upload`). Neither can fail the upload.
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::transfer::Transferred;
use crate::ftp::security::AfterReply;
use crate::ftp::session::{Refusal, Session};
use crate::observe::printable;
use crate::server::programs::Run;
use crate::storage::VirtualPath;

/// Notes the upload, of a file that has `size` bytes now, and has the program run behind the reply.
///
/// # Errors
/// 530, of a session that nobody is logged in to.
pub fn follow_up(
    session: &mut Session,
    path: &VirtualPath,
    host_path: &Path,
    size: u64,
    received: &Transferred,
) -> Result<(), Refusal> {
    let visitor = session.visitor()?;
    let account = &visitor.account;
    visitor
        .view
        .note_upload(&account.name, path, size, received.bytes);
    let Some(program) = &account.on_upload else {
        return Ok(());
    };
    let text = |text: &str| OsString::from(text);
    let mut environment = vec![
        ("THRIFTPD_PATH", visitor.view.real_path(path).into()),
        (
            "THRIFTPD_VIRTUAL_PATH",
            OsStr::from_bytes(path.as_bytes()).into(),
        ),
        ("THRIFTPD_USER", text(&account.name)),
        ("THRIFTPD_SIZE", text(&size.to_string())),
        ("THRIFTPD_PEER", text(&session.peer.ip().to_string())),
    ];
    if let Some(sha256) = &received.sha256 {
        environment.push(("THRIFTPD_SHA256", text(sha256)));
    }
    let run = Run {
        program: program.path.clone(),
        arguments: program.arguments.clone(),
        environment,
        time: program.time,
        what_for: format!(
            "{}: {} behind the upload of {} (setting: on_upload)",
            session.who(),
            program.path.display(),
            printable(host_path.as_os_str().as_encoded_bytes()),
        ),
    };
    session.after_reply = Some(AfterReply::Run(Box::new(run)));
    Ok(())
}
