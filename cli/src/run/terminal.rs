//! Job control: the command becomes the terminal's foreground process group, as in a shell.

use std::fs::File;
use std::io::{self, IsTerminal};

use nix::sys::signal::{SigSet, Signal, killpg, raise};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

use crate::run::process_group::ProcessGroup;

/// The controlling terminal, if there is one.
#[derive(Debug)]
pub(crate) struct Terminal(Option<File>);

impl Terminal {
    pub(crate) fn open() -> Self {
        Self(File::options().read(true).write(true).open("/dev/tty").ok())
    }

    /// Gives the terminal to a command that is used interactively. Not to one in a pipeline:
    /// the process at the other end may read from the terminal.
    pub(crate) fn offer(&self, group: ProcessGroup) {
        if io::stdin().is_terminal() && io::stdout().is_terminal() {
            self.give(group);
        }
    }

    /// Gives the terminal to the group, if this process has it. Returns whether the group has
    /// it now.
    fn give(&self, group: ProcessGroup) -> bool {
        let foreground = self.foreground();
        foreground == Some(group.pid())
            || foreground == Some(getpgrp()) && self.set_foreground(group.pid())
    }

    /// Handles a stop of the command. If it stopped because it needs the terminal, it gets it.
    /// Other job control stops also stop this process, so that the shell notices, or the whole
    /// job if the stop came from the terminal. The watchdog keeps running, and kills the command
    /// before the lease expires. SIGSTOP is ignored: it is meant for the command alone, which
    /// keeps its locks until it is continued.
    ///
    /// Returns whether to continue the command now; otherwise SIGCONT continues it.
    pub(crate) fn handle_stop(&self, group: ProcessGroup, signal: Signal) -> bool {
        let wants_terminal = matches!(signal, Signal::SIGTTIN | Signal::SIGTTOU);
        if wants_terminal && self.give(group) {
            return true;
        }
        if signal == Signal::SIGTSTP && self.is_given_to(group) {
            return stop_this_job();
        }
        if wants_terminal || signal == Signal::SIGTSTP {
            // Cannot fail with a valid signal.
            let _stopped = raise(Signal::SIGSTOP);
        }
        false
    }

    /// Whether Control-Z has stopped the command and [`Terminal::handle_stop`] was not called
    /// yet.
    pub(crate) fn has_pending_stop(&self, group: ProcessGroup) -> bool {
        self.is_given_to(group) && group.stopped_by() == Some(Signal::SIGTSTP)
    }

    /// Continues a stopped command, with the terminal if it is used interactively.
    pub(crate) fn resume(&self, group: ProcessGroup) {
        self.offer(group);
        group.signal(Signal::SIGCONT);
    }

    /// Takes the terminal back from a group that has ended. This works from the background
    /// because SIGTTOU is blocked.
    pub(crate) fn take_back(&self, group: ProcessGroup) {
        if self.is_given_to(group) {
            self.set_foreground(getpgrp());
        }
    }

    /// Whether the group is the terminal's foreground process group.
    pub(crate) fn is_given_to(&self, group: ProcessGroup) -> bool {
        self.foreground() == Some(group.pid())
    }

    fn foreground(&self) -> Option<Pid> {
        tcgetpgrp(self.0.as_ref()?).ok()
    }

    fn set_foreground(&self, to: Pid) -> bool {
        self.0.as_ref().is_some_and(|terminal| tcsetpgrp(terminal, to).is_ok())
    }
}

/// Stops the process group of this process as Control-Z would, and returns when it is continued.
/// Uses the default action of SIGTSTP: the kernel ignores it in a group that no shell could
/// continue.
fn stop_this_job() -> bool {
    let stop = SigSet::from(Signal::SIGTSTP);
    if stop.thread_unblock().is_ok() {
        let _stopped = killpg(getpgrp(), Signal::SIGTSTP);
        let _unblocked = stop.thread_block();
    }
    true
}
