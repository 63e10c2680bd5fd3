//! The real binary on a port of its own, with a directory of its own, ended whatever happens to the test.

use super::{Client, PATIENCE, eventually, skip};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The user that every server has unless a configuration says otherwise.
pub const USER: &str = "t";
/// That user's password.
pub const PASSWORD: &str = "pw";

/// No test needs its server for longer; one that does hangs.
const WATCHDOG: Duration = Duration::from_secs(120);

/// Whether the tests run as root, who may mount and bind low ports.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A server to be: what it is told on the command line and in its configuration file.
#[derive(Clone)]
pub struct Builder {
    home: Arc<TempDir>,
    root: PathBuf,
    listen: Vec<String>,
    arguments: Vec<String>,
    configuration: Option<String>,
    flag_user: bool,
    environment: Vec<(String, String)>,
    mounts: Vec<(PathBuf, String)>,
    under: Vec<String>,
}

impl Builder {
    fn new() -> Self {
        let home = tempfile::Builder::new()
            .prefix("thriftpd-test-")
            .tempdir()
            .unwrap();
        let root = home.path().join("root");
        std::fs::create_dir(&root).unwrap();
        Self {
            home: Arc::new(home),
            root,
            listen: Vec::new(),
            arguments: Vec::new(),
            configuration: None,
            flag_user: false,
            environment: Vec::new(),
            mounts: Vec::new(),
            under: Vec::new(),
        }
    }

