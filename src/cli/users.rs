//! Users of the directory on the command line, and the places that their passwords come from: `--user`, which everybody can
//! read in a list of processes, and three that nobody can.
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::config::is_user_name;
use crate::os::system;

/// Lines `NAME:PASSWORD`; taken out of the environment once read.
const VARIABLE: &str = "THRIFTPD_USERS";

/// The name of the credential (systemd.exec(5), `LoadCredential=`).
const CREDENTIAL: &str = "thriftpd.users";

/// Who, with which password.
pub type User = (String, Zeroizing<String>);

/// All of them; of two with one name the first counts.
///
/// # Errors
/// What is wrong, and where; never a password.
pub fn gather(flags: &[String], file: Option<&Path>) -> Result<Vec<User>, String> {
    let mut users: Vec<User> = Vec::new();
    for flag in flags {
        let user = parse(flag).map_err(|what| format!("--user {what}"))?;
        users.push(user);
    }
    if let Some(file) = file {
        users.extend(lines(
            &private(file)?,
            &format!("--password-file {}", file.display()),
        )?);
    }
    if let Some(text) = system::take_variable(VARIABLE) {
        let text = text
            .into_string()
            .map_err(|_| format!("{VARIABLE}: not UTF-8"))?;
        users.extend(lines(&Zeroizing::new(text), VARIABLE)?);
    }
    if let Some(directory) = std::env::var_os("CREDENTIALS_DIRECTORY") {
        let file = PathBuf::from(directory).join(CREDENTIAL);
        match fs::read_to_string(&file).map(Zeroizing::new) {
            Ok(text) => users.extend(lines(&text, &file.display().to_string())?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{}: {error}", file.display())),
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    users.retain(|(name, _)| seen.insert(name.clone()));
    Ok(users)
}

/// The contents of a file that nobody else can read.
fn private(file: &Path) -> Result<Zeroizing<String>, String> {
    let shown = file.display();
    let failed = |error: io::Error| format!("--password-file {shown}: {error}");
    // One descriptor: what is looked at is what is read.
    let opened = fs::File::open(file).map_err(failed)?;
    let mode = opened.metadata().map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(format!(
            "--password-file {shown}: others can read it; make it yours alone with `chmod 600 {shown}`"
        ));
    }
    io::read_to_string(opened)
        .map(Zeroizing::new)
        .map_err(failed)
}

fn lines(text: &str, place: &str) -> Result<Vec<User>, String> {
    let mut users = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let user = parse(line).map_err(|what| format!("{place}, line {}: {what}", number + 1))?;
        users.push(user);
    }
    Ok(users)
}

fn parse(text: &str) -> Result<User, String> {
    let Some((name, password)) = text.split_once(':').filter(|(name, _)| is_user_name(name)) else {
        return Err("takes NAME:PASSWORD, the name without spaces".into());
    };
    if password.is_empty() {
        return Err(format!("{name}: the password is empty"));
    }
    Ok((name.to_owned(), Zeroizing::new(password.to_owned())))
}
