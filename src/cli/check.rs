//! `thriftpd check`: what is wrong with a configuration and its surroundings, or what will be served.
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use argh::FromArgs;

use super::warnings::warnings;
use super::{Outcome, cert, confinement};
use crate::accounts::{Account, Rates, Reach};
use crate::config::{Config, Host, TlsMode};
use crate::observe::printable;
use crate::os::clock;
use crate::server::limits::open_files_needed;
use crate::server::lookup::first_v4;
use crate::server::privileges::{self, Identity};
use crate::server::upkeep::areas::directories;
use crate::server::{environment, listen, sandbox};
use crate::storage::{Partials, Permission, Permissions, Rules, count_partials, is_mounted};
use crate::tls::{Settings, Tls};

/// read a configuration file and say what is wrong, or what will be served
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "check")]
pub struct CheckArguments {
    /// the configuration file (TOML)
    #[argh(option, arg_name = "file")]
    config: PathBuf,
}

/// Prints what will be served, and what is wrong.
///
/// # Errors
/// How many things are wrong; each was printed.
pub fn run(arguments: &CheckArguments) -> Outcome {
    let config = Config::load(&arguments.config).map_err(|error| error.to_string())?;
    print_settings(&config);
    print_abuse(&config);
    print_tls(&config);
    print_sandbox(&config, &arguments.config);
    for account in config.accounts.iter().chain(config.accounts.anonymous()) {
        print_account(account);
    }
    print_waiting(&config);
    print_unfinished(&config);
    for warning in warnings(&config) {
        println!("warning: {warning}");
    }
    let problems = problems(&config);
    for problem in &problems {
        println!("problem: {problem}");
    }
    match problems.len() {
        0 => {
            println!("{}: nothing is wrong", arguments.config.display());
            Ok(())
        }
        count => Err(format!(
            "{}: {count} problem{}",
            arguments.config.display(),
            if count == 1 { "" } else { "s" }
        )),
    }
}

/// With the address of a name at this moment.
fn looked_up(host: &Host) -> String {
    let Host::Name(name) = host else {
        return host.to_string();
    };
    match first_v4(name) {
        Ok(address) => format!("{name}, which is {address} now"),
        Err(error) => format!("{name}, which cannot be looked up now: {error}"),
    }
}

fn default_port() -> u16 {
    if privileges::is_root() {
        listen::FTP_PORT
    } else {
        listen::UNPRIVILEGED_PORT
    }
}

fn print_settings(config: &Config) {
    if config.listen.is_empty() {
        println!("listens on: [::]:{} (IPv6 and IPv4)", default_port());
    }
    for address in &config.listen {
        println!("listens on: {address}");
    }
    println!(
        "passive ports: {}-{}",
        config.passive_ports.low, config.passive_ports.high
    );
    for (network, host) in &config.external_address.by_network {
        println!("external address for {network}: {}", looked_up(host));
    }
    if let Some(host) = &config.external_address.default {
        println!("external address: {}", looked_up(host));
    }
    println!(
        "sessions: {}, {} per address",
        config.sessions, config.sessions_per_ip
    );
    let t = &config.timeouts;
    let [idle, login, data, stalled, grace] =
        [t.idle, t.login, t.data_connect, t.stalled, t.shutdown_grace].map(|time| time.as_secs());
    println!(
        "time-outs: idle {idle} s, login {login} s, data connection {data} s, stalled {stalled} s, shutdown {grace} s"
    );
}

/// No problem: the server starts without them and takes them up by itself.
fn print_waiting(config: &Config) {
    let accounts = config.accounts.iter().chain(config.accounts.anonymous());
    let waiting: BTreeSet<&PathBuf> = accounts.flat_map(|one| one.view.waiting()).collect();
    for directory in waiting {
        println!("waits for its disk: {}", real(directory));
    }
}

