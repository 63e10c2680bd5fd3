//! `thriftpd serve`: from the arguments to a running server.
use std::collections::BTreeSet;
use std::io::{IsTerminal as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use argh::FromArgs;

use super::warnings::warnings;
use super::{Outcome, cert, confinement, users};
use crate::accounts::{Account, Password, Program};
use crate::config::{
    Config, FirstUser, Flags, PortRange, TlsMode, directory, first_user, parse_listen, parse_ports,
    plain_view,
};
use crate::ftp::Ftp;
use crate::ftp::data::kernel_tls;
use crate::observe::log_lines;
use crate::observe::transfer_log::TransferLog;
use crate::os::addresses::lan_addresses;
use crate::os::system;
use crate::os::users::Users;
use crate::server::acceptor::{Acceptor, Signals, last_words};
use crate::server::bans::Bans;
use crate::server::hooks::orders::Hooks;
use crate::server::lookup::Lookup;
use crate::server::privileges::{self, Identity, Kept, PER_SESSION};
use crate::server::sandbox::{self, Confinement, Plan, Violation};
use crate::server::sessions::Sessions;
use crate::server::{FrontEnd, Listener, limits, listen, upkeep};
use crate::service::heavy::Heavy;
use crate::service::rates::Buckets;
use crate::service::{Service, Shared};
use crate::storage::{Permissions, serve_counts};
use crate::tls::{self, Source};

/// serve files over FTP
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "serve")]
pub struct ServeArguments {
    /// the directory to serve; without it, the roots come from the configuration file
    #[argh(positional)]
    dir: Option<PathBuf>,
    /// address and port to listen on, or a port alone; may be repeated (default: everywhere, port 21 as root, else 2121)
    #[argh(option, from_str_fn(parse_listen), arg_name = "addr:port")]
    listen: Vec<SocketAddr>,
    /// a user with all permissions on DIR; may be repeated
    #[argh(option, arg_name = "name:password")]
    user: Vec<String>,
    /// a file of lines NAME:PASSWORD, users with all permissions on DIR; nobody else may be able to read it
    #[argh(option, arg_name = "file")]
    password_file: Option<PathBuf>,
    /// a directory that anybody may download from
    #[argh(option, arg_name = "dir")]
    anonymous: Option<PathBuf>,
    /// ports for passive data connections (default: 50000-50999)
    #[argh(option, from_str_fn(parse_ports), arg_name = "lo-hi")]
    passive_ports: Option<PortRange>,
    /// sessions at once (default: 100)
    #[argh(option, arg_name = "n")]
    sessions: Option<usize>,
    /// sessions at once from one address (default: 32)
    #[argh(option, arg_name = "n")]
    sessions_per_ip: Option<usize>,
    /// the configuration file (TOML)
    #[argh(option, arg_name = "file")]
    config: Option<PathBuf>,
    /// a certificate chain (PEM) to show to clients instead of a self-made one
    #[argh(option, arg_name = "file")]
    cert: Option<PathBuf>,
    /// the certificate's private key (PEM; default: in the same file)
    #[argh(option, arg_name = "file")]
    key: Option<PathBuf>,
}

/// Serves until a signal ends it.
///
/// # Errors
/// What keeps the server from starting.
pub fn run(arguments: ServeArguments) -> Outcome {
    let outcome = serve(arguments);
    log_lines::end();
    outcome
}

