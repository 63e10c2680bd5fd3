//! `thriftpd user`: the users in a configuration file. The file is edited as text a person wrote: comments and order
//! stay; it is replaced as a whole or not at all.
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use argh::FromArgs;
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, value};
use zeroize::Zeroizing;

use super::Outcome;
use crate::accounts::Password;
use crate::config::{Config, is_user_name};
use crate::storage::Permissions;

/// edit the users in a configuration file
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "user")]
pub struct UserArguments {
    #[argh(subcommand)]
    command: UserCommand,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
enum UserCommand {
    Add(Add),
    Passwd(Passwd),
    Remove(Remove),
    List(List),
}

/// add a user; the password is asked for, or read from standard input
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "add")]
struct Add {
    /// the user's name
    #[argh(positional)]
    name: String,
    /// the user's root directory
    #[argh(option, arg_name = "dir")]
    root: PathBuf,
    /// read-only, read-write, upload-only or add-only (default: read-write)
    #[argh(option, arg_name = "preset")]
    access: Option<String>,
    /// the configuration file; made where it is missing
    #[argh(option, arg_name = "file")]
    config: PathBuf,
}

/// set a user's password
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "passwd")]
struct Passwd {
    /// the user's name
    #[argh(positional)]
    name: String,
    /// the configuration file
    #[argh(option, arg_name = "file")]
    config: PathBuf,
}

/// remove a user; files are left alone
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "remove")]
struct Remove {
    /// the user's name
    #[argh(positional)]
    name: String,
    /// the configuration file
    #[argh(option, arg_name = "file")]
    config: PathBuf,
}

/// list the users
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "list")]
struct List {
    /// the configuration file
    #[argh(option, arg_name = "file")]
    config: PathBuf,
}

/// # Errors
/// What could not be done; the file is as before then.
pub fn run(arguments: UserArguments) -> Outcome {
    match arguments.command {
        UserCommand::Add(arguments) => add(&arguments),
        UserCommand::Passwd(arguments) => passwd(&arguments),
        UserCommand::Remove(arguments) => remove(&arguments),
        UserCommand::List(arguments) => list(&arguments),
    }
}

fn add(arguments: &Add) -> Outcome {
    let name = &arguments.name;
    if !is_user_name(name) {
        return Err(format!(
            "{name:?} cannot be a user's name: no spaces, colons or control characters, at most 64 bytes"
        ));
    }
    if let Some(access) = arguments
        .access
        .as_deref()
        .filter(|access| Permissions::preset(access).is_none())
    {
        let known = Permissions::PRESETS.map(|(name, _)| name).join(", ");
        return Err(format!(
            "there is no access {access:?}; expected one of {known}"
        ));
    }
    let mut document = read(&arguments.config, true)?;
    if position(&mut document, &arguments.config, name)?.is_some() {
        return Err(format!(
            "{name} exists already in {}",
            arguments.config.display()
        ));
    }
    let root = std::path::absolute(&arguments.root)
        .map_err(|error| format!("{}: {error}", arguments.root.display()))?;
    let Some(root) = root.to_str() else {
        return Err("the root's path is not UTF-8, as TOML wants it".into());
    };
    let mut user = Table::new();
    user["name"] = value(name.as_str());
    user["password"] = value(ask_for_password(name)?.to_phc());
    user["root"] = value(root);
    if let Some(access) = &arguments.access {
        user["access"] = value(access.as_str());
    }
    users(&mut document, &arguments.config)?.push(user);
    replace(&arguments.config, &document)?;
    println!("added {name} to {}", arguments.config.display());
    if !Path::new(root).is_dir() {
        println!("note: {root} is not there yet; make it before the server starts");
    }
    Ok(())
}

fn passwd(arguments: &Passwd) -> Outcome {
    let (name, file) = (&arguments.name, &arguments.config);
    let mut document = read(file, false)?;
    let index = position(&mut document, file, name)?.ok_or_else(|| unknown(name, file))?;
    let password = ask_for_password(name)?;
    if let Some(user) = users(&mut document, file)?.get_mut(index) {
        user["password"] = value(password.to_phc());
    }
    replace(file, &document)?;
    println!("the password of {name} is set in {}", file.display());
    Ok(())
}

