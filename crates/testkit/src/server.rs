//! One server process with its own port and folder. At the end of a test the server's log is
//! checked for a crash or a panic.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::{Client, Flavour, Value, call, module, wait_until};

/// The deadline for a start, a stop or a replication link: only a server that hangs reaches
/// it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Texts that must not be in the log of a server.
const CRASHES: [&str; 3] = ["REDIS BUG REPORT", "VALKEY BUG REPORT", "ASSERTION FAILED"];
const PANIC: &str = "panicked";

/// The settings of a server before it starts; created by [`Flavour::server`].
#[derive(Clone)]
pub struct Builder {
    flavour: Flavour,
    label: String,
    module: Option<PathBuf>,
    module_args: Vec<String>,
    args: Vec<(String, String)>,
    env: Vec<(String, String)>,
    under: Vec<String>,
    conf: Option<PathBuf>,
    cluster: bool,
    replica: bool,
    sentinel: bool,
    panics_expected: bool,
}

impl Builder {
    /// A name for panics, for tests with several servers.
    #[must_use]
    pub fn named(mut self, label: &str) -> Self {
        label.clone_into(&mut self.label);
        self
    }

    /// A directive of `redis.conf`. It overrides the settings of the test kit. An empty value
    /// becomes `""`.
    #[must_use]
    pub fn arg(mut self, name: &str, value: impl ToString) -> Self {
        self.args.push((name.to_owned(), value.to_string()));
        self
    }

    /// The module's arguments: names and values.
    #[must_use]
    pub fn module_args(mut self, args: &[&str]) -> Self {
        self.module_args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// A server without the module.
    #[must_use]
    pub fn without_module(mut self) -> Self {
        self.module = None;
        self
    }

    /// Another build of the module.
    #[must_use]
    pub fn module_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.module = Some(path.into());
        self
    }

    /// Starts with a configuration file that loads the module itself, such as the project's
    /// `redis.conf`. In the server's folder, `target/release/libgpulock.so` is the module under
    /// test.
    #[must_use]
    pub fn conf(mut self, path: impl Into<PathBuf>) -> Self {
        self.conf = Some(path.into());
        self
    }

    /// A variable of the server's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs the server under another program, such as valgrind: that program and its
    /// arguments. The program must `exec` the server: the test kit waits for and stops the
    /// process that it started.
    #[must_use]
    pub fn under(mut self, words: &[&str]) -> Self {
        self.under.extend(words.iter().map(|word| (*word).to_owned()));
        self
    }

    /// A node of a cluster that knows no other node yet; see [`crate::Cluster`].
    #[must_use]
    pub const fn cluster(mut self) -> Self {
        self.cluster = true;
        self
    }

    /// A replica of `primary`: the start waits until the link is up.
    #[must_use]
    pub fn replica_of(mut self, primary: &Server) -> Self {
        self.replica = true;
        self.arg("replicaof", format!("127.0.0.1 {}", primary.port()))
    }

    /// A Sentinel; see [`crate::Sentinel`].
    #[must_use]
    pub(crate) const fn sentinel(mut self) -> Self {
        self.sentinel = true;
        self
    }

    /// Accepts panics in the log, for tests that cause them.
    #[must_use]
    pub const fn expect_panics(mut self) -> Self {
        self.panics_expected = true;
        self
    }

    /// Starts the server and waits until it replies. Panics with its log when it does not.
    #[track_caller]
    pub fn start(self) -> Server {
        match self.try_start() {
            Ok(server) => server,
            Err(error) => panic!("{error}"),
        }
    }

    /// Like [`Builder::start`], but returns the output of a server that does not start.
    pub fn try_start(self) -> Result<Server, String> {
        if let Some(module) = &self.module {
            assert!(
                module.is_file(),
                "{} does not exist: build the module first (make build)",
                module.display()
            );
        }
        // Another process may take the free port before the server does.
        for _ in 0..20 {
            let dir = TempDir::with_prefix("gpulock-").expect("making a folder");
            let port = free_port();
            self.write_conf(dir.path(), port);
            let child = spawn(&self, dir.path());
            let label = &self.label;
            let separator = if label.is_empty() { "" } else { " " };
            let mut server = Server {
                name: format!("{label}{separator}({}, port {port})", self.flavour),
                builder: self.clone(),
                port,
                child,
                dir,
                frozen: false,
                refused: false,
                killed: false,
            };
            match server.wait_ready(0) {
                Ok(()) => {
                    if self.replica {
                        server.wait_link_up();
                    }
                    return Ok(server);
                }
                Err(Refusal::PortTaken) => server.refused = true,
                Err(Refusal::Exited(error)) => {
                    server.refused = true;
                    return Err(error);
                }
            }
        }
        Err(format!("{}: no free port", self.flavour))
    }

