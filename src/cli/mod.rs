//! What a person types and reads: one file a subcommand. An error is one sentence that says what happened, to which
//! path or address, and what to do.
pub mod backups;
pub mod ban;
pub mod cert;
pub mod check;
mod confinement;
pub mod prune;
pub mod quota;
pub mod serve;
pub mod user;
mod users;
pub mod verify;
mod warnings;

use argh::FromArgs;

/// thriftpd: an FTP and FTPS server for small hosts.
#[derive(FromArgs, Debug)]
pub struct Arguments {
    /// print the version
    #[argh(switch)]
    pub version: bool,
    #[argh(subcommand)]
    pub command: Option<Command>,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
pub enum Command {
    Serve(serve::ServeArguments),
    Backups(backups::BackupsArguments),
    Check(check::CheckArguments),
    Cert(cert::CertArguments),
    Prune(prune::PruneArguments),
    Ban(ban::BanArguments),
    Quota(quota::QuotaArguments),
    User(user::UserArguments),
    Verify(verify::VerifyArguments),
}

/// What a subcommand ends with: nothing, or the sentence for the person.
pub type Outcome = Result<(), String>;
