//! Shell scripts that call the program.

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};

use gpulock_testkit::Server;

use super::invoke::Invocation;

/// A POSIX shell that runs a script, with the program in its PATH and the server in its
/// environment.
pub(crate) fn shell(server: &Server, script: &str) -> Command {
    let folder = Path::new(env!("CARGO_BIN_EXE_gpulock")).parent().expect("a folder");
    let path = env::var_os("PATH").expect("a PATH");
    let folders = [folder.to_owned()].into_iter().chain(env::split_paths(&path));
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::null());
    command.env("PATH", env::join_paths(folders).expect("a PATH"));
    command.env("GPULOCK_URL", format!("redis://127.0.0.1:{}", server.port()));
    command
}

/// Runs a script to its end.
pub(crate) fn script(server: &Server, script: &str) -> Invocation {
    Invocation::from(shell(server, script).output().expect("starting a shell"))
}
