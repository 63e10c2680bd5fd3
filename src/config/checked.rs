//! From what the file says to what it means. Whatever cannot be is refused with line, key and what was expected.
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_spanned::Spanned;

use super::error::ConfigError;
use super::file::{File, Folder, OneOrByNetwork, Seconds, User};
use super::values::{
    is_user_name, parse_group, parse_host, parse_level, parse_listen, parse_mode, parse_ports,
    parse_switch, seconds,
};
use super::{Config, Defaults, ExternalAddress, Timeouts};
use crate::accounts::{Account, Accounts, Password};
use crate::storage::{
    FolderSpec, Metered, Modes, Permission, Permissions, Rules, ViewSpec, VirtualPath,
};

/// Times that make sense, in seconds.
const TIMES: RangeInclusive<u64> = 1..=24 * 3600;

pub fn check(path: &Path, text: &str) -> Result<Config, ConfigError> {
    let file: File =
        toml_edit::de::from_str(text).map_err(|error| ConfigError::of_toml(path, text, &error))?;
    Checker { path, text }.file(&file)
}

/// Knows where it reads, for the errors.
pub struct Checker<'a> {
    path: &'a Path,
    text: &'a str,
}

pub type Checked<T> = Result<T, ConfigError>;

impl Checker<'_> {
    pub fn wrong<T>(&self, span: &Range<usize>, key: &str, what: impl Into<String>) -> Checked<T> {
        Err(ConfigError::at(self.path, self.text, span, key, what))
    }

    fn file(&self, file: &File) -> Checked<Config> {
        let default = Config::default();
        let mut listen = Vec::new();
        for address in &file.listen {
            match parse_listen(address.get_ref()) {
                Ok(address) => listen.push(address),
                Err(what) => return self.wrong(&address.span(), "listen", what),
            }
        }
        let modes = self.modes(
            Modes::default(),
            [&file.umask, &file.file_mode, &file.directory_mode],
            &file.group,
        )?;
        let defaults = Defaults {
            modes,
            rules: self.rules_of_all(file)?,
            durable: file.durable.unwrap_or(true),
            checksums: file.checksums.unwrap_or(false),
            min_free: self.min_free(file)?,
            on_upload: self.program(&file.on_upload, &file.on_upload_timeout)?,
        };
        let mut users: Vec<Account> = Vec::new();
        for user in &file.user {
            let account = self.user(user, file, &defaults)?;
            if users.iter().any(|other| other.name == account.name) {
                return self.wrong(
                    &user.span(),
                    "name",
                    format!("there are two users {}", account.name),
                );
            }
            users.push(account);
        }
        let anonymous = file
            .anonymous
            .as_ref()
            .map(|user| self.anonymous(user, file, &defaults))
            .transpose()?;
        let tls = self.tls(&file.tls)?;
        for user in &file.user {
            if let (Some(certificate), None) = (&user.get_ref().certificate, &tls.service.client_ca)
            {
                return self.wrong(
                    &certificate.span(),
                    "certificate",
                    "no certificate of a client is believed without `client_ca` in [tls]",
                );
            }
        }
        let banner = match &file.banner {
            Some(banner) if banner.get_ref().chars().any(char::is_control) => {
                return self.wrong(
                    &banner.span(),
                    "banner",
                    "must be one line without control characters",
                );
            }
            banner => banner
                .as_ref()
                .map_or(default.banner, |banner| banner.get_ref().clone()),
        };
        Ok(Config {
            listen,
            sessions: self
                .count("sessions", &file.sessions)?
                .unwrap_or(default.sessions),
            sessions_per_ip: self
                .count("sessions_per_ip", &file.sessions_per_ip)?
                .unwrap_or(default.sessions_per_ip),
            sessions_per_user: self.count("sessions_per_user", &file.sessions_per_user)?,
            passive_ports: self
                .parsed("passive_ports", &file.passive_ports, parse_ports)?
                .unwrap_or(default.passive_ports),
            external_address: self.external_address(&file.external_address)?,
            active_from_port_20: file.active_from_port_20,
            run_as: file.run_as.clone(),
            sandbox: self
                .parsed("sandbox", &file.sandbox, parse_switch)?
                .unwrap_or(default.sandbox),
            banner,
            timeouts: self.timeouts(&file.timeouts)?,
            login_attempts: self
                .count("login_attempts", &file.login_attempts)?
                .and_then(|count| u32::try_from(count).ok())
                .unwrap_or(default.login_attempts),
            xferlog: file.xferlog.as_ref().map(|path| self.beside(path)),
            log: self
                .parsed("log", &file.log, parse_level)?
                .unwrap_or(default.log),
            tls,
            keep_partial: self.keep_partial(&file.keep_partial)?,
            on_upload_at_once: self
                .count("on_upload_at_once", &file.on_upload_at_once)?
                .unwrap_or(default.on_upload_at_once),
            defaults,
            abuse: self.abuse(file)?,
            accounts: Accounts::new(users, anonymous),
        })
    }

    pub fn parsed<T>(
        &self,
        key: &str,
        value: &Option<Spanned<String>>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Checked<Option<T>> {
        let Some(value) = value else { return Ok(None) };
        match parse(value.get_ref()) {
            Ok(parsed) => Ok(Some(parsed)),
            Err(what) => self.wrong(&value.span(), key, what),
        }
    }

    fn external_address(
        &self,
        value: &Option<Spanned<OneOrByNetwork>>,
    ) -> Checked<ExternalAddress> {
        let Some(value) = value else {
            return Ok(ExternalAddress::default());
        };
        let mut checked = ExternalAddress::default();
        let wrong = |what: String| self.wrong(&value.span(), "external_address", what);
        match value.get_ref() {
            OneOrByNetwork::One(address) => match parse_host(address) {
                Ok(address) => checked.default = Some(address),
                Err(what) => return wrong(what),
            },
            OneOrByNetwork::ByNetwork(table) => {
                for (network, address) in table {
                    let address = match parse_host(address) {
                        Ok(address) => address,
                        Err(what) => return wrong(format!("{network}: {what}")),
                    };
                    if network == "default" {
                        checked.default = Some(address);
                        continue;
                    }
                    match network.parse() {
                        Ok(network) => checked.by_network.push((network, address)),
                        Err(what) => return wrong(what),
                    }
                }
            }
        }
        Ok(checked)
    }

    fn keep_partial(&self, value: &Option<Spanned<Seconds>>) -> Checked<Duration> {
        let Some(value) = value else {
            return Ok(Config::default().keep_partial);
        };
        match seconds(value.get_ref()).filter(|seconds| *seconds > 0) {
            Some(seconds) => Ok(Duration::from_secs(seconds)),
            None => self.wrong(
                &value.span(),
                "keep_partial",
                "expected a time such as \"7d\" or \"12h\"",
            ),
        }
    }

    fn count(&self, key: &str, value: &Option<Spanned<i64>>) -> Checked<Option<usize>> {
        let Some(value) = value else { return Ok(None) };
        match usize::try_from(*value.get_ref()) {
            Ok(count @ 1..=100_000) => Ok(Some(count)),
            _ => self.wrong(&value.span(), key, "expected a number from 1 to 100000"),
        }
    }

    fn timeouts(&self, file: &super::file::Timeouts) -> Checked<Timeouts> {
        let default = Timeouts::default();
        let time = |key: &str, value: &Option<Spanned<Seconds>>, default: Duration| {
            let Some(value) = value else {
                return Ok(default);
            };
            match seconds(value.get_ref()).filter(|seconds| TIMES.contains(seconds)) {
                Some(seconds) => Ok(Duration::from_secs(seconds)),
                None => self.wrong(
                    &value.span(),
                    key,
                    "expected a time from \"1s\" to \"24h\", such as \"90s\" or \"15m\"",
                ),
            }
        };
        Ok(Timeouts {
            idle: time("idle", &file.idle, default.idle)?,
            login: time("login", &file.login, default.login)?,
            data_connect: time("data_connect", &file.data_connect, default.data_connect)?,
            stalled: time("stalled", &file.stalled, default.stalled)?,
            shutdown_grace: time(
                "shutdown_grace",
                &file.shutdown_grace,
                default.shutdown_grace,
            )?,
        })
    }

    fn modes(
        &self,
        default: Modes,
        [umask, file, directory]: [&Option<Spanned<String>>; 3],
        group: &Option<Spanned<String>>,
    ) -> Checked<Modes> {
        Ok(Modes {
            umask: self
                .parsed("umask", umask, parse_mode)?
                .unwrap_or(default.umask),
            file: self
                .parsed("file_mode", file, parse_mode)?
                .unwrap_or(default.file),
            directory: self
                .parsed("directory_mode", directory, parse_mode)?
                .unwrap_or(default.directory),
            group: self.parsed("group", group, parse_group)?.or(default.group),
        })
    }

    fn user(&self, user: &Spanned<User>, file: &File, defaults: &Defaults) -> Checked<Account> {
        let Some(name) = &user.get_ref().name else {
            return self.wrong(&user.span(), "name", "every [[user]] needs a name");
        };
        if !is_user_name(name.get_ref()) {
            return self.wrong(
                &name.span(),
                "name",
                "expected 1 to 64 characters without spaces, colons and control characters",
            );
        }
        let password = self.password(user, name.get_ref())?;
        self.account(user, name.get_ref().clone(), password, file, defaults)
    }

    /// A user whose certificate is asked for needs no password.
    fn password(&self, user: &Spanned<User>, name: &str) -> Checked<Password> {
        let set_it = format!(
            "set it with `thriftpd user passwd {name} --config {}`",
            self.path.display()
        );
        match (&user.get_ref().password, &user.get_ref().certificate) {
            (Some(password), _) => match Password::from_hash(password.get_ref()) {
                Ok(hash) => Ok(hash),
                Err(_) => self.wrong(
                    &password.span(),
                    "password",
                    format!("expected an argon2id hash ($argon2id$...), never the password itself; {set_it}"),
                ),
            },
            (None, Some(_)) => Ok(Password::none()),
            (None, None) => self.wrong(
                &user.span(),
                "password",
                format!("user {name} has none; {set_it}"),
            ),
        }
    }

    fn anonymous(
        &self,
        user: &Spanned<User>,
        file: &File,
        defaults: &Defaults,
    ) -> Checked<Account> {
        for (key, value) in [
            ("name", &user.get_ref().name),
            ("password", &user.get_ref().password),
            ("certificate", &user.get_ref().certificate),
        ] {
            if let Some(value) = value {
                return self.wrong(&value.span(), key, "[anonymous] has no such key");
            }
        }
        let read_only = Defaults {
            rules: Rules {
                permissions: Permissions::READ_ONLY,
                ..defaults.rules
            },
            on_upload: defaults.on_upload.clone(),
            ..*defaults
        };
        self.account(user, "anonymous".into(), Password::none(), file, &read_only)
    }

    fn account(
        &self,
        spanned: &Spanned<User>,
        name: String,
        password: Password,
        file: &File,
        defaults: &Defaults,
    ) -> Checked<Account> {
        let user = spanned.get_ref();
        let Some(root) = &user.root else {
            return self.wrong(
                &spanned.span(),
                "root",
                format!("{name} needs a root directory"),
            );
        };
        let rules = self.rules_of_user(user, &defaults.rules)?;
        let mut folders: Vec<FolderSpec> = Vec::new();
        for folder in &user.folder {
            let spec = self.folder(folder.get_ref(), &rules)?;
            if folders.iter().any(|other| other.path == spec.path) {
                return self.wrong(
                    &folder.get_ref().path.span(),
                    "path",
                    "there are two folders at this path",
                );
            }
            folders.push(spec);
        }
        let view = ViewSpec {
            root: self.root(root)?,
            rules,
            folders,
            modes: self.modes(
                defaults.modes,
                [&user.umask, &user.file_mode, &user.directory_mode],
                &user.group,
            )?,
            durable: user.durable.unwrap_or(defaults.durable),
            checksums: user.checksums.unwrap_or(defaults.checksums),
            min_free: defaults.min_free,
            metered: Metered {
                limit: self.quota(user)?,
                ..Metered::default()
            },
        };
        let [rates, session_rates] = self.rates_of_user(user)?;
        Ok(Account {
            reach: self.reach_of_user(user)?,
            rates,
            session_rates,
            sessions: self.count("sessions", &user.sessions)?,
            fxp: user.fxp,
            strict_allo: user.strict_allo,
            accept_hangup: user.accept_hangup,
            accept_missing_close_notify: user.accept_missing_close_notify,
            data_from: self
                .networks("data_from", &user.data_from)?
                .unwrap_or_default(),
            require_tls: user.require_tls,
            certificate: user.certificate.as_ref().map(|name| name.get_ref().clone()),
            system_user: user.system_user.as_ref().map(|name| name.get_ref().clone()),
            expect_every: self.long_time("expect_every", &user.expect_every)?,
            on_upload: self
                .program(&user.on_upload, &file.on_upload_timeout)?
                .or_else(|| defaults.on_upload.clone()),
            ..Account::new(name, password, view)
        })
    }

    /// What a folder does not say is as it is for the user, but for the access.
    fn folder(&self, folder: &Folder, of_user: &Rules) -> Checked<FolderSpec> {
        let typed = folder.path.get_ref();
        let path = VirtualPath::root()
            .join(typed.as_bytes())
            .ok()
            .filter(|path| path.file_name().is_some());
        let Some(path) = path.filter(|_| typed.starts_with('/')) else {
            return self.wrong(
                &folder.path.span(),
                "path",
                "expected a path such as \"/photos\"",
            );
        };
        let default = Rules {
            permissions: Permissions::ALL,
            ..(*of_user)
        };
        Ok(FolderSpec {
            path,
            root: self.root(&folder.root)?,
            rules: self.rules_of_folder(folder, &default)?,
        })
    }

    pub fn permissions(
        &self,
        access: &Option<Spanned<String>>,
        list: &Option<Spanned<Vec<Spanned<String>>>>,
        default: Permissions,
    ) -> Checked<Permissions> {
        match (access, list) {
            (Some(access), Some(_)) => self.wrong(
                &access.span(),
                "access",
                "give either access or permissions, not both",
            ),
            (Some(access), None) => self.access(access),
            (None, Some(list)) => {
                let mut permissions = Permissions::NONE;
                for name in list.get_ref() {
                    let Some(permission) = Permission::named(name.get_ref()) else {
                        let known = Permission::ALL.map(Permission::name).join(", ");
                        return self.wrong(
                            &name.span(),
                            "permissions",
                            format!("expected some of {known}"),
                        );
                    };
                    permissions = permissions.with(permission);
                }
                Ok(permissions)
            }
            (None, None) => Ok(default),
        }
    }

    fn access(&self, access: &Spanned<String>) -> Checked<Permissions> {
        // What people write before they have read of the presets.
        let preset = match access.get_ref().as_str() {
            "read" => "read-only",
            "write" => "read-write",
            other => other,
        };
        let known = Permissions::PRESETS.map(|(name, _)| name).join(", ");
        match Permissions::preset(preset) {
            Some(permissions) => Ok(permissions),
            None => self.wrong(&access.span(), "access", format!("expected one of {known}")),
        }
    }

    fn root(&self, root: &Spanned<String>) -> Checked<PathBuf> {
        if root.get_ref().is_empty() {
            return self.wrong(&root.span(), "root", "expected a directory");
        }
        Ok(self.beside(root.get_ref()))
    }

    /// Relative paths start where the file lies, not where the server was started.
    pub fn beside(&self, path: &str) -> PathBuf {
        let directory = self
            .path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let joined = directory.unwrap_or(Path::new(".")).join(path);
        std::path::absolute(&joined).unwrap_or(joined)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(text: &str) -> Checked<Config> {
        check(Path::new("/etc/thriftpd/thriftpd.toml"), text)
    }

    fn refusal(text: &str) -> String {
        check_text(text).unwrap_err().to_string()
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        let config = check_text("").unwrap();
        assert_eq!(
            (
                config.sessions,
                config.sessions_per_ip,
                config.passive_ports.low
            ),
            (100, 32, 50_000)
        );
    }

    #[test]
    fn an_unknown_key_suggests_the_nearest() {
        let text = "sessions = 5\nsesions_per_ip = 1\n";
        assert!(refusal(text).starts_with("/etc/thriftpd/thriftpd.toml:2: `sesions_per_ip`: unknown key; did you mean `sessions_per_ip`?"));
        assert!(
            refusal("[timeouts]\nidel = 1\n")
                .contains(":2: `idel`: unknown key; did you mean `idle`?")
        );
        assert!(
            refusal("[[user]]\nname = \"a\"\nroto = 1\n")
                .contains(":3: `roto`: unknown key; did you mean `root`?")
        );
    }

    #[test]
    fn what_cannot_be_is_refused_with_line_and_key() {
        for (text, expected) in [
            ("sessions = 0", ":1: `sessions`: expected a number from 1"),
            ("\nsessions = \"many\"", ":2: `sessions`: invalid type"),
            (
                "passive_ports = \"50-60\"",
                ":1: `passive_ports`: expected two ports",
            ),
            ("passive_ports = \"6000-5000\"", "the lower one first"),
            (
                "listen = [\"[::]:2121\",\n \"nas.local:21\"]",
                ":2: `listen`: expected an address",
            ),
            (
                "external_address = \"nas example\"",
                "expected an IPv4 address or a host name",
            ),
            (
                "external_address = \"0.0.0.0\"",
                "expected the address of a host",
            ),
            (
                "external_address = { \"lan\" = \"192.168.1.10\" }",
                "expected a network",
            ),
            (
                "external_address = { default = \"1.2.3\" }",
                "default: expected an IPv4 address or a host name",
            ),
            ("log = \"loud\"", "`log`: expected one of off"),
            ("sandbox = \"of\"", "`sandbox`: expected \"on\" or \"off\""),
            ("umask = \"0999\"", "`umask`: expected an octal mode"),
            ("banner = \"a\\r\\n220 b\"", "`banner`: must be one line"),
            ("[timeouts]\nidle = \"0s\"", ":2: `idle`: expected a time"),
            (
                "[timeouts]\nlogin = \"2 days\"",
                ":2: `login`: expected a time",
            ),
            (
                "uploads = \"later\"",
                "`uploads`: expected \"atomic\" or \"direct\"",
            ),
            (
                "min_free = \"a lot\"",
                "`min_free`: expected a size such as",
            ),
            ("lock = \"-1d\"", "`lock`: expected a time"),
            ("versions = -1", "`versions`: expected a number from 0"),
            ("keep_days = 0", "`keep_days`: expected a number from 1"),
            (
                "uploads = \"direct\"\nlock = \"30d\"",
                ":2: `lock`: uploads = \"direct\" and a lock exclude each other",
            ),
            (
                "lock = \"30d\"\n[anonymous]\nroot = \"/srv\"\nuploads = \"direct\"",
                ":4: `uploads`: uploads = \"direct\" and a lock exclude",
            ),
            (
                "uploads = \"direct\"\n[anonymous]\nroot = \"/srv\"\n[[anonymous.folder]]\npath = \"/a\"\nroot = \"/x\"\nlock = 1",
                ":7: `lock`: uploads",
            ),
            ("keep_last = -1", "`keep_last`: expected a number from 0"),
            ("keep_free = \"100%\"", "`keep_free`: expected a part"),
            (
                "on_upload = [\"stored\"]",
                "`on_upload`: expected a program's absolute path",
            ),
            ("on_upload = []", "`on_upload`: expected a program's"),
            (
                "on_upload_timeout = \"0s\"",
                "`on_upload_timeout`: expected",
            ),
            (
                "[anonymous]\nroot = \"/srv\"\nquota = \"10 apples\"",
                ":3: `quota`: expected a size",
            ),
            (
                "[anonymous]\nroot = \"/srv\"\nexpect_every = \"soon\"",
                ":3: `expect_every`: expected a time",
            ),
            (
                "allow = [\"lan\", \"10.0.0.0/33\"]",
                ":1: `allow`: expected a network such as",
            ),
            (
                "deny = \"192.168.1.5/24\"",
                "has bits behind its prefix: 192.168.1.0/24 or",
            ),
            ("allow = 5", "`allow`: "),
            ("ban_for = 0", "`ban_for`: expected a time"),
            ("ban_after = -1", "`ban_after`: expected a number from 0"),
            ("rate_up = \"0\"", "`rate_up`: expected at least a byte"),
            (
                "sessions_before_login = 0",
                "`sessions_before_login`: expected a number from 1",
            ),
            (
                "[anonymous]\nroot = \"/srv\"\nsession_rate_down = \"fast\"",
                ":3: `session_rate_down`: expected a size",
            ),
            ("group = \"no-such-group-here\"", "there is no group"),
            (
                "[[user]]\nroot = \"/srv\"",
                "`name`: every [[user]] needs a name",
            ),
            ("[[user]]\nname = \"a b\"\nroot = \"/srv\"", ":2: `name`"),
            (
                "[[user]]\nname = \"a\"\nroot = \"/srv\"",
                "thriftpd user passwd a --config",
            ),
            (
                "[[user]]\nname = \"a\"\npassword = \"secret\"\nroot = \"/srv\"",
                ":3: `password`: expected an argon2id hash",
            ),
            (
                "[anonymous]\naccess = \"read-only\"",
                "needs a root directory",
            ),
            (
                "[anonymous]\nroot = \"/srv\"\nname = \"x\"",
                ":3: `name`: [anonymous] has no such key",
            ),
            (
                "[anonymous]\nroot = \"/srv\"\naccess = \"rw\"",
                "expected one of read-only, read-write",
            ),
            (
                "[anonymous]\nroot = \"/srv\"\npermissions = [\"fly\"]",
                "expected some of list, download",
            ),
            (
                "[anonymous]\nroot = \"/srv\"\naccess = \"read-only\"\npermissions = []",
                "not both",
            ),
            (
                "[anonymous]\nroot = \"/srv\"\n[[anonymous.folder]]\npath = \"/\"\nroot = \"/x\"",
                "expected a path such as",
            ),
            (
                "[anonymous]\nroot = \"/srv\"\n[[anonymous.folder]]\npath = \"/a\"\nroot = \"/x\"\n[[anonymous.folder]]\npath = \"/a/\"\nroot = \"/y\"",
                "two folders",
            ),
            ("sessions = ", ":1: "),
        ] {
            let refusal = refusal(text);
            assert!(refusal.contains(expected), "{text}\n-> {refusal}");
        }
    }

    #[test]
    fn folders_and_roots_are_read() {
        let config = check_text(
            "[anonymous]\nroot = \"pub\"\n[[anonymous.folder]]\npath = \"/a/b\"\nroot = \"/mnt/b\"\naccess = \"read\"\n",
        )
        .unwrap();
        let view = &config.accounts.anonymous().unwrap().view;
        assert_eq!(view.root, Path::new("/etc/thriftpd/pub"));
        assert_eq!(view.folders[0].rules.permissions, Permissions::READ_ONLY);
        assert_eq!(view.rules.permissions, Permissions::READ_ONLY);
    }

    #[test]
    fn uploads_in_place_are_possible_where_the_lock_is_lifted() {
        let text = "lock = \"30d\"\n[anonymous]\nroot = \"/srv\"\n[[anonymous.folder]]\npath = \"/a\"\nroot = \"/x\"\nlock = 0\nuploads = \"direct\"\n";
        let config = check_text(text).unwrap();
        let folder = &config.accounts.anonymous().unwrap().view.folders[0];
        assert_eq!(folder.rules.lock, None);
    }

    #[test]
    fn what_a_folder_does_not_say_is_as_for_its_user_and_the_server() {
        let config = check_text(
            "lock = \"30d\"\nversions = 3\nkeep_free = \"10%\"\n[anonymous]\nroot = \"pub\"\nversions = 2\n\
             quota = \"1MB\"\n[[anonymous.folder]]\npath = \"/a\"\nroot = \"/mnt/b\"\nlock = 0\nrequire_mount = true\n",
        )
        .unwrap();
        let view = &config.accounts.anonymous().unwrap().view;
        let (rules, folder) = (&view.rules, &view.folders[0].rules);
        assert_eq!((rules.versions, folder.versions), (2, 2));
        assert_eq!(rules.lock, Some(Duration::from_secs(30 * 24 * 3600)));
        assert_eq!((folder.lock, folder.permissions), (None, Permissions::ALL));
        assert!(folder.require_mount && !rules.require_mount);
        assert_eq!(folder.expiry.free.unwrap().of(1000), 100);
        assert_eq!(view.metered.limit.bytes, Some(1_000_000));
    }
}