fn serve(arguments: ServeArguments) -> Outcome {
    system::give_back_large_blocks();
    sandbox::keep_secrets();
    let file = arguments.config.clone();
    let mut flags = flags(&arguments)?;
    let mut config = Config::of(file.as_deref(), &flags).map_err(|error| error.to_string())?;
    log_lines::start(config.log);
    if !arguments.user.is_empty() {
        log::warn!(
            "--user: passwords on the command line can be read in the list of processes; --password-file keeps them from there"
        );
    }
    let mut made_up = None;
    let nobody = config.accounts.iter().next().is_none();
    if let (Some(dir), true) = (&arguments.dir, nobody) {
        let user = first_user(&directory(file.as_deref(), privileges::is_root()))
            .map_err(|error| format!("cannot keep the first user's password: {error}"))?;
        flags.users.push(account(user.name, &user.password, dir)?);
        made_up = Some(user);
        config = Config::of(file.as_deref(), &flags).map_err(|error| error.to_string())?;
    }
    let roots = roots(&config)?;
    tell_of_missing_disks(&config);
    for warning in warnings(&config) {
        log::warn!("{warning}");
    }
    let certificate = cert::provide(&mut config, file.as_deref())
        .map_err(|error| format!("cannot make a certificate: {error}"))?;
    let kept_certificate = certificate.as_ref().and_then(tls::Kept::open);
    let tls = open_tls(&config)?;
    if tls.is_some() && config.tls.by_kernel {
        let kinds = kernel_tls::probe().len();
        log::debug!("the kernel seals {kinds} of 6 kinds of TLS");
    }
    let silent = |sessions| config.abuse.before_login(sessions);
    let most_sessions = limits::sessions_that_fit(config.sessions, silent);
    let default_port = if privileges::is_root() {
        listen::FTP_PORT
    } else {
        listen::UNPRIVILEGED_PORT
    };
    let explicit = listen::open(&config.listen, default_port).map_err(|error| error.to_string())?;
    let implicit = match config.tls.implicit.as_slice() {
        [] => Vec::new(),
        some => listen::open(some, default_port).map_err(|error| error.to_string())?,
    };
    let transfer_log = config
        .xferlog
        .as_deref()
        .map(open_transfer_log)
        .transpose()?;
    // Opened while it still may be, for the server's user need not own its directory.
    let bans = Bans::open(config.abuse.ban_file.as_deref()).map_err(|error| {
        let path = config.abuse.ban_file.clone().unwrap_or_default();
        format!(
            "cannot open the bans {}: {error} (setting: ban_file)",
            path.display()
        )
    })?;
    let kept = become_server(
        &config,
        roots.first().map(PathBuf::as_path),
        certificate.as_ref(),
    )?;
    // While there is one thread, and nothing is confined.
    let programs = Hooks::start(programs_of(&config), config.on_upload_at_once)
        .map_err(|error| format!("cannot start the process that runs programs: {error}"))?;
    let lookup = Lookup::start(config.external_address.names())
        .map_err(|error| format!("cannot start the process that looks up names: {error}"))?;
    let signals = Signals::take_over().map_err(|error| format!("cannot start: {error}"))?;
    Users::at_start();
    serve_counts();
    let addresses = [&explicit, &implicit].map(|sockets| addresses_of(sockets));

    let shared = Shared {
        sessions: Sessions::default(),
        heavy: Heavy::default(),
        bans,
        up: Buckets::default(),
        down: Buckets::default(),
        transfer_log,
        programs: Arc::new(programs),
        lookup: Arc::new(lookup),
        may_bind_low_ports: kept.low_ports,
        identities: kept.identities,
        most_sessions,
        certificate: kept_certificate.map(Arc::new),
    };
    let sessions = shared.sessions.clone();
    let programs = Arc::clone(&shared.programs);
    let known = Arc::clone(&programs);
    let lookup = Arc::clone(&shared.lookup);
    let fingerprint = tls.as_ref().map(tls::Tls::fingerprint);
    let own = certificate.as_ref().map(|made| made.source.clone());
    let plan = confinement::plan(&config, file.as_deref());
    let confined = config.sandbox.then(|| Confinement::of(&plan));
    let reload = move || {
        let mut config = Config::of(file.as_deref(), &flags).map_err(|error| error.to_string())?;
        match &own {
            // The one of the start, even where the server may no longer look at it.
            Some(own) if config.tls.service.certificates.is_empty() => {
                config.tls.service.certificates.push(own.clone());
            }
            _ if confined.is_some() => cert::find(&mut config, file.as_deref())?,
            _ => {
                cert::provide(&mut config, file.as_deref()).map_err(|error| error.to_string())?;
            }
        }
        if let Some(confined) = &confined {
            confinement::warn(confined, &config, file.as_deref());
        }
        warn_of_programs(&known, &config);
        warn_of_names(&lookup, &config);
        Ok(config)
    };
    let service = Arc::new(Service::new(config, tls, shared, Box::new(reload)));
    let listeners = [
        (explicit, Ftp::new(Arc::clone(&service))),
        (implicit, Ftp::implicit(Arc::clone(&service))),
    ]
    .into_iter()
    .flat_map(|(sockets, front_end)| {
        let front_end: Arc<dyn FrontEnd> = Arc::new(front_end);
        sockets.into_iter().map(move |socket| Listener {
            socket,
            front_end: Arc::clone(&front_end),
        })
    });
    let acceptor = Acceptor::new(listeners.collect(), signals, sessions)
        .map_err(|error| format!("cannot start: {error}"))?;
    let [explicit, implicit] = &addresses;
    for address in explicit {
        log::info!("listening on {address}");
    }
    for address in implicit {
        log::info!("listening on {address} (TLS from the first byte)");
    }
    if let Some(fingerprint) = &fingerprint {
        log::info!("certificate: SHA-256 {fingerprint}");
    }
    let is_new = certificate.is_some_and(|certificate| certificate.is_new);
    introduce(
        made_up.as_ref(),
        (explicit, implicit),
        fingerprint
            .filter(|_| is_new || made_up.is_some())
            .as_deref(),
    );
    confine(service.config().sandbox, &plan);
    // Threads are confined as the one is that starts them.
    log_lines::write_behind();
    if let Some(log) = &service.shared.transfer_log {
        log.start()
            .map_err(|error| format!("cannot start: {error}"))?;
    }
    (service.shared.bans.start()).map_err(|error| format!("cannot start: {error}"))?;
    upkeep::count_anew(&service.config(), kept.identities);
    let settings = Arc::clone(&service);
    upkeep::start(move || settings.config(), kept.identities);
    let ended = acceptor.run(&service, || service.config().timeouts.shutdown_grace);
    // A moment each at least, and no more for what hangs; programs may take the rest of the grace.
    let moment = last_words(service.config().timeouts.shutdown_grace) / 3;
    let deadline = *ended.as_ref().unwrap_or(&Instant::now());
    upkeep::close(&service.config(), kept.identities, Instant::now() + moment);
    programs.end(
        deadline
            .saturating_duration_since(Instant::now())
            .max(moment),
    );
    service.shared.bans.end();
    log::info!("goodbye");
    if let Some(log) = &service.shared.transfer_log {
        log.end(moment);
    }
    ended
        .map(drop)
        .map_err(|error| format!("cannot wait for connections: {error}"))
}

