//! What a person types and reads: one file a subcommand. An error is one sentence that says what happened, to which
//! path or address, and what to do.
pub mod cert;
pub mod check;
mod confinement;
mod keeper;
pub mod quota;
pub mod serve;
pub mod user;
mod users;

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
    Check(check::CheckArguments),
    Cert(cert::CertArguments),
    Quota(quota::QuotaArguments),
    User(user::UserArguments),
}

/// What a subcommand ends with: nothing, or the sentence for the person.
pub type Outcome = Result<(), String>;
