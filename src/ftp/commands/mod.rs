//! The verbs: THE table, and running one command by it.
//!
//! Everything that is known of a verb stands in its row: how it is written, its standard, when it may be called, what it
//! does during a transfer, what becomes of a restart marker, the permission without which it is pointless, its handler,
//! its line in HELP and in FEAT. Each file beside this one holds the handlers of one family.
mod checksum;
mod copies;
mod expand;
mod files;
mod information;
mod interrupts;
mod listing;
mod login;
mod navigation;
mod parameters;
mod security;
mod site;
mod transfer;
mod work;

use super::protocol::command::Command;
use super::protocol::reply::Reply;
use super::refusal::Refusal;
use super::session::{Login, Session};
use crate::observe::limit::PACED;
use crate::observe::printable;
use crate::storage::Permission;

/// What a handler returns: the one reply of the command.
type Answer = Result<Reply, Refusal>;
type Handler = fn(&mut Session, &[u8]) -> Answer;

/// When a verb may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    BeforeLogin,
    AfterLogin,
    Always,
}

/// What a command that arrives during a transfer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum During {
    /// It waits in the buffer for the transfer's end.
    Waits,
    /// It is answered at once (only without an argument), and the transfer goes on.
    AnsweredAtOnce,
    /// It ends the transfer.
    Aborts,
}

/// What a command does to the restart marker that REST has set, and to the range that RANG has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    /// The marker stays for the transfer that it was meant for, whatever is asked in between: to drop it and store what comes
    /// as a whole file would lose the beginning. A range is forgotten, for nothing is stored by one.
    Stays,
    /// Both stay: the command prepares a transfer.
    BothStay,
    /// The marker was meant for this command, whether it succeeds or not; a range cannot be.
    Used,
    /// The same, and so may a range be.
    UsedAsRange,
}

