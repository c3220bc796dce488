//! A program in a terminal, for keys that are typed there.

use std::fs;
use std::io::Write;
use std::process::{ChildStdin, Command, Stdio};

use gpulock_testkit::{Server, wait_until};

use crate::runner::{Runner, TIMEOUT, builder};

/// A program in a terminal, provided by `script` of util-linux.
pub(crate) struct Typed {
    pub(crate) run: Runner,
    keys: ChildStdin,
}

/// Starts a program in a terminal, with `gpulock` as `$GPULOCK`.
pub(crate) fn in_terminal(server: &Server, program: &str) -> Typed {
    let url = format!("redis://127.0.0.1:{}", server.port());
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--flush", "--command", program, "typescript"]);
    script.env("GPULOCK_URL", url).env("GPULOCK", env!("CARGO_BIN_EXE_gpulock"));
    script.env("PS1", "$ ").env("TERM", "dumb");
    let mut run = builder(script)
        .with(|script| {
            script.stdin(Stdio::piped());
        })
        .start();
    let keys = run.stdin();
    Typed { run, keys }
}

impl Typed {
    /// Types these keys.
    pub(crate) fn types(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("a terminal");
    }
}

/// Waits until a process is in the foreground process group of its terminal.
#[track_caller]
pub(crate) fn wait_foreground(pid: u32) {
    wait_until(TIMEOUT, format!("process {pid} to have the terminal"), || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
        let after_name = stat.rsplit(") ").next().expect("fields");
        let fields: Vec<&str> = after_name.split(' ').collect();
        let [_, _, group, _, _, foreground, ..] = fields[..] else { panic!("{stat}") };
        group == foreground
    });
}