/// All programs that may be run behind uploads, each once.
fn programs_of(config: &Config) -> Vec<Program> {
    let mut programs: Vec<Program> = Vec::new();
    for account in config.accounts.iter().chain(config.accounts.anonymous()) {
        if let Some(program) = &account.on_upload {
            if !programs.contains(program) {
                programs.push(program.clone());
            }
        }
    }
    programs
}

/// Says which programs of a configuration that was read again cannot be run, or not so many at once.
fn warn_of_programs(known: &Hooks, config: &Config) {
    if known.runs_fewer_than(config.on_upload_at_once) {
        log::warn!(
            "a restart is needed: no more programs are run at once than were allowed at the start (setting: on_upload_at_once)"
        );
    }
    for program in programs_of(config) {
        if !known.knows(&program) {
            log::warn!(
                "a restart is needed: {} was not known at the start, with these arguments and this time, and is not run (setting: on_upload)",
                program.path.display()
            );
        }
    }
}

/// Says which names of a configuration that was read again are not looked up.
fn warn_of_names(known: &Lookup, config: &Config) {
    for name in config.external_address.names() {
        if !known.knows(&name) {
            log::warn!(
                "a restart is needed: {name} was not known at the start, and is not looked up (setting: external_address)"
            );
        }
    }
}

fn flags(arguments: &ServeArguments) -> Result<Flags, String> {
    for (name, count) in [
        ("--sessions", arguments.sessions),
        ("--sessions-per-ip", arguments.sessions_per_ip),
    ] {
        if count == Some(0) {
            return Err(format!("{name} must be at least 1"));
        }
    }
    let mut users = Vec::new();
    for (name, password) in users::gather(&arguments.user, arguments.password_file.as_deref())? {
        let Some(dir) = &arguments.dir else {
            return Err(format!(
                "the user {name} needs a directory: thriftpd serve DIR ..."
            ));
        };
        users.push(account(&name, &password, dir)?);
    }
    let anonymous = arguments.anonymous.as_deref().map(|dir| {
        let view = plain_view(absolute(dir), Permissions::READ_ONLY);
        Account::new("anonymous", Password::none(), view)
    });
    Ok(Flags {
        listen: arguments.listen.clone(),
        passive_ports: arguments.passive_ports,
        sessions: arguments.sessions,
        sessions_per_ip: arguments.sessions_per_ip,
        users,
        anonymous,
        certificate: certificate(arguments)?,
    })
}

