//! The program with a terminal to ask on: a pseudo terminal as its standard input. What it
//! says is read from a pipe.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::called::Called;

/// A call that waits for an answer.
pub(crate) struct Asked {
    child: Child,
    terminal: File,
    /// What it said so far.
    said: String,
}

impl Asked {
    /// Starts the program and reads until it asks.
    pub(crate) fn start(command: Command) -> Self {
        let mut asked = Self::on_a_terminal(command);
        asked.read_to("[y/N] ");
        asked
    }

    /// What comes of a call that finds nothing to ask.
    pub(crate) fn unasked(command: Command) -> Called {
        Self::on_a_terminal(command).answer(b"")
    }

    fn on_a_terminal(mut command: Command) -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let path = OsStr::from_bytes(name.as_bytes());
        let keyboard = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let child = command
            .stdin(keyboard)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, terminal: File::from(terminal), said: String::new() }
    }

    /// What it said before it waited.
    pub(crate) fn question(&self) -> &str {
        &self.said
    }

    /// Types an answer, and waits for the end.
    pub(crate) fn answer(mut self, typed: &[u8]) -> Called {
        self.terminal.write_all(typed).unwrap();
        Called::from(self.child.wait_with_output().unwrap())
    }

    fn read_to(&mut self, end: &str) {
        let pipe = self.child.stderr.as_mut().unwrap();
        while !self.said.ends_with(end) {
            let mut byte = [0];
            let read = pipe.read(&mut byte).unwrap();
            assert_eq!(read, 1, "it ended without a question: {:?}", self.said);
            self.said.push(char::from(byte[0]));
        }
    }
}
