//! FEAT, OPTS (RFC 2389), HELP, NOOP, SYST (RFC 959 §4.1.3), CLNT, CSID, LANG (RFC 2640), and what is not offered.
use super::{Answer, Feature, VERBS, checksum, find};
use crate::ftp::protocol::facts::Facts;
use crate::ftp::protocol::reply::Reply;
use crate::ftp::refusal::Refusal;
use crate::ftp::session::Session;
use crate::observe::printable;

pub fn feat(session: &mut Session, _: &[u8]) -> Answer {
    let mut lines: Vec<Vec<u8>> = VERBS
        .iter()
        .filter_map(|verb| match verb.feature {
            Feature::None => None,
            Feature::Line(line) => Some(line.as_bytes().to_vec()),
            Feature::Secure(line) => session
                .connection
                .security
                .is_offered()
                .then(|| line.as_bytes().to_vec()),
            Feature::Facts => Some(session.parameters.facts.feat_line().into_bytes()),
            Feature::Algorithms => Some(checksum::feat_line(session).into_bytes()),
        })
        .collect();
    // Properties of the whole server, not of a verb: RFC 3659 §6 and RFC 2640 §3.2.
    lines.extend([b"TVFS".to_vec(), b"UTF8".to_vec()]);
    lines.sort();
    Ok(Reply::multi(211, "Features:", lines, "End"))
}

pub fn opts(session: &mut Session, argument: &[u8]) -> Answer {
    let mut words = argument.splitn(2, |&byte| byte == b' ');
    let what = words.next().unwrap_or_default().to_ascii_uppercase();
    let value = words.next().unwrap_or_default();
    match what.as_slice() {
        b"MLST" => {
            session.parameters.facts = Facts::parse_options(value);
            Ok(Reply::new(200, session.parameters.facts.options_reply()))
        }
        b"HASH" => checksum::options(session, value),
        b"UTF8" | b"UTF-8" => match value.trim_ascii().to_ascii_uppercase().as_slice() {
            b"ON" | b"" => Ok(Reply::new(
                200,
                "Names are bytes here, and UTF-8 by intent.",
            )),
            _ => Err(Refusal::new(
                504,
                "Names stay as they are; nothing is converted.",
            )),
        },
        _ if find(&what).is_some() => Err(Refusal::new(501, "This command has no options.")),
        _ => Err(Refusal::new(
            501,
            "There are options for UTF8, MLST and HASH.",
        )),
    }
}

pub fn help(_: &mut Session, argument: &[u8]) -> Answer {
    let name = argument.trim_ascii().to_ascii_uppercase();
    if !name.is_empty() {
        return match find(&name) {
            Some(verb) => Ok(Reply::new(
                214,
                format!("{}: {} ({}).", verb.syntax, verb.help, verb.rfc),
            )),
            None => Err(Refusal::new(
                502,
                format!("There is no command {}.", printable(&name)),
            )),
        };
    }
    let names: Vec<&str> = VERBS
        .iter()
        .filter(|verb| verb.help != "is not offered")
        .map(|verb| verb.name)
        .collect();
    let lines = names
        .chunks(10)
        .map(|names| names.join(" ").into_bytes())
        .collect();
    Ok(Reply::multi(
        214,
        "These commands are served:",
        lines,
        "HELP <verb> tells more.",
    ))
}

pub fn noop(_: &mut Session, _: &[u8]) -> Answer {
    Ok(Reply::new(200, "NOOP ok."))
}

/// What clients look for to know that LIST is `ls -l`.
pub fn syst(_: &mut Session, _: &[u8]) -> Answer {
    Ok(Reply::new(215, "UNIX Type: L8"))
}

pub fn clnt(session: &mut Session, name: &[u8]) -> Answer {
    log::debug!("{}: client {}", session.who(), printable(name));
    Ok(Reply::new(200, "CLNT command successful."))
}

pub fn csid(session: &mut Session, name: &[u8]) -> Answer {
    log::debug!("{}: client {}", session.who(), printable(name));
    Ok(Reply::new(
        200,
        concat!(
            "Name=thriftpd;Version=",
            env!("CARGO_PKG_VERSION"),
            ";OS=Linux;CaseSensitive=1;DirSep=/;"
        ),
    ))
}

/// An empty argument asks for the default.
pub fn lang(_: &mut Session, tag: &[u8]) -> Answer {
    let tag = tag.trim_ascii().to_ascii_lowercase();
    if tag.is_empty() || tag == b"en" || tag.starts_with(b"en-") {
        Ok(Reply::new(200, "Replies are in English."))
    } else {
        Err(Refusal::new(504, "Replies are in English only."))
    }
}

pub fn not_offered(_: &mut Session, _: &[u8]) -> Answer {
    Err(Refusal::new(
        502,
        "This command is known, but not offered here.",
    ))
}

/// The state of the session (RFC 959 §4.1.3 STAT without an argument).
pub fn state(session: &Session) -> Reply {
    let mut lines = vec![format!("Connected from {}", session.connection.peer)];
    if let Ok(visitor) = session.visitor() {
        lines.push(format!("Logged in as {}", printable(&visitor.name)));
    }
    lines.push(format!(
        "Type: {:?}; structure: file; mode: stream",
        session.parameters.representation
    ));
    lines.push(format!("Idle time-out: {} s", session.idle().as_secs()));
    lines.push(format!(
        "Control connection: {}; data connections: {}",
        session.connection.control.stream().describe(),
        if session.connection.security.private_data {
            "encrypted"
        } else {
            "in the clear"
        }
    ));
    lines.push("No data connection".into());
    Reply::multi(
        211,
        "State:",
        lines.into_iter().map(String::into_bytes).collect(),
        "End",
    )
}
