//! Optional programs that the tests use.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use gpulock_testkit::{print_skipped, wait_until, workspace};

use crate::TIMEOUT;

/// Debian's Prometheus, as unpacked by `tools/setup.sh cli`.
const UNPACKED: &str = "target/tools/prometheus/usr/bin";

/// The first program with this name that runs. Otherwise prints that the test is skipped.
pub(crate) fn found(test: &str, program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path)
        .chain([workspace().join(UNPACKED)])
        .map(|folder| folder.join(program))
        .find(|file| runs(file));
    if found.is_none() {
        let set = if program == "chromedriver" { "browser" } else { "cli" };
        let reason =
            format!("{program} is not installed; tools/setup.sh {set} installs it");
        skip(test, &reason);
    }
    found
}

/// Prints why a test is skipped.
pub(crate) fn skip(test: &str, reason: &str) {
    print_skipped(&format!("{test}: {reason}"));
}

fn runs(program: &Path) -> bool {
    let mut version = Command::new(program);
    version
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    version.status().is_ok_and(|status| status.success())
}

/// Waits for the port of a program in its log, after `prefix`.
#[track_caller]
pub(crate) fn port_in_log(log: &Path, prefix: &str) -> u16 {
    let mut port = None;
    wait_until(TIMEOUT, format!("{prefix:?} and a port in {}", log.display()), || {
        let log = fs::read_to_string(log).unwrap_or_default();
        let rest = log.split_once(prefix).map(|(_, rest)| rest);
        // The number is complete when another character follows.
        let digits = rest.and_then(|rest| rest.split_once(|c: char| !c.is_ascii_digit()));
        port = digits.and_then(|(digits, _)| digits.parse().ok());
        port.is_some()
    });
    port.expect("a port")
}

/// A process that is killed at the end of the test.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// Starts it without standard input.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().expect("starting a program"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