/// `--cert` and `--key`.
fn certificate(arguments: &ServeArguments) -> Result<Option<Source>, String> {
    match (&arguments.cert, &arguments.key) {
        (None, None) => Ok(None),
        (None, Some(_)) => {
            Err("--key needs --cert: the certificate that the key belongs to".into())
        }
        (Some(cert), key) => Ok(Some(Source::Files {
            certificate: absolute(cert),
            key: absolute(key.as_ref().unwrap_or(cert)),
        })),
    }
}

fn open_tls(config: &Config) -> Result<Option<tls::Tls>, String> {
    if config.tls.mode == TlsMode::Off {
        return Ok(None);
    }
    let opened = tls::Tls::open(config.tls.service.clone());
    opened.map(Some).map_err(|error| error.to_string())
}

fn account(name: &str, password: &str, dir: &Path) -> Result<Account, String> {
    let password = Password::for_this_run(password).map_err(|_| {
        format!("cannot keep the password of {name}: the system gives no random bytes")
    })?;
    let view = plain_view(absolute(dir), Permissions::ALL);
    Ok(Account::new(name, password, view))
}

/// The same directory whatever becomes of the working directory; links are followed once, here.
fn absolute(dir: &Path) -> PathBuf {
    dir.canonicalize()
        .or_else(|_| std::path::absolute(dir))
        .unwrap_or_else(|_| dir.to_owned())
}

/// The roots of all accounts, which must be directories.
fn roots(config: &Config) -> Result<Vec<PathBuf>, String> {
    let accounts = config.accounts.iter().chain(config.accounts.anonymous());
    let roots: Vec<(PathBuf, bool)> = accounts
        .map(|account| &account.view)
        .map(|view| (view.root.clone(), view.rules.require_mount))
        .collect();
    if roots.is_empty() {
        return Err("nobody could log in: name a directory (thriftpd serve DIR), or users in a file given with --config".into());
    }
    // One that comes with its disk need not be there yet.
    let wrong =
        |(root, comes_later): &&(PathBuf, bool)| !root.is_dir() && (root.exists() || !comes_later);
    match roots.iter().find(wrong) {
        Some((root, _)) if root.exists() => Err(format!("{} is not a directory", root.display())),
        Some((root, _)) => Err(format!(
            "there is no directory {}; make it with `mkdir -p {0}`",
            root.display()
        )),
        None => Ok(roots.into_iter().map(|(root, _)| root).collect()),
    }
}

/// Says which disks are not there, and what depends on that.
fn tell_of_missing_disks(config: &Config) {
    let accounts = config.accounts.iter().chain(config.accounts.anonymous());
    let waiting: BTreeSet<&PathBuf> = accounts.flat_map(|one| one.view.waiting()).collect();
    for directory in &waiting {
        log::warn!(
            "{} waits for its disk: nothing is mounted there yet (setting: require_mount)",
            directory.display()
        );
    }
    let first = config
        .accounts
        .iter()
        .chain(config.accounts.anonymous())
        .next();
    let first_waits = first.is_some_and(|first| waiting.contains(&first.view.root));
    if first_waits && config.run_as.is_none() && privileges::is_root() {
        log::warn!(
            "whom the first root belongs to is not known without its disk: set `run_as` to be the same user with and without it"
        );
    }
}

fn open_transfer_log(path: &Path) -> Result<TransferLog, String> {
    TransferLog::open(path)
        .map_err(|error| format!("cannot open the transfer log {}: {error}", path.display()))
}

