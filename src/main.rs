//! The program: parses the arguments and runs one subcommand.
use std::process::ExitCode;

use thriftpd::cli::{
    Arguments, Command, backups, ban, cert, check, prune, quota, serve, user, verify,
};

fn main() -> ExitCode {
    let arguments: Arguments = argh::from_env();
    if arguments.version {
        println!("thriftpd {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let result = match arguments.command {
        Some(Command::Serve(arguments)) => serve::run(arguments),
        Some(Command::Backups(arguments)) => backups::run(&arguments),
        Some(Command::Check(arguments)) => check::run(&arguments),
        Some(Command::Cert(arguments)) => cert::run(&arguments),
        Some(Command::Prune(arguments)) => prune::run(&arguments),
        Some(Command::Ban(arguments)) => ban::run(&arguments),
        Some(Command::Quota(arguments)) => quota::run(&arguments),
        Some(Command::User(arguments)) => user::run(arguments),
        Some(Command::Verify(arguments)) => verify::run(&arguments),
        None => Err("which command? `thriftpd help` shows them all".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("thriftpd: {message}");
            ExitCode::FAILURE
        }
    }
}
