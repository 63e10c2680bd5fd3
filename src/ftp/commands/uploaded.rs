//! What follows an upload that is complete: it is noted for `thriftpd backups`, and once the client knows, the owner's
//! program is run (setting: `on_upload`). Neither can fail the upload.
use std::path::Path;

use crate::ftp::refusal::Refusal;
use crate::ftp::security::AfterReply;
use crate::ftp::session::Session;
use crate::observe::printable;
use crate::server::hooks::orders::Wanted;
use crate::storage::VirtualPath;

/// Notes the upload, of a file that has `size` bytes now, `received` of them new, and has the program run behind the reply.
///
/// # Errors
/// 530, of a session that nobody is logged in to.
pub fn follow_up(
    session: &mut Session,
    path: &VirtualPath,
    host_path: &Path,
    (size, received): (u64, u64),
    sha256: Option<&str>,
) -> Result<(), Refusal> {
    let visitor = session.visitor()?;
    let account = &visitor.account;
    visitor
        .view
        .note_upload(&account.name, path, size, received);
    let Some(program) = &account.on_upload else {
        return Ok(());
    };
    let wanted = Wanted {
        program: program.clone(),
        what_for: format!(
            "{}: {} behind the upload of {} (setting: on_upload)",
            session.who(),
            program.path.display(),
            printable(host_path.as_os_str().as_encoded_bytes()),
        ),
        values: [
            visitor
                .view
                .real_path(path)
                .into_os_string()
                .into_encoded_bytes(),
            path.as_bytes().to_vec(),
            account.name.clone().into_bytes(),
            size.to_string().into_bytes(),
            session.connection.peer.ip().to_string().into_bytes(),
            sha256.unwrap_or_default().as_bytes().to_vec(),
        ],
    };
    session.connection.after_reply = Some(AfterReply::Run(Box::new(wanted)));
    Ok(())
}
