//! `thriftpd ban`: who is kept out, by the file that a running server takes up with the next connection.
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use argh::FromArgs;

use super::Outcome;
use crate::config::{Config, parse_time};
use crate::os::addresses::source;
use crate::os::clock::since_boot;
use crate::server::ban_file::{Ban, BanFile, Banned};
use crate::server::bans::tidy;

/// show and change who is kept out for failed logins
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "ban")]
pub struct BanArguments {
    #[argh(subcommand)]
    action: Action,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
enum Action {
    List(ListArguments),
    Add(AddArguments),
    Remove(RemoveArguments),
}

/// show who is kept out, and for how long yet
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "list")]
struct ListArguments {
    /// the configuration file (TOML)
    #[argh(option, arg_name = "file")]
    config: PathBuf,
}

/// keep an address out (over IPv6 its whole link)
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "add")]
struct AddArguments {
    #[argh(positional)]
    address: IpAddr,
    /// how long, such as 2h or 30d (default: the setting ban_for)
    #[argh(option, long = "for", from_str_fn(parse_time), arg_name = "time")]
    time: Option<Duration>,
    /// the configuration file (TOML)
    #[argh(option, arg_name = "file")]
    config: PathBuf,
}

/// let an address in again
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "remove")]
struct RemoveArguments {
    #[argh(positional)]
    address: IpAddr,
    /// the configuration file (TOML)
    #[argh(option, arg_name = "file")]
    config: PathBuf,
}

/// # Errors
/// Why nothing could be shown or changed.
pub fn run(arguments: &BanArguments) -> Outcome {
    match &arguments.action {
        Action::List(arguments) => list(&arguments.config),
        Action::Add(arguments) => add(arguments),
        Action::Remove(arguments) => remove(arguments),
    }
}

fn list(config: &Path) -> Outcome {
    let (_, mut file) = open(config)?;
    let mut banned = file
        .read_if_changed()
        .map_err(|error| unusable(&file, &error))?
        .unwrap_or_default();
    tidy(&mut banned);
    if banned.is_empty() {
        println!("nobody is banned");
    }
    for (address, ban) in &banned {
        println!("{} for {} s", shown(*address), ban.left(since_boot()));
    }
    Ok(())
}

fn add(arguments: &AddArguments) -> Outcome {
    let (config, mut file) = open(&arguments.config)?;
    let time = arguments.time.unwrap_or(config.abuse.ban_for);
    let address = source(arguments.address);
    if address.is_loopback() && !config.abuse.ban_loopback {
        return Err(format!(
            "{address} is this host itself, which is not banned (setting: ban_loopback)"
        ));
    }
    change(&mut file, |banned| {
        banned.insert(address, Ban::new(since_boot(), time));
        tidy(banned);
    })?;
    println!("{} is banned for {} s", shown(address), time.as_secs());
    Ok(())
}

fn remove(arguments: &RemoveArguments) -> Outcome {
    let (_, mut file) = open(&arguments.config)?;
    let address = source(arguments.address);
    let mut was_banned = false;
    change(&mut file, |banned| {
        was_banned = banned.remove(&address).is_some();
        tidy(banned);
    })?;
    if was_banned {
        println!("{} may come again", shown(address));
        Ok(())
    } else {
        Err(format!("{} is not banned", shown(address)))
    }
}

fn open(config: &Path) -> Result<(Config, BanFile), String> {
    let checked = Config::load(config).map_err(|error| error.to_string())?;
    let Some(path) = &checked.abuse.ban_file else {
        return Err(format!(
            "{}: bans are kept in memory only; set `ban_file` and restart the server",
            config.display()
        ));
    };
    let file = BanFile::open(path)
        .map_err(|error| format!("cannot open the bans {}: {error}", path.display()))?;
    Ok((checked, file))
}

fn change(file: &mut BanFile, change: impl FnOnce(&mut Banned)) -> Outcome {
    file.change(change)
        .map(drop)
        .map_err(|error| unusable(file, &error))
}

fn unusable(file: &BanFile, error: &std::io::Error) -> String {
    format!(
        "cannot read or write the bans {}: {error}",
        file.path().display()
    )
}

/// An IPv6 address stands for its link, and is shown so.
fn shown(address: IpAddr) -> String {
    match address {
        IpAddr::V6(v6) if v6.segments()[4..] == [0; 4] => format!("{v6}/64"),
        address => address.to_string(),
    }
}