    /// The deadline for a start or a stop. Under valgrind a server is about fifty times slower.
    const fn deadline(&self) -> Duration {
        if self.under.is_empty() { DEADLINE } else { Duration::from_secs(180) }
    }

    /// Writes the configuration to a file, so that CONFIG REWRITE works and its changes
    /// survive a restart.
    fn write_conf(&self, dir: &Path, port: u16) {
        let mut conf = String::new();
        let mut add = |name: &str, value: &str| {
            let value = if value.is_empty() { "\"\"" } else { value };
            writeln!(conf, "{name} {value}").expect("writing to a string");
        };
        if let Some(path) = &self.conf {
            let release = dir.join("target/release");
            fs::create_dir_all(&release).expect("making a folder");
            let module = self.module.clone().unwrap_or_else(module);
            symlink(module, release.join("libgpulock.so")).expect("linking the module");
            add("include", &quoted(&crate::workspace().join(path).display().to_string()));
        }
        add("port", &port.to_string());
        add("bind", "127.0.0.1");
        add("daemonize", "no");
        add("logfile", "");
        add("save", "");
        add("enable-debug-command", "yes");
        add("enable-module-command", "yes");
        // By default a primary waits five seconds for more replicas.
        add("repl-diskless-sync-delay", "0");
        if self.cluster {
            add("cluster-enabled", "yes");
            add("cluster-port", &free_port().to_string());
        }
        if let (Some(module), None) = (&self.module, &self.conf) {
            let mut line = quoted(&module.display().to_string());
            for arg in &self.module_args {
                line.push(' ');
                line.push_str(&quoted(arg));
            }
            add("loadmodule", &line);
        }
        for (name, value) in &self.args {
            add(name, value);
        }
        fs::write(dir.join("server.conf"), conf).expect("writing the configuration");
    }
}

/// A running server. Dropping it stops it, and panics when it crashed or hung, or when its log
/// contains a panic.
pub struct Server {
    name: String,
    builder: Builder,
    port: u16,
    child: Child,
    dir: TempDir,
    frozen: bool,
    /// It did not start, which was reported already.
    refused: bool,
    killed: bool,
}

/// Why a server did not start.
enum Refusal {
    PortTaken,
    Exited(String),
}

impl Server {
    /// A server of this flavour with the module, to be configured and started.
    pub fn builder(flavour: &Flavour) -> Builder {
        Builder {
            flavour: flavour.clone(),
            label: String::new(),
            module: Some(module()),
            module_args: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            under: under_all(),
            conf: None,
            cluster: false,
            replica: false,
            sentinel: false,
            panics_expected: false,
        }
    }

    /// Its name in panics.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its flavour.
    pub const fn flavour(&self) -> &Flavour {
        &self.builder.flavour
    }

    /// Its port on the loopback interface.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its folder, which is deleted with it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its log so far, across restarts.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.dir().join("server.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A new connection, in RESP2.
    #[track_caller]
    pub fn client(&self) -> Client {
        match Client::connect(self.port, &self.name) {
            Ok(client) => client,
            Err(error) => panic!("{}: cannot connect: {error}", self.name),
        }
    }

    /// A new connection, in RESP3.
    #[track_caller]
    pub fn client3(&self) -> Client {
        let mut client = self.client();
        client.hello3();
        client
    }

    /// A connection in MONITOR mode, which receives each command that the server executes, also
    /// replicated ones.
    #[track_caller]
    pub fn monitor(&self) -> Client {
        let mut client = self.client();
        assert_eq!(call!(client, "MONITOR"), "OK");
        client
    }

    /// A section of INFO, by field, read over a new connection.
    #[track_caller]
    pub fn info(&self, section: &str) -> BTreeMap<String, String> {
        self.client().info(section)
    }

    /// A numeric field of INFO.
    #[track_caller]
    pub fn info_int(&self, section: &str, field: &str) -> i64 {
        let info = self.info(section);
        match info.get(field).and_then(|value| value.parse().ok()) {
            Some(number) => number,
            None => panic!("{}: INFO {section} has no number {field}", self.name),
        }
    }

    /// Used memory in bytes, as the server reports it.
    #[track_caller]
    pub fn used_memory(&self) -> i64 {
        self.info_int("memory", "used_memory")
    }

    /// Waits until exactly this number of clients is blocked.
    #[track_caller]
    pub fn wait_blocked(&self, clients: i64) {
        let mut client = self.client();
        wait_until(
            DEADLINE,
            format!("{clients} clients blocked on {}", self.name),
            || client.info("clients")["blocked_clients"] == clients.to_string(),
        );
    }

    /// Waits until the link of this replica to its primary is up.
    #[track_caller]
    pub fn wait_link_up(&self) {
        let mut client = self.client();
        wait_until(DEADLINE, format!("the replication link of {}", self.name), || {
            let info = client.info("replication");
            info.get("master_link_status").is_some_and(|status| status == "up")
        });
    }

