//! The first start without a configuration: where files of ours lie, and the one user with a password made up.
use std::env;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::accounts::random_password;

/// The user that is made up.
const NAME: &str = "backup";

/// Where the configuration and what belongs to it lie: beside the file that was named; else /etc/thriftpd for root,
/// `$XDG_CONFIG_HOME/thriftpd` or `~/.config/thriftpd` for others, and the working directory for who has no home.
pub fn directory(file: Option<&Path>, is_root: bool) -> PathBuf {
    if let Some(parent) = file.and_then(Path::parent) {
        return if parent.as_os_str().is_empty() {
            PathBuf::from(".")
        } else {
            parent.to_owned()
        };
    }
    if is_root {
        return PathBuf::from("/etc/thriftpd");
    }
    let from = |name: &str| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let configuration =
        from("XDG_CONFIG_HOME").or_else(|| from("HOME").map(|home| home.join(".config")));
    configuration
        .unwrap_or_else(|| PathBuf::from("."))
        .join("thriftpd")
}

/// The made-up user.
#[derive(Debug)]
pub struct FirstUser {
    pub name: &'static str,
    pub password: Zeroizing<String>,
    /// Where the password is kept, readable by its owner only.
    pub kept_in: PathBuf,
    /// It was made just now.
    pub is_new: bool,
}

/// The user `backup`: reads the password kept in the directory, or makes one up at the first start.
///
/// # Errors
/// When the file can be neither read nor made; each error names it.
pub fn first_user(directory: &Path) -> io::Result<FirstUser> {
    let kept_in = directory.join(format!("{NAME}.password"));
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", kept_in.display()));
    match read(&kept_in) {
        Ok(password) => Ok(FirstUser {
            name: NAME,
            password,
            kept_in,
            is_new: false,
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let password = make(directory, &kept_in).map_err(named)?;
            Ok(FirstUser {
                name: NAME,
                password,
                kept_in,
                is_new: true,
            })
        }
        Err(error) => Err(named(error)),
    }
}

fn read(path: &Path) -> io::Result<Zeroizing<String>> {
    let text = Zeroizing::new(fs::read_to_string(path)?);
    let password = text.lines().next().unwrap_or_default();
    if password.is_empty() {
        return Err(io::Error::other(
            "is empty; write a password into it, or remove it for a new one",
        ));
    }
    if fs::metadata(path)?.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        log::warn!(
            "{} could be read by others; its mode is 0600 again",
            path.display()
        );
    }
    Ok(Zeroizing::new(password.to_owned()))
}

/// Written aside and linked into place, so that a start cut off half-way leaves no half a password.
fn make(directory: &Path, path: &Path) -> io::Result<Zeroizing<String>> {
    DirBuilder::new()
        .recursive(true)
        // Others may pass through it, not look around: the server reads its certificate after it gave up root.
        .mode(0o711)
        .create(directory)?;
    let password = random_password().map_err(|error| io::Error::other(error.to_string()))?;
    let aside = path.with_extension(format!("password.{}", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&aside)
        .and_then(|mut file| {
            writeln!(file, "{}", password.as_str())?;
            file.sync_all()
        });
    let placed = written.and_then(|()| fs::rename(&aside, path));
    if placed.is_err() {
        let _ = fs::remove_file(&aside);
    }
    placed.map(|()| password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_made_once_and_kept_from_others() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("new");
        let first = first_user(&directory).unwrap();
        assert!(first.is_new);
        assert_eq!(
            fs::metadata(&first.kept_in).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::set_permissions(&first.kept_in, fs::Permissions::from_mode(0o644)).unwrap();
        let again = first_user(&directory).unwrap();
        assert!(!again.is_new && again.password == first.password);
        assert_eq!(
            fs::metadata(&first.kept_in).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::write(&first.kept_in, "\n").unwrap();
        assert!(
            first_user(&directory)
                .unwrap_err()
                .to_string()
                .contains("backup.password: is empty")
        );
    }

    #[test]
    fn a_named_file_decides_the_directory() {
        assert_eq!(
            directory(Some(Path::new("/a/b.toml")), true),
            Path::new("/a")
        );
        assert_eq!(directory(Some(Path::new("b.toml")), false), Path::new("."));
        assert_eq!(directory(None, true), Path::new("/etc/thriftpd"));
    }
}
