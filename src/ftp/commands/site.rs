//! SITE (RFC 959 §4.1.3): CHMOD, UTIME, IDLE, WHO, QUOTA, HELP; those of `copies`.
use std::time::{Duration, Instant};

use super::files::split_word;
use super::{Answer, copies};
use crate::ftp::protocol::numbers::{parse_decimal, parse_octal_mode};
use crate::ftp::protocol::reply::Reply;
use crate::ftp::protocol::site_utime::parse_site_utime;
use crate::ftp::refusal::Refusal;
use crate::ftp::session::Session;
use crate::observe::printable;

struct Subcommand {
    name: &'static [u8],
    syntax: &'static str,
    handler: fn(&mut Session, &[u8]) -> Answer,
}

const SUBCOMMANDS: &[Subcommand] = &[
    Subcommand {
        name: b"CHMOD",
        syntax: "SITE CHMOD <mode> <path>",
        handler: chmod,
    },
    Subcommand {
        name: b"UTIME",
        syntax: "SITE UTIME <YYYYMMDDhhmm[ss]> <path> | <path> <access> <modify> <create> UTC",
        handler: utime,
    },
    Subcommand {
        name: b"IDLE",
        syntax: "SITE IDLE [seconds]",
        handler: idle,
    },
    Subcommand {
        name: b"WHO",
        syntax: "SITE WHO",
        handler: who,
    },
    Subcommand {
        name: b"QUOTA",
        syntax: "SITE QUOTA",
        handler: quota,
    },
    Subcommand {
        name: b"CPFR",
        syntax: "SITE CPFR <path>",
        handler: copies::cpfr,
    },
    Subcommand {
        name: b"CPTO",
        syntax: "SITE CPTO <path>",
        handler: copies::cpto,
    },
    Subcommand {
        name: b"COPY",
        syntax: "SITE COPY <from> <to>",
        handler: copies::copy,
    },
    Subcommand {
        name: b"SYMLINK",
        syntax: "SITE SYMLINK <target> <link>",
        handler: copies::symlink,
    },
    Subcommand {
        name: b"HELP",
        syntax: "SITE HELP",
        handler: help,
    },
];

/// The shortest idle time that a client may ask for, in seconds. The longest is the owner's.
const SHORTEST_IDLE: u64 = 30;

pub fn site(session: &mut Session, argument: &[u8]) -> Answer {
    let (name, rest) = split_word(argument).unwrap_or((argument, b""));
    let name = name.to_ascii_uppercase();
    if name != b"CPTO" {
        session.steps.copy_source = None;
    }
    match SUBCOMMANDS.iter().find(|known| known.name == name) {
        Some(known) => (known.handler)(session, rest),
        None => Err(Refusal::new(
            504,
            format!("There is no SITE {}; see SITE HELP.", printable(&name)),
        )),
    }
}

fn chmod(session: &mut Session, argument: &[u8]) -> Answer {
    let malformed = || Refusal::new(501, "Syntax: SITE CHMOD <mode> <path>, the mode in octal.");
    let (mode, path) = split_word(argument).ok_or_else(malformed)?;
    let mode = parse_octal_mode(mode).ok_or_else(malformed)?;
    if mode > 0o777 {
        return Err(Refusal::new(
            504,
            "Set-user-ID, set-group-ID and sticky bits are not set from here.",
        ));
    }
    let path = session.path(path)?;
    session.view()?.set_mode(&path, mode)?;
    Ok(Reply::new(
        200,
        format!("SITE CHMOD command successful: the mode is {mode:04o}."),
    ))
}

fn utime(session: &mut Session, argument: &[u8]) -> Answer {
    let Some(wanted) = parse_site_utime(argument) else {
        return Err(Refusal::new(
            501,
            "Syntax: SITE UTIME <YYYYMMDDhhmm[ss]> <path>",
        ));
    };
    let path = session.path(wanted.path)?;
    session
        .view()?
        .set_times(&path, wanted.modified, wanted.accessed)?;
    Ok(Reply::new(200, "SITE UTIME command successful."))
}

fn idle(session: &mut Session, argument: &[u8]) -> Answer {
    if argument.is_empty() {
        return Ok(Reply::new(
            200,
            format!("The idle time-out is {} s.", session.idle().as_secs()),
        ));
    }
    let longest = session.config.timeouts.idle.as_secs();
    match parse_decimal(argument) {
        Some(seconds) if (SHORTEST_IDLE.min(longest)..=longest).contains(&seconds) => {
            session.parameters.idle = Some(Duration::from_secs(seconds));
            Ok(Reply::new(
                200,
                format!("The idle time-out is {seconds} s now."),
            ))
        }
        _ => Err(Refusal::new(
            501,
            format!("From {} to {longest} s.", SHORTEST_IDLE.min(longest)),
        )),
    }
}

/// The user's own sessions; those of others are nobody's business, and guests are others to each other.
fn who(session: &mut Session, _: &[u8]) -> Answer {
    let visitor = session.visitor()?;
    let (user, anonymous) = (visitor.account.name.clone(), visitor.anonymous);
    let now = Instant::now();
    let lines = session
        .service
        .shared
        .sessions
        .of_user(user.as_bytes())
        .into_iter()
        .filter(|(id, _)| !anonymous || *id == session.connection.row.id())
        .map(|(id, seen)| {
            let mine = if id == session.connection.row.id() {
                "*"
            } else {
                " "
            };
            let doing = if seen.doing.is_empty() {
                b"idle".to_vec()
            } else {
                seen.doing
            };
            let minutes = now.duration_since(seen.since).as_secs() / 60;
            format!(
                "{mine}{id} {} {minutes} min: {}; {} bytes received, {} sent",
                seen.peer.ip(),
                printable(&doing),
                seen.received,
                seen.sent
            )
            .into_bytes()
        });
    Ok(Reply::multi(
        200,
        format!("Sessions of {}:", printable(user.as_bytes())),
        lines.collect(),
        "End",
    ))
}

/// What the user has stored, as it is counted at this moment.
fn quota(session: &mut Session, _: &[u8]) -> Answer {
    let Some((used, limit)) = session.view()?.quota()? else {
        return Ok(Reply::new(200, "You have no quota."));
    };
    let line = |what: &str, used: u64, limit: Option<u64>| match limit {
        Some(limit) => format!(
            "{what}: {used} of {limit}, {} left",
            limit.saturating_sub(used)
        ),
        None => format!("{what}: {used}, without a limit"),
    };
    let lines = [
        line("Bytes", used.bytes, limit.bytes).into_bytes(),
        line("Files", used.files, limit.files).into_bytes(),
    ];
    Ok(Reply::multi(200, "Your quota:", lines.to_vec(), "End"))
}

fn help(_: &mut Session, _: &[u8]) -> Answer {
    let lines = SUBCOMMANDS
        .iter()
        .map(|known| known.syntax.as_bytes().to_vec())
        .collect();
    Ok(Reply::multi(214, "These are served:", lines, "End"))
}
