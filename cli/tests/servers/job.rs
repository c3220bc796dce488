//! A `gpulock run` in the background, with its messages in a file. It is killed when the test
//! ends.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use gpulock_testkit::wait_until;
use tempfile::TempDir;

use crate::invoke::at;

/// Timeout that only a hang exceeds.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// A shell script that runs until the file `stop` exists, and ends with status 5.
pub(crate) const UNTIL_STOPPED: &str = "echo $GPULOCK_OWNER >owner; echo $$ >pid; while [ ! -e stop ]; do sleep 0.05; done; exit 5";

/// A `gpulock run`, and the folder in which its command runs.
pub(crate) struct Job {
    child: Child,
    folder: TempDir,
}

impl Job {
    /// Starts `gpulock run` of a shell script for the server at this address.
    pub(crate) fn start(url: &str, args: &[&str], script: &str) -> Self {
        Self::start_with(url, args, script, |_| {})
    }

    /// The same, with changes to the call.
    pub(crate) fn start_with(
        url: &str,
        args: &[&str],
        script: &str,
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name| File::create(folder.path().join(name)).expect("a file");
        let mut command = at(url);
        command.arg("run").args(args).args(["--", "sh", "-c", script]);
        command.stdout(file("out")).stderr(file("err")).current_dir(folder.path());
        change(&mut command);
        Self { child: command.spawn().expect("gpulock starts"), folder }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a complete line in a file of its folder.
    #[track_caller]
    pub(crate) fn line(&self, file: &str) -> String {
        let path = self.path(file);
        wait_until(TIMEOUT, format!("a line in {file}"), || {
            fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n'))
        });
        fs::read_to_string(path).expect("a file").trim_end().to_owned()
    }

    /// Its standard error so far.
    pub(crate) fn err(&self) -> String {
        fs::read_to_string(self.path("err")).expect("standard error")
    }

    /// Ends [`UNTIL_STOPPED`].
    pub(crate) fn stop(&self) {
        File::create(self.path("stop")).expect("a file");
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a status").is_some()
    }

    /// Waits for its end, and returns its status.
    #[track_caller]
    pub(crate) fn status(&mut self) -> i32 {
        wait_until(TIMEOUT, "gpulock to end", || self.has_ended());
        let status = self.child.wait().expect("a status");
        status.code().expect("gpulock was killed")
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // The command is killed with it.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
        if thread::panicking() {
            eprintln!("---- standard error of gpulock\n{}----", self.err());
        }
    }
}

/// Whether a process is alive.
pub(crate) fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !"ZX".contains(state))
}