    /// Has this program with these arguments start the server, whose place it leaves to it: what is started is the server.
    pub fn under(mut self, program: &[&str]) -> Self {
        self.under = program.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Serves what lies at this place of the host under this name too, read-only. It is mounted where the server alone
    /// sees it (mount_namespaces(7)) and gone with it; takes root.
    pub fn mounting(mut self, what: &str, name: &str) -> Self {
        self.mounts.push((what.into(), name.to_owned()));
        self
    }

    /// Adds arguments behind `serve`; `{root}` and `{home}` stand for the directories.
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// Listens here instead of on an IPv4 loopback port; may be given several times.
    pub fn listen(mut self, address: &str) -> Self {
        self.listen.push(address.to_owned());
        self
    }

    /// Takes the users from this file instead of the command line; `{root}` and `{home}` stand for the directories.
    pub fn configuration(mut self, toml: &str) -> Self {
        self.configuration = Some(toml.to_owned());
        self
    }

    /// Lets everybody in to read and write the served directory, as [`Server::visitor`] does it, with these keys of theirs.
    pub fn anonymous(self, keys: &str) -> Self {
        self.configuration(&format!(
            "[anonymous]\nroot = \"{{root}}\"\naccess = \"read-write\"\n{keys}\n"
        ))
    }

    /// Lets the usual user read and write the served directory, with these keys of theirs: as [`Self::anonymous`], where the log is
    /// to have a line for each thing that is done.
    pub fn user(self, keys: &str) -> Self {
        let password = thriftpd::accounts::Password::from_clear(PASSWORD).unwrap();
        self.configuration(&format!(
            "[[user]]\nname = \"{USER}\"\npassword = \"{}\"\nroot = \"{{root}}\"\n{keys}\n",
            password.to_phc()
        ))
    }

    /// With a configuration: takes the usual user and directory from the command line all the same.
    pub fn with_flag_user(mut self) -> Self {
        self.flag_user = true;
        self
    }

    /// Sets a variable of the server's environment.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Puts keys of the server in front of what its configuration says; without one the users are those of the command line.
    pub fn keys(mut self, toml: &str) -> Self {
        self.flag_user |= self.configuration.is_none();
        let rest = self.configuration.take().unwrap_or_default();
        self.configuration = Some(format!("{toml}{rest}"));
        self
    }

    /// The served directory, to be filled before the start.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Serves this directory instead of the server's own.
    pub fn serving(mut self, root: &Path) -> Self {
        self.root = root.to_owned();
        self
    }

    fn filled_in(&self, text: &str) -> String {
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        text.replace("{root}", &path(&self.root))
            .replace("{home}", &path(self.home.path()))
    }

    /// The server's program, alone with its mounts where it has some.
    fn program(&self) -> Command {
        let program = env!("CARGO_BIN_EXE_thriftpd");
        if let [other, arguments @ ..] = &self.under[..] {
            let mut command = Command::new(other);
            command.args(arguments).arg(program);
            return command;
        }
        if self.mounts.is_empty() {
            return Command::new(program);
        }
        let mut script = String::new();
        for (what, name) in &self.mounts {
            let at = self.root.join(name);
            std::fs::create_dir_all(&at).unwrap();
            let (what, at) = (what.display(), at.display());
            script +=
                &format!("mount --bind '{what}' '{at}' && mount -o remount,bind,ro '{at}' && ");
        }
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c"]);
        command.arg(script + "exec \"$@\"").args(["sh", program]);
        command
    }

    fn command(&self) -> Command {
        let mut command = self.program();
        command.arg("serve");
        if self.configuration.is_none() || self.flag_user {
            let user = format!("{USER}:{PASSWORD}");
            command.arg(&self.root).args(["--user", &user]);
        }
        // Even where nothing is configured: what the server keeps lies beside the file, and never in /etc.
        if !self.arguments.iter().any(|argument| argument == "--config") {
            let file = self.home.path().join("thriftpd.toml");
            let toml = self.configuration.as_deref().unwrap_or_default();
            std::fs::write(&file, self.filled_in(toml)).unwrap();
            command.arg("--config").arg(file);
        }
        let own = ["127.0.0.1:0".to_owned()];
        for address in if self.listen.is_empty() {
            &own[..]
        } else {
            &self.listen
        } {
            command.args(["--listen", address]);
        }
        command.args(
            self.arguments
                .iter()
                .map(|argument| self.filled_in(argument)),
        );
        command
            .env("HOME", self.home.path())
            .env("XDG_CONFIG_HOME", self.home.path())
            // A system call that the sandbox does not know ends the server, and the test.
            .env("THRIFTPD_SECCOMP", "kill")
            .envs(self.environment.iter().cloned())
            .env_remove("RUST_LOG")
            .env_remove("JOURNAL_STREAM")
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    /// Starts it and waits until it listens on every address.
    #[track_caller]
    pub fn start(self) -> Server {
        let listeners = self.listen.len().max(1);
        let mut server = self.start_without_waiting();
        eventually("the server listens", || {
            server.log.tells_of_sandbox() || server.log.ended.load(Ordering::SeqCst)
        });
        let addresses = server.log.addresses();
        assert!(
            addresses.len() >= listeners,
            "the server did not start:\n{}",
            server.log_text()
        );
        server.addresses = addresses;
        server
    }

    /// Starts it, to see how it ends.
    pub fn start_without_waiting(self) -> Server {
        let mut child = self.command().spawn().unwrap();
        let log = Arc::new(Log::default());
        let stderr = child.stderr.take().unwrap();
        let lines = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n') {
                let Ok(line) = line else { break };
                lines.push(String::from_utf8_lossy(&line).into_owned());
            }
            lines.ended.store(true, Ordering::SeqCst);
            lines.arrived.notify_all();
        });
        let process = Arc::new(Process {
            pid: Pid::from_raw(i32::try_from(child.id()).unwrap()),
            child: Mutex::new(child),
            over: Mutex::new(false),
            ended: Condvar::new(),
            hung: AtomicBool::new(false),
        });
        let watched = Arc::clone(&process);
        std::thread::spawn(move || watched.watch());
        Server {
            process,
            log,
            home: Arc::clone(&self.home),
            root: self.root.clone(),
            builder: self,
            addresses: Vec::new(),
        }
    }
}

/// The child, killed by whoever comes first: the value's end or the watchdog.
struct Process {
    pid: Pid,
    child: Mutex<Child>,
    over: Mutex<bool>,
    ended: Condvar,
    hung: AtomicBool,
}

impl Process {
    fn watch(&self) {
        let over = self.over.lock().unwrap();
        let (over, _) = self
            .ended
            .wait_timeout_while(over, WATCHDOG, |over| !*over)
            .unwrap();
        if !*over {
            self.hung.store(true, Ordering::SeqCst);
            drop(self.child.lock().unwrap().kill());
        }
    }
}

/// What the server wrote to standard error so far.
#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    arrived: Condvar,
    ended: AtomicBool,
}

impl Log {
    fn push(&self, line: String) {
        self.lines.lock().unwrap().push(line);
        self.arrived.notify_all();
    }

