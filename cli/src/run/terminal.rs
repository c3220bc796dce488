//! The terminal that the command runs on, lent to it as a shell lends it to a job.

use std::fs::File;
use std::io::{self, IsTerminal};

use nix::sys::signal::{Signal, raise};
use rustix::process::{Pid, getpgrp};
use rustix::termios::{tcgetpgrp, tcsetpgrp};

use crate::run::child::Group;

/// The controlling terminal, if there is one.
#[derive(Debug)]
pub(crate) struct Terminal(Option<File>);

impl Terminal {
    /// Finds it.
    pub(crate) fn open() -> Self {
        Self(File::options().read(true).write(true).open("/dev/tty").ok())
    }

    /// Lends it to a command that is used by hand. Not to one in a pipeline: the other end of
    /// that may be the one that reads from the terminal.
    pub(crate) fn offer(&self, group: Group) {
        if io::stdin().is_terminal() && io::stdout().is_terminal() {
            self.lend(group);
        }
    }

    /// Lends it, if it is this process's to lend. Whether the group has it now.
    pub(crate) fn lend(&self, group: Group) -> bool {
        let holder = self.holder();
        holder == Some(group.pid()) || holder == Some(getpgrp()) && self.pass(group.pid())
    }

    /// Job control: a command that stops for the terminal gets it; another stop of that kind
    /// stops this process as well, so that the shell sees it. The guard goes on, and kills the
    /// command should the lease be over before it does. SIGSTOP is left alone: whoever stops
    /// the command itself lets it go on itself, and its locks are to be there then.
    pub(crate) fn stopped(&self, group: Group, signal: Signal) {
        let wants_terminal = matches!(signal, Signal::SIGTTIN | Signal::SIGTTOU);
        if wants_terminal && self.lend(group) {
            group.signal(Signal::SIGCONT);
        } else if wants_terminal || signal == Signal::SIGTSTP {
            // It cannot fail: the signal is one, and nobody can refuse it.
            let _stopped = raise(Signal::SIGSTOP);
        }
    }

    /// Lets a command go on that was stopped, with the terminal where it is used by hand.
    pub(crate) fn go_on(&self, group: Group) {
        self.offer(group);
        group.signal(Signal::SIGCONT);
    }

    /// Takes it back from a group that has ended. SIGTTOU is blocked, so that this works
    /// from the background.
    pub(crate) fn take_back(&self, group: Group) {
        if self.holder() == Some(group.pid()) {
            self.pass(getpgrp());
        }
    }

    fn holder(&self) -> Option<Pid> {
        tcgetpgrp(self.0.as_ref()?).ok()
    }

    fn pass(&self, to: Pid) -> bool {
        self.0.as_ref().is_some_and(|terminal| tcsetpgrp(terminal, to).is_ok())
    }
}