/// Puts up the sandbox, unless it is switched off, and says what it is made of.
fn confine(wanted: bool, plan: &Plan) {
    if !wanted {
        log::warn!("sandbox: off (setting: sandbox)");
        return;
    }
    let violation = Violation::by(std::env::var_os(Violation::VARIABLE).as_deref());
    log::info!("sandbox: {}", sandbox::enter(plan, violation));
}

/// Gives up root where there is somebody else to be; tells what can still be done. The self-made certificate
/// goes with the server, so that a renewed one can still be read.
fn become_server(
    config: &Config,
    first_root: Option<&Path>,
    certificate: Option<&tls::Made>,
) -> Result<Kept, String> {
    let identity = privileges::choose(config.run_as.as_deref(), first_root)
        .map_err(|error| error.to_string())?;
    if let (Identity::Other { uid, .. }, Some(Source::Files { certificate, .. })) =
        (&identity, certificate.map(|made| &made.source))
    {
        std::os::unix::fs::chown(certificate, Some(*uid), None).map_err(|error| {
            format!(
                "cannot give {} to the server's user: {error}",
                certificate.display()
            )
        })?;
    }
    let kept = Kept {
        low_ports: config.active_from_port_20 != Some(false) && privileges::may_bind_low_ports(),
        identities: config.run_as.as_deref() == Some(PER_SESSION),
    };
    privileges::become_identity(&identity, kept).map_err(|error| error.to_string())?;
    sandbox::keep_secrets();
    match identity {
        Identity::Root if kept.identities => log::warn!(
            "running as root until a session begins, for there is no user thriftpd: make it with `useradd --system thriftpd`"
        ),
        Identity::Unchanged => {}
        Identity::Root => log::warn!(
            "running as root, for the first root belongs to root and there is no user thriftpd: give the directory to somebody else, set `run_as`, or make the user with `useradd --system thriftpd`"
        ),
        Identity::Other { uid, name, .. } => {
            log::info!(
                "running as {}",
                name.unwrap_or_else(|| format!("user {uid}"))
            );
        }
    }
    Ok(kept)
}

fn addresses_of(listeners: &[TcpListener]) -> Vec<SocketAddr> {
    listeners
        .iter()
        .filter_map(|listener| listener.local_addr().ok())
        .collect()
}

/// What somebody needs to use the server for the first time: user and password, the certificate's fingerprint, where.
/// The password itself only where it is new or a person is looking: later output may go to a log.
fn introduce(
    user: Option<&FirstUser>,
    (explicit, implicit): (&[SocketAddr], &[SocketAddr]),
    fingerprint: Option<&str>,
) {
    let mut text = String::new();
    let mut who = String::new();
    if let Some(user) = user {
        let show = user.is_new || std::io::stdout().is_terminal();
        let password = user.password.as_str();
        let [shown, in_url] = if show {
            [password; 2]
        } else {
            ["as before", "PASSWORD"]
        };
        text += &format!("User {}, password {shown}\n", user.name);
        text += &format!("(kept in {})\n", user.kept_in.display());
        who = format!("{}:{in_url}@", user.name);
    }
    if let Some(fingerprint) = fingerprint {
        text += &format!("Certificate SHA-256 {fingerprint}\n");
    }
    if text.is_empty() {
        return;
    }
    // ftpes: what clients with a window call explicit TLS; curl and lftp find it under ftp:// by themselves.
    let schemes: &[&str] = if fingerprint.is_some() {
        &["ftp", "ftpes"]
    } else {
        &["ftp"]
    };
    for address in reachable(explicit) {
        for scheme in schemes {
            text += &format!("  {scheme}://{who}{address}/\n");
        }
    }
    for address in reachable(implicit) {
        text += &format!("  ftps://{who}{address}/\n");
    }
    // Nobody has to read it: a closed pipe is no reason not to serve.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// The addresses and ports that clients can use, loopback last.
fn reachable(listening: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut reachable = Vec::new();
    for listener in listening {
        if listener.ip().is_unspecified() {
            let takes = |address: &IpAddr| address.is_ipv4() || listener.is_ipv6();
            let lan = lan_addresses()
                .into_iter()
                .filter(takes)
                .chain([IpAddr::from([127, 0, 0, 1])]);
            reachable.extend(lan.map(|address| SocketAddr::new(address, listener.port())));
        } else {
            reachable.push(*listener);
        }
    }
    reachable
}
