//! One call of the program against a server, and what came of it.

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

use gpulock_testkit::Server;

/// What a call left.
#[derive(Debug)]
pub(crate) struct Called {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// The program, told of the server.
pub(crate) fn command(server: &Server) -> Command {
    at(&format!("redis://127.0.0.1:{}", server.port()))
}

/// The program, told of an address.
pub(crate) fn at(url: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpulock"));
    command.env("GPULOCK_URL", url).stdin(Stdio::null());
    command
}

/// Calls it, away from any terminal, and waits for its end.
pub(crate) fn gpulock(server: &Server, args: &[impl AsRef<OsStr>]) -> Called {
    Called::from(command(server).args(args).output().expect("starting gpulock"))
}

impl From<Output> for Called {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("gpulock prints UTF-8");
        Self {
            status: output.status.code().expect("gpulock ends by itself"),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}
