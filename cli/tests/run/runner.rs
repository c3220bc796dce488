//! `gpulock run` as a child of the test, with its output in files. It is killed when the test
//! ends.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use gpulock_testkit::{Server, call, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Timeout that only a hang exceeds.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// A `gpulock run`, and the folder in which its command starts.
pub(crate) struct Runner {
    child: Child,
    folder: TempDir,
}

/// A process that is not started yet.
pub(crate) struct Builder {
    command: Command,
    folder: TempDir,
}

/// `gpulock run` with these arguments, for a server.
pub(crate) fn gpulock_run(server: &Server, args: &[&str]) -> Builder {
    gpulock_run_at(server.port(), args)
}

/// `gpulock run` with these arguments, for a server on this port.
pub(crate) fn gpulock_run_at(port: u16, args: &[&str]) -> Builder {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpulock"));
    command.arg("run").args(args);
    command.env("GPULOCK_URL", format!("redis://127.0.0.1:{port}"));
    builder(command)
}

/// Any command, in a new folder.
pub(crate) fn builder(mut command: Command) -> Builder {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name| File::create(folder.path().join(name)).expect("a file");
    command.stdin(Stdio::null()).stdout(file("out")).stderr(file("err"));
    command.current_dir(folder.path());
    Builder { command, folder }
}

impl Builder {
    /// Changes the command.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Command)) -> Self {
        change(&mut self.command);
        self
    }

    pub(crate) fn start(mut self) -> Runner {
        let child = self.command.spawn().expect("gpulock starts");
        Runner { child, folder: self.folder }
    }

    /// Runs it to its end with this standard input. All streams must be pipes. Returns standard
    /// output and standard error.
    pub(crate) fn output(mut self, input: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let mut child = self.command.spawn().expect("gpulock starts");
        let mut stdin = child.stdin.take().expect("standard input is a pipe");
        let output = thread::scope(|scope| {
            scope.spawn(move || stdin.write_all(input).expect("it reads"));
            child.wait_with_output().expect("it writes")
        });
        (output.stdout, output.stderr)
    }

    /// Runs it to its end, and returns its status.
    pub(crate) fn status(self) -> (i32, Runner) {
        let mut runner = self.start();
        (runner.status(), runner)
    }
}

impl Runner {
    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a complete line in a file of its folder.
    #[track_caller]
    pub(crate) fn line(&self, file: &str) -> String {
        let path = self.path(file);
        wait_until(TIMEOUT, format!("a line in {file}; {}", self.err()), || {
            fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n'))
        });
        fs::read_to_string(path).expect("a file").trim_end().to_owned()
    }

    /// Waits for a number in a file of its folder.
    #[track_caller]
    pub(crate) fn number(&self, file: &str) -> u32 {
        self.line(file).parse().expect("a number")
    }

    /// A file of its folder.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// Its standard output so far.
    pub(crate) fn out(&self) -> String {
        fs::read_to_string(self.path("out")).expect("standard output")
    }

    /// Its standard error so far.
    pub(crate) fn err(&self) -> String {
        fs::read_to_string(self.path("err")).expect("standard error")
    }

    /// Its standard input, which must be a pipe.
    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("standard input is a pipe")
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a status").is_some()
    }

    /// Waits for its end, and returns its status. Panics if a signal killed it.
    #[track_caller]
    pub(crate) fn status(&mut self) -> i32 {
        self.ended().code().expect("gpulock was killed")
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until(TIMEOUT, "gpulock to end", || {
            status = self.child.try_wait().expect("a status");
            status.is_some()
        });
        status.expect("a status")
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // The command is killed with it.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
        if thread::panicking() {
            eprintln!("---- standard error of gpulock\n{}----", self.err());
        }
    }
}

/// Builds a C program or library of this folder.
#[track_caller]
pub(crate) fn build(source: &str, options: &[&str], to: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/run").join(source);
    let mut compiler = Command::new("cc");
    compiler.args(["-Wall", "-Werror"]).args(options).arg("-o").arg(to).arg(&source);
    let built = compiler.status().expect("a C compiler");
    assert!(built.success(), "failed to build {}", source.display());
}

/// Sends a signal to a process.
pub(crate) fn send(pid: u32, signal: Signal) {
    kill(process(pid), signal).expect("a signal is sent");
}

/// Sends a signal to a process that may have ended.
pub(crate) fn send_if_alive(pid: u32, signal: Signal) {
    let _gone = kill(process(pid), signal);
}

fn process(pid: u32) -> Pid {
    Pid::from_raw(pid.cast_signed())
}

/// The state of a process, as in `ps`; None if it has ended, even if it is not reaped yet.
pub(crate) fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let state = stat.rsplit_once(") ")?.1.chars().next()?;
    (!"ZX".contains(state)).then_some(state)
}

/// A field of `/proc/PID/status`.
pub(crate) fn status_of(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.expect("a line of the status").trim().to_owned()
}

/// Waits until a process is dead.
#[track_caller]
pub(crate) fn wait_dead(pid: u32) {
    wait_until(TIMEOUT, format!("process {pid} to be dead"), || state(pid).is_none());
}

/// Waits until a process is in one of these states.
#[track_caller]
pub(crate) fn wait_state(pid: u32, wanted: &str) {
    wait_until(TIMEOUT, format!("process {pid} to be in a state of {wanted}"), || {
        state(pid).is_some_and(|state| wanted.contains(state))
    });
}

/// The number of waiters of a lock.
pub(crate) fn waiting(server: &Server, key: &str) -> usize {
    let lock = call!(server.client(), "GPULOCK.INSPECT", key);
    if lock.is_null() { 0 } else { lock.field("waiting").int() as usize }
}

/// Whether there is a process whose environment has an owner with this prefix.
pub(crate) fn has_process_of(owner: &str) -> bool {
    let mark = format!("GPULOCK_OWNER={owner}-");
    let folders = fs::read_dir("/proc").expect("processes").flatten();
    let mut environments =
        folders.filter_map(|folder| fs::read(folder.path().join("environ")).ok());
    let is_mark = |variable: &[u8]| variable.starts_with(mark.as_bytes());
    environments.any(|all| all.split(|byte| *byte == 0).any(is_mark))
}
