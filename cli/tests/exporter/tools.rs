//! Programs that the tests need and a machine may lack: found, started, ended with the test.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use gpulock_testkit::{wait_until, workspace};

use crate::PATIENCE;

/// Where `tools/setup.sh cli` unpacks Debian's Prometheus.
const UNPACKED: &str = "target/tools/prometheus/usr/bin";

/// The first program of this name that runs; else says loudly that a test is left out.
pub(crate) fn found(test: &str, program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path)
        .chain([workspace().join(UNPACKED)])
        .map(|folder| folder.join(program))
        .find(|file| runs(file));
    if found.is_none() {
        skip(test, &format!("no {program} runs here; tools/setup.sh cli installs it"));
    }
    found
}

/// Says why a test is left out.
pub(crate) fn skip(test: &str, reason: &str) {
    // Past the test harness, which keeps what tests that pass print.
    let line = format!("\nSKIPPED: {test}: {reason}\n");
    io::stderr().write_all(line.as_bytes()).expect("writing to standard error");
}

fn runs(program: &Path) -> bool {
    let mut asked = Command::new(program);
    asked
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    asked.status().is_ok_and(|status| status.success())
}

/// The port that a program took for itself, once its log tells it behind `words`.
#[track_caller]
pub(crate) fn told_port(log: &Path, words: &str) -> u16 {
    let mut port = None;
    wait_until(PATIENCE, format!("{words:?} and a port in {}", log.display()), || {
        let log = fs::read_to_string(log).unwrap_or_default();
        let told = log.split_once(words).map(|(_, told)| told);
        // What is behind it as well: the number is whole then.
        let digits = told.and_then(|told| told.split_once(|c: char| !c.is_ascii_digit()));
        port = digits.and_then(|(digits, _)| digits.parse().ok());
        port.is_some()
    });
    port.expect("a port")
}

/// A process that ends with the test, however that ends.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// Starts it, without a word of its own unless `command` says where to.
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
