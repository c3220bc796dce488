//! Runs the program with a pseudo terminal as its standard input, to test its confirmation prompt.
//! Standard error is a pipe.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use nix::fcntl::OFlag;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};

use super::invoke::Invocation;

/// A process that waits for an answer to its prompt.
pub(crate) struct Prompt {
    child: Child,
    terminal: PtyMaster,
    /// Its standard error so far.
    text: String,
}

impl Prompt {
    /// Starts the program, and waits for its prompt.
    pub(crate) fn start(command: Command) -> Self {
        let mut prompt = Self::on_a_terminal(command);
        prompt.read_to("[y/N] ");
        prompt
    }

    /// Runs the program, which must not prompt.
    pub(crate) fn none(command: Command) -> Invocation {
        Self::on_a_terminal(command).answer(b"")
    }

    fn on_a_terminal(mut command: Command) -> Self {
        let terminal = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let path = ptsname_r(&terminal).unwrap();
        let keyboard = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let child = command
            .stdin(keyboard)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, terminal, text: String::new() }
    }

    /// The prompt.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Types an answer, and waits for the process to end.
    pub(crate) fn answer(mut self, typed: &[u8]) -> Invocation {
        self.terminal.write_all(typed).unwrap();
        Invocation::from(self.child.wait_with_output().unwrap())
    }

    fn read_to(&mut self, end: &str) {
        let pipe = self.child.stderr.as_mut().unwrap();
        while !self.text.ends_with(end) {
            let mut byte = [0];
            let read = pipe.read(&mut byte).unwrap();
            assert_eq!(read, 1, "it ended without a prompt: {:?}", self.text);
            self.text.push(char::from(byte[0]));
        }
    }
}
