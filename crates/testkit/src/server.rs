//! One server process: started on a port and in a folder of its own, stopped by its pid.
//! However a test ends, the server's log is looked through for a crash or a panic.

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

/// How long a start, a stop or a replication link may take: far more than any needs, so
/// that only what hangs fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// What must not stand in the log of a server.
const CRASHES: [&str; 3] = ["REDIS BUG REPORT", "VALKEY BUG REPORT", "ASSERTION FAILED"];
const PANIC: &str = "panicked";

/// What a server is told before it starts; made by [`Flavour::server`].
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
    /// A name for failures, where a test has several servers.
    #[must_use]
    pub fn named(mut self, label: &str) -> Self {
        label.clone_into(&mut self.label);
        self
    }

    /// A directive, written as it would stand in a `redis.conf`; over what the kit sets
    /// itself it wins. An empty value becomes `""`.
    #[must_use]
    pub fn arg(mut self, name: &str, value: impl ToString) -> Self {
        self.args.push((name.to_owned(), value.to_string()));
        self
    }

    /// What follows the module's path: names and values.
    #[must_use]
    pub fn module_args(mut self, args: &[&str]) -> Self {
        self.module_args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// The server as its maker built it.
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

    /// Starts from a configuration file that itself loads the module, as the project's
    /// `redis.conf`. `target/release/libgpulock.so` is the module under test as seen from
    /// where the server starts.
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

    /// Runs the server under another program, as valgrind: that program and its arguments.
    /// It has to turn into the server (`exec`), not to start it: the process that the kit
    /// started is the one that it waits for and stops.
    #[must_use]
    pub fn under(mut self, words: &[&str]) -> Self {
        self.under.extend(words.iter().map(|word| (*word).to_owned()));
        self
    }

    /// A node of a cluster, still alone; see [`crate::Cluster`].
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

    /// No keeper of keys, but one that watches others; see [`crate::Sentinel`].
    #[must_use]
    pub(crate) const fn sentinel(mut self) -> Self {
        self.sentinel = true;
        self
    }

    /// Lets the log speak of panics: for tests that cause them.
    #[must_use]
    pub const fn expect_panics(mut self) -> Self {
        self.panics_expected = true;
        self
    }

    /// Starts the server, waits until it answers, and panics with its log when it does
    /// not.
    #[track_caller]
    pub fn start(self) -> Server {
        match self.try_start() {
            Ok(server) => server,
            Err(why) => panic!("{why}"),
        }
    }

    /// Like [`Builder::start`]; that the server refused to start is a result to look at:
    /// what it said.
    pub fn try_start(self) -> Result<Server, String> {
        if let Some(module) = &self.module {
            assert!(
                module.is_file(),
                "{} is not there: build the module first (make build)",
                module.display()
            );
        }
        // Between the look for a free port and its use anyone may take it.
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
                Err(Refusal::Exited(why)) => {
                    server.refused = true;
                    return Err(why);
                }
            }
        }
        Err(format!("{}: found no free port", self.flavour))
    }

    /// How long it may take to start or to stop. Programs like valgrind make everything
    /// some fifty times slower.
    const fn patience(&self) -> Duration {
        if self.under.is_empty() { DEADLINE } else { Duration::from_secs(180) }
    }

    /// The configuration goes through a file, not the command line, so that CONFIG
    /// REWRITE works and is there after a restart.
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
        // Waiting for more replicas to turn up would cost every such test five seconds.
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

/// A running server. Dropping it stops it, and panics when it crashed, hung, or when a
/// panic stands in its log.
pub struct Server {
    name: String,
    builder: Builder,
    port: u16,
    child: Child,
    dir: TempDir,
    frozen: bool,
    /// It never came up, and that was reported already.
    refused: bool,
    killed: bool,
}

/// Why a server did not come up.
enum Refusal {
    PortTaken,
    Exited(String),
}

impl Server {
    /// A server of this flavour with the module, to be told more and started.
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

    /// How failures name it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its flavour.
    pub const fn flavour(&self) -> &Flavour {
        &self.builder.flavour
    }

    /// Where it listens, on the loopback interface.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its folder, which goes with it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// All it wrote so far, over restarts.
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

    /// A connection on which every command that the server carries out is read, one
    /// line each, also what it replicates.
    #[track_caller]
    pub fn monitor(&self) -> Client {
        let mut client = self.client();
        assert_eq!(call!(client, "MONITOR"), "OK");
        client
    }

    /// A section of INFO, by field, asked over a connection of its own.
    #[track_caller]
    pub fn info(&self, section: &str) -> BTreeMap<String, String> {
        self.client().info(section)
    }

    /// A field of INFO that is a number.
    #[track_caller]
    pub fn info_int(&self, section: &str, field: &str) -> i64 {
        let info = self.info(section);
        match info.get(field).and_then(|value| value.parse().ok()) {
            Some(number) => number,
            None => panic!("{}: INFO {section} has no number {field}", self.name),
        }
    }

    /// Bytes in use, as the server counts them.
    #[track_caller]
    pub fn used_memory(&self) -> i64 {
        self.info_int("memory", "used_memory")
    }

    /// Waits until exactly so many clients are blocked.
    #[track_caller]
    pub fn wait_blocked(&self, clients: i64) {
        let mut client = self.client();
        wait_until(
            DEADLINE,
            format!("{clients} clients blocked on {}", self.name),
            || client.info("clients")["blocked_clients"] == clients.to_string(),
        );
    }

