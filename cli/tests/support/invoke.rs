//! Runs the program against a server.

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

use gpulock_testkit::Server;

/// The result of a run.
#[derive(Debug)]
pub(crate) struct Invocation {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// The program, with the server in its environment.
pub(crate) fn command(server: &Server) -> Command {
    at(&format!("redis://127.0.0.1:{}", server.port()))
}

/// The program, with a URL in its environment.
pub(crate) fn at(url: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpulock"));
    command.env("GPULOCK_URL", url).stdin(Stdio::null());
    command
}

/// Runs it without a terminal, and waits for its end.
pub(crate) fn gpulock(server: &Server, args: &[impl AsRef<OsStr>]) -> Invocation {
    Invocation::from(command(server).args(args).output().expect("starting gpulock"))
}

impl From<Output> for Invocation {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("gpulock prints UTF-8");
        Self {
            status: output.status.code().expect("gpulock was killed"),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}