    /// Waits until this replica has all writes that `primary` executed before the call.
    #[track_caller]
    pub fn wait_caught_up_with(&self, primary: &Self) {
        let written = primary.info_int("replication", "master_repl_offset");
        let mut client = self.client();
        wait_until(DEADLINE, format!("{} to catch up", self.name), || {
            let info = client.info("replication");
            let read = info.get("slave_repl_offset").and_then(|n| n.parse().ok());
            read.is_some_and(|read: i64| read >= written)
        });
    }

    /// Waits until the log contains `text`.
    #[track_caller]
    pub fn wait_log(&self, text: &str) {
        wait_until(DEADLINE, format!("{text:?} in the log of {}", self.name), || {
            self.log().contains(text)
        });
    }

    /// The commands in the append-only file since its last rewrite, as text.
    pub fn aof(&self) -> Vec<Vec<String>> {
        let folder = self.dir().join("appendonlydir");
        let mut files: Vec<PathBuf> = folder
            .read_dir()
            .expect("no append-only file: start with .arg(\"appendonly\", \"yes\")")
            .map(|entry| entry.expect("reading a folder").path())
            .filter(|path| path.to_string_lossy().ends_with(".incr.aof"))
            .collect();
        files.sort();
        let mut commands = Vec::new();
        for file in files {
            let bytes = fs::read(file).expect("reading the append-only file");
            let mut rest = &bytes[..];
            while let Some((command, used)) = Value::parse(rest).expect("an AOF is RESP")
            {
                commands.push(command.list().iter().map(Value::text).collect());
                rest = &rest[used..];
            }
        }
        commands
    }

    /// Stops it with SHUTDOWN NOSAVE, which writes the append-only file but no RDB file (call
    /// SAVE for one). Panics unless it exits successfully.
    #[track_caller]
    pub fn stop(&mut self) {
        let status = self.shut_down();
        match status {
            Some(status) => {
                assert!(status.success(), "{} ended with {status}", self.name);
            }
            None => panic!("{} did not stop", self.name),
        }
    }

    /// Kills it without a shutdown (SIGKILL).
    pub fn kill9(&mut self) {
        self.killed = true;
        self.child.kill().expect("killing the server");
        self.child.wait().expect("waiting for the server");
    }

    /// Restarts it in the same folder, with the same port and settings. Stops it first if it is
    /// running.
    #[track_caller]
    pub fn restart(&mut self) {
        if self.exit_status().is_none() {
            self.stop();
        }
        // Another connection may use the port for a moment.
        let start = Instant::now();
        loop {
            let log_before = self.log().len();
            self.child = spawn(&self.builder, self.dir.path());
            self.killed = false;
            self.frozen = false;
            match self.wait_ready(log_before) {
                Ok(()) => return,
                Err(Refusal::PortTaken) if start.elapsed() < DEADLINE => {
                    thread::sleep(Duration::from_millis(50));
                }
                Err(Refusal::PortTaken) => panic!("{}: its port is taken", self.name),
                Err(Refusal::Exited(error)) => {
                    self.refused = true;
                    panic!("{error}");
                }
            }
        }
    }

    /// Stops its process (SIGSTOP), like a machine that hangs.
    pub fn freeze(&mut self) {
        self.signal(Signal::SIGSTOP);
        self.frozen = true;
    }

    /// Resumes a frozen process.
    pub fn thaw(&mut self) {
        self.signal(Signal::SIGCONT);
        self.frozen = false;
    }

    /// Whether its process exists.
    pub fn is_running(&mut self) -> bool {
        self.exit_status().is_none()
    }

    fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("reading the server's exit status")
    }

    fn signal(&mut self, signal: Signal) {
        if self.exit_status().is_none() {
            // The child is not reaped yet, so its pid cannot have been reused.
            let pid = Pid::from_raw(self.child.id().cast_signed());
            kill(pid, signal).expect("sending a signal to a child");
        }
    }

    /// Waits until this process replies on its port. `log_before` is the length of the log
    /// before this start.
    fn wait_ready(&mut self, log_before: usize) -> Result<(), Refusal> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.exit_status() {
                let log = self.log();
                let output = log.get(log_before..).unwrap_or(&log);
                if output.contains("Address already in use") {
                    return Err(Refusal::PortTaken);
                }
                let error = format!("{} did not start: {status}\n{output}", self.name);
                return Err(Refusal::Exited(error));
            }
            match self.listening_pid() {
                Some(pid) if pid == self.pid() => return Ok(()),
                // Another process has the port, and the server is about to notice.
                Some(_) | None => {}
            }
            if start.elapsed() > self.builder.deadline() {
                let error = format!("{} does not reply\n{}", self.name, self.log());
                self.kill9();
                return Err(Refusal::Exited(error));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// The pid of the server that replies on the port and has loaded its data. A server that
    /// requires a password counts as this one.
    fn listening_pid(&self) -> Option<u32> {
        let ask = |client: &mut Client, command: &[&str]| {
            // A server that fails to start may close the connection at any time.
            client.try_send(command).ok()?;
            client.try_read(DEADLINE).ok().flatten()
        };
        let mut client = Client::connect(self.port, &self.name).ok()?;
        match ask(&mut client, &["PING"])? {
            Value::Simple(_) => {}
            Value::Error(text) if text.starts_with("LOADING") => return None,
            _ => return Some(self.pid()),
        }
        match ask(&mut client, &["INFO", "server"])? {
            Value::Bulk(info) => String::from_utf8_lossy(&info)
                .lines()
                .find_map(|line| line.strip_prefix("process_id:")?.parse().ok()),
            _ => Some(self.pid()),
        }
    }

    /// Shuts it down and waits for its end; `None` when it had to be killed.
    fn shut_down(&mut self) -> Option<ExitStatus> {
        if self.frozen {
            self.thaw();
        }
        if let Some(status) = self.exit_status() {
            return Some(status);
        }
        // NOW and FORCE: do not wait for replicas.
        let reply = Client::connect(self.port, &self.name).and_then(|mut client| {
            // A server that crashes may close the connection before it reads anything.
            client.try_send(&["SHUTDOWN", "NOSAVE", "NOW", "FORCE"])?;
            client.try_read(DEADLINE)
        });
        match reply {
            Err(error) if error.kind() != ErrorKind::ConnectionRefused => {}
            // It returned an error (a missing password, for example) or no reply.
            _ => self.signal(Signal::SIGTERM),
        }
        let start = Instant::now();
        while start.elapsed() < self.builder.deadline() {
            if let Some(status) = self.exit_status() {
                return Some(status);
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.kill9();
        None
    }

    /// The failure of a stopped server.
    fn failure(&self, status: Option<ExitStatus>) -> Option<String> {
        let log = self.log();
        let mut forbidden = CRASHES.to_vec();
        if !self.builder.panics_expected {
            forbidden.push(PANIC);
        }
        if let Some(found) = forbidden.into_iter().find(|text| log.contains(text)) {
            return Some(format!("{}: {found:?} in its log", self.name));
        }
        match status {
            Some(status) if status.success() || self.killed => None,
            Some(status) => Some(format!("{} ended with {status}", self.name)),
            None => Some(format!("{} did not stop", self.name)),
        }
    }

    /// The relevant part of the log: from a crash or panic on, else its end.
    fn log_excerpt(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let is_failure = |line: &&str| {
            line.contains(PANIC) || CRASHES.iter().any(|crash| line.contains(crash))
        };
        let from = lines
            .iter()
            .position(is_failure)
            .map_or(lines.len().saturating_sub(40), |crash| crash.saturating_sub(10));
        let shown: Vec<&str> = lines.into_iter().skip(from).take(120).collect();
        format!("---- log of {}\n{}\n----", self.name, shown.join("\n"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            // The test has failed already: only print the log. A server that exited by itself
            // is reaped here as well.
            if self.exit_status().is_none() {
                self.kill9();
            }
            if !self.refused {
                eprintln!("{}", self.log_excerpt());
            }
            return;
        }
        let status = self.shut_down();
        if self.refused {
            return;
        }
        if let Some(failure) = self.failure(status) {
            panic!("{failure}\n{}", self.log_excerpt());
        }
    }
}

/// Starts the process. Its output is its log, which includes errors of the module and of the
/// dynamic loader on stderr.
fn spawn(builder: &Builder, dir: &Path) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(dir.join("server.log"))
        .expect("opening the log");
    let mut words: Vec<&OsStr> = builder.under.iter().map(OsStr::new).collect();
    words.push(builder.flavour.program().as_os_str());
    words.push(OsStr::new("server.conf"));
    words.extend(builder.sentinel.then_some(OsStr::new("--sentinel")));
    Command::new(words[0])
        .args(&words[1..])
        .envs(builder.env.iter().map(|(name, value)| (name, value)))
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("copying a file handle"))
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("{} does not start: {error}", words[0].display()))
}

/// The program that every server runs under, with its arguments: `GPULOCK_UNDER`, for example
/// valgrind in `tools/valgrind.sh`.
fn under_all() -> Vec<String> {
    let words = env::var("GPULOCK_UNDER").unwrap_or_default();
    words.split_whitespace().map(str::to_owned).collect()
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("finding a free port")
        .port()
}

/// A word, quoted for a configuration file.
fn quoted(word: &str) -> String {
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}