/// What FEAT says of a verb (RFC 2389 §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    None,
    Line(&'static str),
    /// The same, where there is encryption.
    Secure(&'static str),
    /// The facts that MLST knows, with those that are on.
    Facts,
    /// The algorithms that HASH knows, with the selected one.
    Algorithms,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Verb {
    pub name: &'static str,
    /// As HELP shows it; a `<` means that an argument must be there.
    pub syntax: &'static str,
    pub rfc: &'static str,
    pub help: &'static str,
    pub when: When,
    pub during: During,
    pub marker: Marker,
    /// RNTO uses what RNFR named. Between the two may come what is answered at once, and nothing else.
    pub uses_rename_source: bool,
    /// The argument is words of the protocol and no name: blanks around it are not part of it.
    pub has_words: bool,
    /// Refused where no folder of the user grants it.
    pub needs: Option<Permission>,
    /// Enough in its place: storage decides.
    pub or: Option<Permission>,
    pub feature: Feature,
    handler: Handler,
}

const fn verb(
    name: &'static str,
    syntax: &'static str,
    rfc: &'static str,
    help: &'static str,
    handler: Handler,
) -> Verb {
    Verb {
        name,
        syntax,
        rfc,
        help,
        when: When::AfterLogin,
        during: During::Waits,
        marker: Marker::Stays,
        uses_rename_source: false,
        has_words: false,
        needs: None,
        or: None,
        feature: Feature::None,
        handler,
    }
}

impl Verb {
    const fn always(self) -> Self {
        Self {
            when: When::Always,
            ..self
        }
    }
    const fn before_login(self) -> Self {
        Self {
            when: When::BeforeLogin,
            ..self
        }
    }
    const fn answered_at_once(self) -> Self {
        Self {
            during: During::AnsweredAtOnce,
            ..self
        }
    }
    const fn aborts(self) -> Self {
        Self {
            during: During::Aborts,
            ..self
        }
    }
    const fn prepares_transfer(self) -> Self {
        Self {
            marker: Marker::BothStay,
            ..self
        }
    }
    const fn uses_marker(self) -> Self {
        Self {
            marker: Marker::Used,
            ..self
        }
    }
    const fn uses_range(self) -> Self {
        Self {
            marker: Marker::UsedAsRange,
            ..self
        }
    }
    const fn uses_rename_source(self) -> Self {
        Self {
            uses_rename_source: true,
            ..self
        }
    }
    const fn words(self) -> Self {
        Self {
            has_words: true,
            ..self
        }
    }
    const fn needs(self, permission: Permission) -> Self {
        Self {
            needs: Some(permission),
            ..self
        }
    }
    const fn or(self, permission: Permission) -> Self {
        Self {
            or: Some(permission),
            ..self
        }
    }
    const fn feature(self, line: &'static str) -> Self {
        Self {
            feature: Feature::Line(line),
            ..self
        }
    }
    const fn secure_feature(self, line: &'static str) -> Self {
        Self {
            feature: Feature::Secure(line),
            ..self
        }
    }
    const fn lists_facts(self) -> Self {
        Self {
            feature: Feature::Facts,
            ..self
        }
    }
    const fn lists_algorithms(self) -> Self {
        Self {
            feature: Feature::Algorithms,
            ..self
        }
    }

    fn takes_argument(&self) -> bool {
        self.syntax.contains('<')
    }
}

use Permission::{Append, Delete, Download, List, Mkdir, Rename, Rmdir, Touch, Upload};

/// THE table, by family.
#[rustfmt::skip]
pub const VERBS: &[Verb] = &[
    verb("USER", "USER <name>", "RFC 959 §4.1.1", "says who you are", login::user).always(),
    verb("PASS", "PASS [password]", "RFC 959 §4.1.1", "gives your password", login::pass).always(),
    verb("ACCT", "ACCT <account>", "RFC 959 §4.1.1", "is not needed here", login::acct).always(),
    verb("REIN", "REIN", "RFC 959 §4.1.1", "logs out and starts anew", login::rein).always(),
    verb("QUIT", "QUIT", "RFC 959 §4.1.1", "ends the session", login::quit).always(),
    verb("HOST", "HOST <name>", "RFC 7151 §3", "names the host you mean; before USER", login::host).before_login().feature("HOST").words(),

    verb("AUTH", "AUTH <TLS | TLS-C | TLS-P | SSL>", "RFC 2228 §3, RFC 4217 §4", "encrypts the control connection", security::auth).always().secure_feature("AUTH TLS").words(),
    verb("PBSZ", "PBSZ <0>", "RFC 2228 §3, RFC 4217 §8", "is 0 under TLS", security::pbsz).always().secure_feature("PBSZ").words(),
    verb("PROT", "PROT <C | P>", "RFC 2228 §3, RFC 4217 §9", "encrypts data connections, or not", security::prot).always().secure_feature("PROT").words(),
    verb("CCC", "CCC", "RFC 2228 §3, RFC 4217 §12.1", "goes back to the clear on the control connection", security::ccc),

    verb("CWD", "CWD [directory]", "RFC 959 §4.1.1", "changes the working directory; without one, to your home", navigation::cwd),
    verb("XCWD", "XCWD [directory]", "RFC 1123 §4.1.3.1", "is CWD", navigation::cwd),
    verb("CDUP", "CDUP", "RFC 959 §4.1.1", "goes to the parent directory", navigation::cdup),
    verb("XCUP", "XCUP", "RFC 1123 §4.1.3.1", "is CDUP", navigation::cdup),
    verb("PWD", "PWD", "RFC 959 §4.1.3", "tells the working directory", navigation::pwd),
    verb("XPWD", "XPWD", "RFC 1123 §4.1.3.1", "is PWD", navigation::pwd),
    verb("MKD", "MKD <directory>", "RFC 959 §4.1.3", "makes a directory", navigation::mkd).needs(Mkdir),
    verb("XMKD", "XMKD <directory>", "RFC 1123 §4.1.3.1", "is MKD", navigation::mkd).needs(Mkdir),
    verb("RMD", "RMD <directory>", "RFC 959 §4.1.3", "removes an empty directory", navigation::rmd).needs(Rmdir),
    verb("XRMD", "XRMD <directory>", "RFC 1123 §4.1.3.1", "is RMD", navigation::rmd).needs(Rmdir),
    verb("RMDA", "RMDA <directory>", "draft-peterson-streamlined-ftp-command-extensions", "removes a directory with all in it", navigation::rmda).needs(Rmdir).feature("RMDA <path>"),

    verb("LIST", "LIST [-aldRF1h] [path]", "RFC 959 §4.1.3", "lists in the form of ls -l", listing::list).needs(List),
    verb("NLST", "NLST [-aldRF1h] [path]", "RFC 959 §4.1.3, RFC 1123 §4.1.2.7", "lists names", listing::nlst).needs(List),
    verb("MLSD", "MLSD [directory]", "RFC 3659 §7", "lists a directory with facts", listing::mlsd).needs(List),
    verb("MLST", "MLST [path]", "RFC 3659 §7", "tells the facts of one name", listing::mlst).lists_facts(),
    verb("STAT", "STAT [path]", "RFC 959 §4.1.3", "tells the state, or lists on this connection", listing::stat).answered_at_once(),

    verb("TYPE", "TYPE <A [N] | I | L 8>", "RFC 959 §4.1.2", "sets the representation type", parameters::representation).always().prepares_transfer().words(),
    verb("MODE", "MODE <S>", "RFC 959 §4.1.2", "sets the transfer mode", parameters::mode).always().words(),
    verb("STRU", "STRU <F>", "RFC 959 §4.1.2", "sets the file structure", parameters::structure).always().words(),
    verb("PORT", "PORT <h1,h2,h3,h4,p1,p2>", "RFC 959 §4.1.2", "has the server connect to you", parameters::port).prepares_transfer().words(),
    verb("EPRT", "EPRT <|protocol|address|port|>", "RFC 2428 §2", "is PORT for IPv4 and IPv6", parameters::eprt).prepares_transfer().feature("EPRT").words(),
    verb("PASV", "PASV", "RFC 959 §4.1.2", "opens a port for you to connect to", parameters::pasv).prepares_transfer(),
    verb("EPSV", "EPSV [1 | 2 | ALL]", "RFC 2428 §3", "is PASV for IPv4 and IPv6", parameters::epsv).prepares_transfer().feature("EPSV").words(),

    verb("RETR", "RETR <path>", "RFC 959 §4.1.3", "sends you a file", transfer::retr).needs(Download).uses_range(),
    verb("STOR", "STOR <path>", "RFC 959 §4.1.3", "takes a file from you", transfer::stor).needs(Upload).uses_marker(),
    verb("APPE", "APPE <path>", "RFC 959 §4.1.3", "takes what is added to a file", transfer::appe).needs(Append).or(Upload).uses_marker(),
    verb("STOU", "STOU [prefix]", "RFC 959 §4.1.3, RFC 1123 §4.1.2.9", "takes a file under a new name", transfer::stou).needs(Upload).uses_marker(),
    verb("REST", "REST <offset>", "RFC 3659 §5", "starts the next transfer at an offset", transfer::rest).feature("REST STREAM").words(),
    verb("ABOR", "ABOR", "RFC 959 §4.1.3", "ends the transfer under way", transfer::abor).always().aborts(),
    verb("ALLO", "ALLO <bytes> [R bytes]", "RFC 959 §4.1.3", "asks whether there is room", transfer::allo).words(),

    verb("HASH", "HASH <path>", "draft-bryan-ftpext-hash §3", "tells a file's checksum", checksum::hash).needs(Download).uses_range().lists_algorithms(),
    verb("RANG", "RANG <first> <last>", "draft-bryan-ftp-range §3", "says what part of a file the next RETR or HASH means", checksum::rang).needs(Download).feature("RANG STREAM").words(),
    verb("XCRC", "XCRC <path> [start [end]]", "by convention", "tells a file's CRC32", checksum::xcrc).needs(Download).feature("XCRC"),
    verb("XMD5", "XMD5 <path> [start [end]]", "by convention", "tells a file's MD5", checksum::xmd5).needs(Download).feature("XMD5"),
    verb("XSHA1", "XSHA1 <path> [start [end]]", "by convention", "tells a file's SHA-1", checksum::xsha1).needs(Download).feature("XSHA1"),
    verb("XSHA256", "XSHA256 <path> [start [end]]", "by convention", "tells a file's SHA-256", checksum::xsha256).needs(Download).feature("XSHA256"),
    verb("XSHA512", "XSHA512 <path> [start [end]]", "by convention", "tells a file's SHA-512", checksum::xsha512).needs(Download).feature("XSHA512"),

    verb("RNFR", "RNFR <path>", "RFC 959 §4.1.3", "says what to rename", files::rnfr).needs(Rename),
    verb("RNTO", "RNTO <path>", "RFC 959 §4.1.3", "says its new name; right behind RNFR", files::rnto).needs(Rename).uses_rename_source(),
    verb("DELE", "DELE <path>", "RFC 959 §4.1.3", "removes a file", files::dele).needs(Delete),
    verb("SIZE", "SIZE <path>", "RFC 3659 §4", "tells the bytes a transfer would take", files::size).feature("SIZE"),
    verb("MDTM", "MDTM <path>", "RFC 3659 §3", "tells the time of modification; with a time before the path, sets it", files::mdtm).feature("MDTM"),
    verb("MFMT", "MFMT <YYYYMMDDhhmmss> <path>", "draft-somers-ftp-mfxx §3", "sets the time of modification", files::mfmt).needs(Touch).feature("MFMT"),
    verb("MFCT", "MFCT <YYYYMMDDhhmmss> <path>", "draft-somers-ftp-mfxx §4", "cannot be done: the time of creation is the file system's", files::mfct),
    verb("MFF", "MFF <fact=value;...> <path>", "draft-somers-ftp-mfxx §5", "sets Modify and UNIX.mode", files::mff).feature("MFF Modify;UNIX.mode;"),
    verb("AVBL", "AVBL [path]", "draft-peterson-streamlined-ftp-command-extensions", "tells the bytes free", files::avbl).feature("AVBL"),

    verb("FEAT", "FEAT", "RFC 2389 §3", "tells what there is beyond RFC 959", information::feat).always(),
    verb("OPTS", "OPTS <UTF8 ON | MLST facts | HASH algorithm>", "RFC 2389 §4", "sets options", information::opts).always().words(),
    verb("HELP", "HELP [verb]", "RFC 959 §4.1.3", "tells this", information::help).always().words(),
    verb("NOOP", "NOOP", "RFC 959 §4.1.3", "does nothing", information::noop).always().answered_at_once(),
    verb("SYST", "SYST", "RFC 959 §4.1.3", "tells the kind of system", information::syst).always(),
    verb("CLNT", "CLNT <name>", "by convention", "tells what program you are", information::clnt).always().feature("CLNT"),
    verb("CSID", "CSID <Name=...;Version=...;>", "draft-peterson-streamlined-ftp-command-extensions", "exchanges names of programs", information::csid).always().feature("CSID"),
    verb("LANG", "LANG [tag]", "RFC 2640 §4", "sets the language of replies; there is one", information::lang).always().feature("LANG EN*").words(),

    verb("SITE", "SITE <HELP | CHMOD | UTIME | IDLE | WHO | QUOTA | COPY | CPFR | CPTO | SYMLINK> ...", "RFC 959 §4.1.3", "does what the standard has no verb for", site::site).feature("SITE COPY"),

    verb("SMNT", "SMNT <path>", "RFC 959 §4.1.1", "is not offered", information::not_offered).always(),
    verb("ADAT", "ADAT <data>", "RFC 2228 §3", "is not offered", information::not_offered).always(),
    verb("MIC", "MIC <data>", "RFC 2228 §3", "is not offered", information::not_offered).always(),
    verb("CONF", "CONF <data>", "RFC 2228 §3", "is not offered", information::not_offered).always(),
    verb("ENC", "ENC <data>", "RFC 2228 §3", "is not offered", information::not_offered).always(),
    verb("LPRT", "LPRT <address>", "RFC 1639 §3", "is not offered", information::not_offered).always(),
    verb("LPSV", "LPSV", "RFC 1639 §3", "is not offered", information::not_offered).always(),
];

/// The row of a verb, which is given in upper case.
pub fn find(name: &[u8]) -> Option<&'static Verb> {
    VERBS.iter().find(|verb| verb.name.as_bytes() == name)
}

/// Runs one command: exactly one reply goes out, or one sequence of them.
pub fn run(session: &mut Session, command: &Command) {
    let verb = find(&command.verb);
    let is_answered_at_once = verb.is_some_and(|verb| verb.during == During::AnsweredAtOnce);
    if !is_answered_at_once {
        if verb.is_none_or(|verb| !verb.uses_rename_source) {
            session.steps.rename_source = None;
        }
        if command.verb != b"SITE" {
            session.steps.copy_source = None;
        }
    }
    let forgets_range = verb.is_none_or(|verb| verb.marker == Marker::Stays);
    if forgets_range && session.steps.range_last.take().is_some() {
        session.steps.restart = 0;
    }
    let Some(verb) = verb else {
        let text = format!("There is no command {}.", printable(&command.verb));
        session.reply(&Reply::new(500, text));
        return;
    };
    let argument = match verb.has_words {
        true => command.argument.trim_ascii(),
        false => &command.argument,
    };
    let answer = allowed(session, verb, argument).and_then(|()| (verb.handler)(session, argument));
    if matches!(verb.marker, Marker::Used | Marker::UsedAsRange) {
        session.steps.restart = 0;
        session.steps.range_last = None;
    }
    let reply = answer.unwrap_or_else(|refusal| {
        if let Some(reason) = &refusal.reason {
            // Before a login it makes the client wait, and each user whose settings are wrong has a line.
            let target = match session.visitor() {
                Ok(_) => module_path!(),
                Err(_) => PACED,
            };
            log::warn!(target: target, "{}: {} refused: {reason}", session.who(), verb.name);
        }
        refusal.reply
    });
    session.reply(&reply);
    session.finish_reply();
}

fn allowed(session: &Session, verb: &Verb, argument: &[u8]) -> Result<(), Refusal> {
    match (verb.when, &session.login) {
        (When::BeforeLogin, Login::Greeted)
        | (When::Always, _)
        | (When::AfterLogin, Login::LoggedIn(_)) => {}
        (When::BeforeLogin, _) => {
            return Err(Refusal::new(
                503,
                format!("{} must come before USER.", verb.name),
            ));
        }
        (When::AfterLogin, _) => {
            return Err(Refusal::new(530, "Please log in with USER and PASS."));
        }
    }
    if verb.takes_argument() && argument.is_empty() {
        return Err(Refusal::new(501, format!("Syntax: {}", verb.syntax)));
    }
    if verb.marker == Marker::Used && session.steps.range_last.is_some() {
        // What is received ends where it ends: taking the start alone would cut the file there.
        return Err(Refusal::new(504, "RANG is for RETR and HASH."));
    }
    if let (Some(permission), Login::LoggedIn(visitor)) = (verb.needs, &session.login) {
        let or = verb.or.unwrap_or(permission);
        let enough = [permission, or].map(|one| visitor.view.permits_anywhere(one));
        if !enough.contains(&true) {
            let name = permission.name();
            return Err(Refusal::new(
                550,
                format!("You have no permission for {} ({name}).", verb.name),
            )
            .logged(format!(
                "the account lacks the permission {name} (setting: access or permissions)"
            )));
        }
    }
    Ok(())
}