fn print_abuse(config: &Config) {
    let abuse = &config.abuse;
    println!("answers: {}", abuse.reach);
    println!(
        "before login: {} sessions, {} commands a second",
        abuse.before_login(config.sessions),
        abuse.commands_before_login
    );
    match abuse.ban_after {
        0 => println!("bans: none"),
        count => println!(
            "bans: after {count} failed logins, for {} s{}",
            abuse.ban_for.as_secs(),
            match &abuse.ban_file {
                Some(file) => format!(", kept in {}", file.display()),
                None => String::new(),
            }
        ),
    }
    print_rates("rates", abuse.rates);
    print_rates("rates of each session", abuse.session_rates);
    println!(
        "a pattern looks at {} names; {} copies and checksums at once",
        abuse.names_per_command, abuse.heavy_at_once
    );
    if abuse.min_rate > 0 {
        println!(
            "a transfer ends when it is slower than {} bytes/s for {} s while the server is busy",
            abuse.min_rate,
            abuse.slow.as_secs()
        );
    }
}

fn print_rates(of_what: &str, rates: Rates) {
    let directions = [("up", rates.up), ("down", rates.down)];
    for (direction, rate) in directions {
        if let Some(rate) = rate {
            println!("{of_what}, {direction}: {rate} bytes/s");
        }
    }
}

fn print_sandbox(config: &Config, file: &Path) {
    if config.sandbox {
        let plan = confinement::plan(config, Some(file));
        println!("sandbox: {}", sandbox::available(&plan));
    } else {
        println!("sandbox: off");
    }
}

fn print_unfinished(config: &Config) {
    for directory in directories(config) {
        // A directory that is not there is told as a problem.
        let Partials { files, bytes } = count_partials(&directory).unwrap_or_default();
        if files > 0 {
            println!(
                "unfinished uploads in {}: {files} of {bytes} bytes",
                real(&directory)
            );
        }
    }
}

fn print_tls(config: &Config) {
    println!("TLS: {}", config.tls.mode.name());
    for address in &config.tls.implicit {
        println!("  implicit on {address}");
    }
    for source in &config.tls.service.certificates {
        if let Ok(certificate) = cert::describe(source) {
            println!(
                "  certificate for {} until {}",
                certificate.names.join(", "),
                certificate.last_day()
            );
        }
    }
}

/// Certificates and authorities, as the start would find them.
fn problems_of_tls(config: &Config) -> Vec<String> {
    if config.tls.mode == TlsMode::Off {
        return Vec::new();
    }
    let mut problems = Vec::new();
    for source in &config.tls.service.certificates {
        match cert::describe(source) {
            Ok(certificate) if certificate.days_left() < 14 => problems.push(format!(
                "tls: the certificate for {} expires on {}",
                certificate.names.join(", "),
                certificate.last_day()
            )),
            Ok(_) => {}
            Err(error) => problems.push(format!("tls: {error}")),
        }
    }
    let authorities = Settings {
        certificates: Vec::new(),
        ..config.tls.service.clone()
    };
    if let Err(error) = Tls::open(authorities) {
        problems.push(format!("tls: {error}"));
    }
    if !config.tls.implicit.is_empty() {
        let listens = environment::can_listen(&config.tls.implicit, default_port());
        problems.extend(listens.err().map(|error| error.to_string()));
    }
    problems
}

fn print_account(account: &Account) {
    let view = &account.view;
    println!(
        "user {}: {} ({})",
        account.name,
        real(&view.root),
        described(view.rules.permissions)
    );
    if account.reach != Reach::anywhere() {
        println!("  may log in from: {}", account.reach);
    }
    print_rates("  rates", account.rates);
    print_rates("  rates of each session", account.session_rates);
    for folder in &view.folders {
        let path = printable(folder.path.as_bytes());
        println!(
            "  {path}: {} ({})",
            real(&folder.root),
            described(folder.rules.permissions)
        );
    }
    if let Some(program) = &account.on_upload {
        let path = program.path.to_string_lossy();
        let arguments = program.arguments.iter().map(String::as_str);
        let command: Vec<String> = [&*path]
            .into_iter()
            .chain(arguments)
            .map(|word| printable(word.as_bytes()).to_string())
            .collect();
        println!(
            "  runs behind each upload, for {} s at most: {}",
            program.time.as_secs(),
            command.join(" ")
        );
    }
}