fn remove(arguments: &Remove) -> Outcome {
    let (name, file) = (&arguments.name, &arguments.config);
    let mut document = read(file, false)?;
    let index = position(&mut document, file, name)?.ok_or_else(|| unknown(name, file))?;
    users(&mut document, file)?.remove(index);
    replace(file, &document)?;
    println!("removed {name} from {}; the files stay", file.display());
    Ok(())
}

fn list(arguments: &List) -> Outcome {
    let config = Config::load(&arguments.config).map_err(|error| error.to_string())?;
    for account in config.accounts.iter() {
        println!("{}\t{}", account.name, account.view.root.display());
    }
    Ok(())
}

fn unknown(name: &str, file: &Path) -> String {
    format!(
        "there is no user {name} in {}; `thriftpd user list` shows them",
        file.display()
    )
}

fn read(file: &Path, may_be_missing: bool) -> Result<DocumentMut, String> {
    let text = match fs::read_to_string(file) {
        Err(error) if may_be_missing && error.kind() == io::ErrorKind::NotFound => String::new(),
        other => other.map_err(|error| format!("{}: {error}", file.display()))?,
    };
    text.parse()
        .map_err(|error| format!("{}: {error}", file.display()))
}

fn users<'a>(document: &'a mut DocumentMut, file: &Path) -> Result<&'a mut ArrayOfTables, String> {
    document
        .entry("user")
        .or_insert(Item::ArrayOfTables(ArrayOfTables::new()))
        .as_array_of_tables_mut()
        .ok_or_else(|| {
            format!(
                "{}: `user` must be written as [[user]] tables",
                file.display()
            )
        })
}

fn position(document: &mut DocumentMut, file: &Path, name: &str) -> Result<Option<usize>, String> {
    let is_it = |user: &Table| user.get("name").and_then(Item::as_str) == Some(name);
    Ok(users(document, file)?.iter().position(is_it))
}

/// Asks twice without echo on a terminal; else takes one line.
fn ask_for_password(name: &str) -> Result<Password, String> {
    let failed = |error: io::Error| format!("cannot read the password: {error}");
    let password = if io::stdin().is_terminal() {
        let first = Zeroizing::new(
            rpassword::prompt_password(format!("Password for {name}: ")).map_err(failed)?,
        );
        let second = Zeroizing::new(rpassword::prompt_password("Again: ").map_err(failed)?);
        if first != second {
            return Err("the two passwords differ; nothing was changed".into());
        }
        first
    } else {
        let mut line = Zeroizing::new(String::new());
        io::stdin().lock().read_line(&mut line).map_err(failed)?;
        Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned())
    };
    if password.is_empty() {
        return Err("the password is empty; nothing was changed".into());
    }
    Password::from_clear(&password)
        .map_err(|_| "the password cannot be hashed: no randomness".into())
}

/// Replaces the file in one step, once the new text is on the disk and known to be valid. Mode and owner stay; a new
/// file is for its owner only, for it holds hashes.
fn replace(file: &Path, document: &DocumentMut) -> Outcome {
    let text = document.to_string();
    Config::parse(file, &text)
        .map_err(|error| format!("nothing was changed, for the file would be refused: {error}"))?;
    // A link stays a link: what it leads to is replaced.
    let target = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let aside = target.with_extension(format!("{}.new", std::process::id()));
    let result = write_aside(&target, &aside, &text).and_then(|()| fs::rename(&aside, &target));
    let result = result.and_then(|()| {
        let directory = target
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    });
    if result.is_err() {
        let _ = fs::remove_file(&aside);
    }
    result.map_err(|error| format!("{}: cannot be written: {error}", file.display()))
}

fn write_aside(target: &Path, aside: &Path, text: &str) -> io::Result<()> {
    let mut new = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(aside)?;
    if let Ok(old) = fs::metadata(target) {
        new.set_permissions(fs::Permissions::from_mode(old.mode() & 0o777))?;
        // Who is not root can own it only themselves, which is what it is then.
        let _ = chown(aside, Some(old.uid()), Some(old.gid()));
    }
    new.write_all(text.as_bytes())?;
    new.sync_all()
}
