//! Programs that the tests need and a machine may lack: found, started, ended with the test.

use std::env;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use gpulock_testkit::workspace;

/// Where `tools/setup.sh cli` unpacks Debian's Prometheus.
const UNPACKED: &str = "target/tools/prometheus/usr/bin";

/// The first of some programs that is there; else says loudly that a test is left out.
pub(crate) fn found(test: &str, program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path)
        .chain([workspace().join(UNPACKED)])
        .map(|folder| folder.join(program))
        .find(|file| file.is_file());
    if found.is_none() {
        // Past the test harness, which keeps what tests that pass print.
        let line = format!(
            "\nSKIPPED: {test}: no {program} here; tools/setup.sh cli brings it\n"
        );
        io::stderr().write_all(line.as_bytes()).expect("writing to standard error");
    }
    found
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
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