/// Where the directory really is, for links can lead elsewhere.
fn real(path: &Path) -> String {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    printable(real.as_os_str().as_encoded_bytes()).to_string()
}

fn described(permissions: Permissions) -> String {
    let preset = Permissions::PRESETS
        .into_iter()
        .find(|(_, preset)| *preset == permissions);
    preset.map_or_else(
        || permissions.names().join(", "),
        |(name, _)| name.to_owned(),
    )
}

fn problems(config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    let first = config
        .accounts
        .iter()
        .chain(config.accounts.anonymous())
        .next();
    if first.is_none() {
        problems
            .push("nobody could log in: there is neither a [[user]] nor [anonymous]".to_owned());
    }
    let identity = match privileges::choose(
        config.run_as.as_deref(),
        first.map(|account| account.view.root.as_path()),
    ) {
        Ok(identity) => identity,
        Err(error) => {
            problems.push(error.to_string());
            Identity::Unchanged
        }
    };
    if let Err(error) = environment::can_listen(&config.listen, default_port()) {
        problems.push(error.to_string());
    }
    for account in config.accounts.iter().chain(config.accounts.anonymous()) {
        for (root, rules) in account.view.directories() {
            problems.extend(problem_of_root(&account.name, root, rules, &identity));
        }
    }
    problems.extend(problems_of_programs(config, &identity));
    problems.extend(problems_of_tls(config));
    if config.passive_ports.count() < config.sessions {
        problems.push(format!(
            "passive_ports: {} ports are too few for {} sessions: each can need one",
            config.passive_ports.count(),
            config.sessions
        ));
    }
    let needed = open_files_needed(config.sessions, config.abuse.before_login(config.sessions));
    if let Some((_, hard)) = environment::open_files().filter(|(_, hard)| *hard < needed) {
        problems.push(format!("open files: the limit is {hard}, {} sessions can need {needed}: raise it (ulimit -Hn) or lower `sessions`", config.sessions));
    }
    if let Some(file) = &config.abuse.ban_file {
        if !file.parent().is_some_and(Path::is_dir) {
            problems.push(format!(
                "ban_file: the directory of {} does not exist",
                file.display()
            ));
        }
    }
    if !clock::is_set() {
        problems
            .push("clock: it is before 2020: set it, or files will carry wrong times".to_owned());
    }
    problems
}

/// Each program once, with whom it is run for.
fn problems_of_programs(config: &Config, identity: &Identity) -> Vec<String> {
    let mut users: BTreeMap<&Path, Vec<&str>> = BTreeMap::new();
    for account in config.accounts.iter().chain(config.accounts.anonymous()) {
        if let Some(program) = &account.on_upload {
            users.entry(&program.path).or_default().push(&account.name);
        }
    }
    let problem = |(program, users): (&Path, Vec<&str>)| {
        let (shown, users) = (program.display(), users.join(", "));
        match environment::can_run(program, identity) {
            Ok(true) => None,
            Ok(false) => Some(format!(
                "on_upload: {shown}, run for {users}, is nothing that the server can run: make it executable with `chmod 755 {shown}`"
            )),
            Err(error) => Some(format!("on_upload: {shown}, run for {users}: {error}")),
        }
    };
    users.into_iter().filter_map(problem).collect()
}

fn problem_of_root(user: &str, root: &Path, rules: &Rules, identity: &Identity) -> Option<String> {
    let shown = root.display();
    if rules.require_mount && !is_mounted(root) && (root.is_dir() || !root.exists()) {
        return None;
    }
    if !root.exists() {
        return Some(format!(
            "root: {shown} of {user} does not exist; make it with `mkdir -p {shown}`"
        ));
    }
    if !root.is_dir() {
        return Some(format!("root: {shown} of {user} is not a directory"));
    }
    if rules.permissions.contains(Permission::Upload)
        && !environment::can_write(root, identity).unwrap_or(false)
    {
        return Some(format!(
            "root: {user} may upload to {shown}, but the server cannot write there: change its owner or mode"
        ));
    }
    None
}