    /// The last line before it serves, behind those that say where.
    fn tells_of_sandbox(&self) -> bool {
        let lines = self.lines.lock().unwrap();
        lines.iter().any(|line| line.contains("sandbox: "))
    }

    /// Where the server said that it listens.
    fn addresses(&self) -> Vec<SocketAddr> {
        let lines = self.lines.lock().unwrap();
        lines
            .iter()
            .filter_map(|line| line.split("listening on ").nth(1))
            .filter_map(|rest| {
                let end = rest
                    .find(|c: char| !(c.is_ascii_hexdigit() || ".:[]".contains(c)))
                    .unwrap_or(rest.len());
                rest[..end].trim_end_matches('.').parse().ok()
            })
            .collect()
    }
}

/// A running server. Dropped, it is killed.
pub struct Server {
    process: Arc<Process>,
    log: Arc<Log>,
    home: Arc<TempDir>,
    root: PathBuf,
    builder: Builder,
    addresses: Vec<SocketAddr>,
}

impl Server {
    /// One with an empty root, the user [`USER`], and every default.
    #[track_caller]
    pub fn start() -> Self {
        Builder::new().start()
    }

    /// Another one like this, with the same directories, on a port of its own.
    #[track_caller]
    pub fn restart(&self) -> Self {
        self.builder.clone().start()
    }

    /// One to be told more.
    pub fn build() -> Builder {
        Builder::new()
    }

