//! The terminal that the command runs on, lent to it as a shell lends it to a job.

use std::fs::File;
use std::io::{self, IsTerminal};

use nix::sys::signal::{SigSet, Signal, raise};
use rustix::process::{Pid, getpgrp, kill_current_process_group};
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

    /// Job control: a command that stops for the terminal gets it. Another stop of that kind
    /// stops this process as well, so that the shell sees it; the whole job, as the terminal
    /// would, when it comes from there. The guard goes on, and kills the command should the
    /// lease be over before it does. SIGSTOP is left alone: whoever stops the command itself
    /// lets it go on itself, and its locks are to be there then.
    ///
    /// Answers whether the command is to go on now. Else SIGCONT will tell.
    pub(crate) fn stopped(&self, group: Group, signal: Signal) -> bool {
        let wants_terminal = matches!(signal, Signal::SIGTTIN | Signal::SIGTTOU);
        if wants_terminal && self.lend(group) {
            return true;
        }
        if signal == Signal::SIGTSTP && self.is_lent_to(group) {
            return stop_this_job();
        }
        if wants_terminal || signal == Signal::SIGTSTP {
            // It cannot fail: the signal is one, and nobody can refuse it.
            let _stopped = raise(Signal::SIGSTOP);
        }
        false
    }

    /// Whether a Control-Z has stopped the command, and nothing was done about that yet.
    pub(crate) fn has_stopped(&self, group: Group) -> bool {
        self.is_lent_to(group) && group.stopped_by() == Some(Signal::SIGTSTP)
    }

    /// Lets a command go on that was stopped, with the terminal where it is used by hand.
    pub(crate) fn go_on(&self, group: Group) {
        self.offer(group);
        group.signal(Signal::SIGCONT);
    }

    /// Takes it back from a group that has ended. SIGTTOU is blocked, so that this works
    /// from the background.
    pub(crate) fn take_back(&self, group: Group) {
        if self.is_lent_to(group) {
            self.pass(getpgrp());
        }
    }

    fn is_lent_to(&self, group: Group) -> bool {
        self.holder() == Some(group.pid())
    }

    fn holder(&self) -> Option<Pid> {
        tcgetpgrp(self.0.as_ref()?).ok()
    }

    fn pass(&self, to: Pid) -> bool {
        self.0.as_ref().is_some_and(|terminal| tcsetpgrp(terminal, to).is_ok())
    }
}

/// Stops the process group of this process, as Control-Z would if the terminal were its own, and
/// returns when it goes on. The kernel stops none that no shell could continue, and returns at
/// once: so the signal has to have the effect that it has by itself.
fn stop_this_job() -> bool {
    let stop = SigSet::from(Signal::SIGTSTP);
    if stop.thread_unblock().is_ok() {
        let _stopped = kill_current_process_group(rustix::process::Signal::TSTP);
        let _unblocked = stop.thread_block();
    }
    true
}