    /// Waits until this replica follows its primary.
    #[track_caller]
    pub fn wait_link_up(&self) {
        let mut client = self.client();
        wait_until(DEADLINE, format!("the replication link of {}", self.name), || {
            let info = client.info("replication");
            info.get("master_link_status").is_some_and(|status| status == "up")
        });
    }

    /// Waits until this replica has all that `primary` wrote before the call.
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

    /// Waits until the log holds `text`.
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

    /// Stops it with SHUTDOWN NOSAVE, which keeps the append-only file but writes no RDB
    /// (SAVE first where that is wanted), and panics unless it ends well.
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

    /// Kills it at once, as a power cut would.
    pub fn kill9(&mut self) {
        self.killed = true;
        self.child.kill().expect("killing the server");
        self.child.wait().expect("waiting for the server");
    }

    /// Starts it again, stopping it first when it runs: same folder, port and settings.
    #[track_caller]
    pub fn restart(&mut self) {
        if self.exit_status().is_none() {
            self.stop();
        }
        // The port may be some other connection's own for a moment.
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
                Err(Refusal::Exited(why)) => {
                    self.refused = true;
                    panic!("{why}");
                }
            }
        }
    }

    /// Stops its process in its tracks (SIGSTOP), as a machine that hangs would.
    pub fn freeze(&mut self) {
        self.signal(Signal::SIGSTOP);
        self.frozen = true;
    }

    /// Lets a frozen process go on.
    pub fn thaw(&mut self) {
        self.signal(Signal::SIGCONT);
        self.frozen = false;
    }

    /// Whether its process is there.
    pub fn is_running(&mut self) -> bool {
        self.exit_status().is_none()
    }

    fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("asking for the server's exit status")
    }

    fn signal(&mut self, signal: Signal) {
        if self.exit_status().is_none() {
            // The child is not reaped yet, so its pid cannot have been reused.
            let pid = Pid::from_raw(self.child.id().cast_signed());
            kill(pid, signal).expect("sending a signal to a child");
        }
    }

    /// Waits until it answers as itself. `log_before` is the length of the log before
    /// this start.
    fn wait_ready(&mut self, log_before: usize) -> Result<(), Refusal> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.exit_status() {
                let log = self.log();
                let said = log.get(log_before..).unwrap_or(&log);
                if said.contains("Address already in use") {
                    return Err(Refusal::PortTaken);
                }
                let why = format!("{} did not start: {status}\n{said}", self.name);
                return Err(Refusal::Exited(why));
            }
            match self.who_answers() {
                Some(pid) if pid == self.pid() => return Ok(()),
                // Somebody else has the port, and our own server is about to notice.
                Some(_) | None => {}
            }
            if start.elapsed() > self.builder.patience() {
                let why = format!("{} does not answer\n{}", self.name, self.log());
                self.kill9();
                return Err(Refusal::Exited(why));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// The pid of the server that answers on the port and has loaded its data. One that
    /// wants a password first is taken for our own.
    fn who_answers(&self) -> Option<u32> {
        let ask = |client: &mut Client, command: &[&str]| {
            // One that refuses to start may close it at any moment.
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

    /// Asks it to end and waits for that; `None` when it had to be killed.
    fn shut_down(&mut self) -> Option<ExitStatus> {
        if self.frozen {
            self.thaw();
        }
        if let Some(status) = self.exit_status() {
            return Some(status);
        }
        // NOW and FORCE: without a wait for replicas, whatever state they are in.
        let asked = Client::connect(self.port, &self.name).and_then(|mut client| {
            // A server that is just crashing may close it before it has read anything.
            client.try_send(&["SHUTDOWN", "NOSAVE", "NOW", "FORCE"])?;
            client.try_read(DEADLINE)
        });
        match asked {
            Err(error) if error.kind() != ErrorKind::ConnectionRefused => {}
            // It answered an error (a password, say), or nothing at all.
            _ => self.signal(Signal::SIGTERM),
        }
        let start = Instant::now();
        while start.elapsed() < self.builder.patience() {
            if let Some(status) = self.exit_status() {
                return Some(status);
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.kill9();
        None
    }

    /// What is wrong with a server that was stopped.
    fn complaint(&self, status: Option<ExitStatus>) -> Option<String> {
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

    /// The part of the log that tells most: from a crash or panic on, else the end.
    fn end_of_log(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let telling = |line: &&str| {
            line.contains(PANIC) || CRASHES.iter().any(|crash| line.contains(crash))
        };
        let from = lines
            .iter()
            .position(telling)
            .map_or(lines.len().saturating_sub(40), |crash| crash.saturating_sub(10));
        let shown: Vec<&str> = lines.into_iter().skip(from).take(120).collect();
        format!("---- log of {}\n{}\n----", self.name, shown.join("\n"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            // The test has failed already: help to find out why, and do no more. A server
            // that ended by itself is reaped here as well.
            if self.exit_status().is_none() {
                self.kill9();
            }
            if !self.refused {
                eprintln!("{}", self.end_of_log());
            }
            return;
        }
        let status = self.shut_down();
        if self.refused {
            return;
        }
        if let Some(complaint) = self.complaint(status) {
            panic!("{complaint}\n{}", self.end_of_log());
        }
    }
}

/// Starts the process. Its output is its log, so that what the module or the loader says
/// on stderr stands there too.
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

/// What every server runs under, as valgrind in `tools/valgrind.sh`: `GPULOCK_UNDER`, a
/// program and its arguments.
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

/// A word as a configuration file wants it.
fn quoted(word: &str) -> String {
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}
