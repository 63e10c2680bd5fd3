//! `thriftpd quota`: what users with a quota have stored, counted anew where that is asked for.
use std::path::PathBuf;

use argh::FromArgs;

use super::Outcome;
use crate::accounts::Account;
use crate::config::Config;
use crate::observe::printable;
use crate::server::upkeep::areas::counted;
use crate::storage::{ErrorKind, Quota, rescan_counts, usage_of, wait_for_rest};

/// tell what users with a quota have stored
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "quota")]
pub struct QuotaArguments {
    /// count anew what lies in their directories, as after changes by other programs
    #[argh(switch)]
    rescan: bool,
    /// the configuration file (TOML)
    #[argh(option, arg_name = "file")]
    config: PathBuf,
}

/// # Errors
/// What could not be counted.
pub fn run(arguments: &QuotaArguments) -> Outcome {
    let config = Config::load(&arguments.config).map_err(|error| error.to_string())?;
    let accounts = config.accounts.iter().chain(config.accounts.anonymous());
    let limited: Vec<&Account> = accounts
        .filter(|account| account.view.metered.limit.is_limited())
        .collect();
    if limited.is_empty() {
        println!("{}: nobody has a quota", arguments.config.display());
        return Ok(());
    }
    if arguments.rescan {
        for area in counted(&config) {
            let shown = printable(area.as_os_str().as_encoded_bytes()).to_string();
            let counted = rescan_counts(&area).map_err(|error| match error.kind {
                ErrorKind::Busy => format!(
                    "{shown}: not counted, for an upload is under way; try again when it is over (where the server died in the middle of one, it counts anew when it is started)"
                ),
                _ => error.to_string(),
            })?;
            println!(
                "{shown}: {} bytes in {} files",
                counted.bytes, counted.files
            );
        }
    }
    for account in limited {
        let metered = &account.view.metered;
        for area in &metered.own {
            wait_for_rest(area);
        }
        let used = usage_of(&metered.own).map_err(|error| error.to_string())?;
        let Quota { bytes, files } = metered.limit;
        println!(
            "{}: {} bytes, {} files",
            account.name,
            of(used.bytes, bytes),
            of(used.files, files)
        );
    }
    Ok(())
}

/// `5 of 10`, or `5` without a limit.
fn of(used: u64, limit: Option<u64>) -> String {
    limit.map_or_else(|| used.to_string(), |limit| format!("{used} of {limit}"))
}