    /// The first address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Every address it listens on, in the order of its log.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub fn port(&self) -> u16 {
        self.address().port()
    }

    /// `ftp://t:pw@127.0.0.1:PORT/` and then `path`.
    pub fn url(&self, path: &str) -> String {
        format!("ftp://{USER}:{PASSWORD}@{}/{path}", self.address())
    }

    /// The process.
    pub fn pid(&self) -> i32 {
        self.process.pid.as_raw()
    }

    /// A connection that has read the greeting.
    #[track_caller]
    pub fn connect(&self) -> Client {
        let mut client = Client::connect(self.address());
        client.reply().expect(220);
        client
    }

    /// A connection from this address of loopback that has read the greeting.
    #[track_caller]
    pub fn connect_from(&self, from: Ipv4Addr) -> Client {
        let mut client = Client::connect_from(IpAddr::V4(from), self.address());
        client.reply().expect(220);
        client
    }

    /// A connection where [`USER`] has logged in, with the image type set.
    #[track_caller]
    pub fn client(&self) -> Client {
        let mut client = self.connect();
        client.login();
        client.expect("TYPE I", 200);
        client
    }

    /// The same as the anonymous user, see [`Builder::anonymous`].
    #[track_caller]
    pub fn visitor(&self) -> Client {
        let mut client = self.connect();
        client.login_as("ftp", "x").expect(230);
        client.expect("TYPE I", 200);
        client
    }

    /// A directory of this server's own that is not served, for what clients download.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.home.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// The directory that holds the configuration and is the clients' home.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The host's path of a served file.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// Puts a file into the served directory.
    #[track_caller]
    pub fn write(&self, name: impl AsRef<Path>, contents: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, contents).unwrap();
    }

    /// What a served file holds.
    #[track_caller]
    pub fn read(&self, name: impl AsRef<Path>) -> Vec<u8> {
        let path = self.path(name);
        std::fs::read(&path)
            .unwrap_or_else(|error| panic!("{}: {error}\n{}", path.display(), self.log_text()))
    }

    pub fn exists(&self, name: impl AsRef<Path>) -> bool {
        self.path(name).symlink_metadata().is_ok()
    }

    /// The log so far.
    pub fn log_text(&self) -> String {
        // Told when a test fails, too, that waited for a line.
        let lines = self.log.lines.lock();
        lines.unwrap_or_else(PoisonError::into_inner).join("\n")
    }

    /// Waits for a log line that holds `part`, and returns it.
    #[track_caller]
    pub fn wait_for_log(&self, part: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.log.lines.lock().unwrap();
        loop {
            if let Some(line) = lines.iter().find(|line| line.contains(part)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "no log line holds {part:?}:\n{}",
                lines.join("\n")
            );
            lines = self.log.arrived.wait_timeout(lines, left).unwrap().0;
        }
    }

    pub fn signal(&self, signal: Signal) {
        // The child is reaped only by `wait` and `drop`, so the number is still its own.
        kill(self.process.pid, signal).unwrap();
    }

    /// Has the configuration read again, and waits until it holds, or is refused.
    #[track_caller]
    pub fn reload(&self) {
        let read = || {
            let text = self.log_text();
            let ends = [
                "the configuration was read again",
                "the configuration stays as it was",
            ];
            ends.map(|end| text.matches(end).count())
                .iter()
                .sum::<usize>()
        };
        let before = read();
        self.signal(Signal::SIGHUP);
        eventually("the configuration is read again", || read() > before);
    }

    /// Waits for the end of the process.
    #[track_caller]
    pub fn wait(&self) -> ExitStatus {
        let mut status = None;
        eventually("the server ends", || {
            status = self.process.child.lock().unwrap().try_wait().unwrap();
            status.is_some()
        });
        // The last lines may still be in the pipe.
        eventually("the log ends", || self.log.ended.load(Ordering::SeqCst));
        status.unwrap()
    }

    pub fn is_running(&self) -> bool {
        self.process
            .child
            .lock()
            .unwrap()
            .try_wait()
            .unwrap()
            .is_none()
    }

    /// How often any thread of the server went to sleep or was put aside since it started, for each thread that lives.
    pub fn context_switches(&self) -> std::collections::BTreeMap<String, u64> {
        let mut counts = std::collections::BTreeMap::new();
        for task in std::fs::read_dir(format!("/proc/{}/task", self.pid()))
            .unwrap()
            .flatten()
        {
            // A thread may end between being named and being read.
            let Ok(status) = std::fs::read_to_string(task.path().join("status")) else {
                continue;
            };
            let count = status
                .lines()
                .filter_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
                .map(|number| number.trim().parse::<u64>().unwrap())
                .sum();
            counts.insert(task.file_name().into_string().unwrap(), count);
        }
        counts
    }

    /// Open file descriptors of the server, which no test may ask for but behind [`Server::counts_descriptors`].
    #[track_caller]
    pub fn descriptors(&self) -> usize {
        self.open_descriptors().expect("they can be counted")
    }

    /// Whether the server's file descriptors can be counted; otherwise the test is skipped. To list them takes root, for they
    /// are those of a process that cannot be dumped (proc(5)); Linux since 6.2 tells everybody how many they are.
    #[track_caller]
    pub fn counts_descriptors(&self) -> bool {
        let counts = self.open_descriptors().is_some();
        if !counts {
            skip("to count the server's descriptors needs root, or Linux 6.2");
        }
        counts
    }

    fn open_descriptors(&self) -> Option<usize> {
        let directory = format!("/proc/{}/fd", self.pid());
        if let Ok(entries) = std::fs::read_dir(&directory) {
            return Some(entries.count());
        }
        let told = std::fs::metadata(&directory).unwrap().len();
        usize::try_from(told).ok().filter(|&told| told > 0)
    }

    /// What the server has worked so far, in clock ticks (proc_pid_stat(5), utime and stime).
    pub fn worked(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks = |at: usize| fields[at].parse::<u64>().unwrap();
        ticks(11) + ticks(12)
    }

    /// Threads of the server.
    pub fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.pid()))
            .unwrap()
            .count()
    }

    /// Bytes of memory the server holds right now.
    pub fn resident_bytes(&self) -> u64 {
        self.bytes_of("VmRSS:")
    }

    /// Of them, those that are not a file's: heaps and stacks.
    pub fn anonymous_bytes(&self) -> u64 {
        self.bytes_of("RssAnon:")
    }

    /// The most bytes of memory that the server has ever held.
    pub fn peak_bytes(&self) -> u64 {
        self.bytes_of("VmHWM:")
    }

    fn bytes_of(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.unwrap().trim().trim_end_matches(" kB");
        kib.parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        *self.process.over.lock().unwrap() = true;
        self.process.ended.notify_all();
        let mut child = self.process.child.lock().unwrap();
        drop(child.kill());
        drop(child.wait());
        drop(child);
        if std::thread::panicking() {
            eprintln!("the server's log:\n{}", self.log_text());
        } else {
            assert!(
                !self.process.hung.load(Ordering::SeqCst),
                "the test hung and its server was killed"
            );
        }
    }
}
