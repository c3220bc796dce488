//! The process group of the command: signals to it, and what happens to its leader.

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus};

use crate::run::processes::Process;

/// A process group. Its number cannot be reused until its leader, the command itself, is
/// reaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessGroup(Pid);

/// What happened to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It ended, with the status that a shell would report, and by this signal, if any.
    Ended { status: u8, signal: Option<Signal> },
    /// This signal stopped it.
    Stopped(Signal),
}

/// The next child that has ended.
enum EndedChild {
    None,
    Other(Pid),
    /// The leader, or a child whose number the library cannot report.
    Unclear,
}

impl ProcessGroup {
    pub(crate) fn led_by(leader: Pid) -> Self {
        Self(leader)
    }

    /// Its number, which is the leader's.
    pub(crate) fn pid(self) -> Pid {
        self.0
    }

    /// The same as an integer.
    pub(crate) fn number(self) -> i32 {
        self.0.as_raw()
    }

    /// Sends a signal to all its processes. Does nothing if there are none.
    pub(crate) fn signal(self, signal: Signal) {
        let _gone = killpg(self.0, signal);
    }

    /// The next event of the leader, if any. A leader that has ended is not reaped, so that its
    /// number is not reused.
    pub(crate) fn change(self) -> Option<Change> {
        let stopped = || self.wait(WaitIdOptions::STOPPED);
        self.ended().or_else(stopped).and_then(Change::of)
    }

    /// The signal that stopped the leader, if [`ProcessGroup::change`] has not returned it yet.
    pub(crate) fn stopped_by(self) -> Option<Signal> {
        let stopped = self.wait(WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT)?;
        Signal::try_from(stopped.stopping_signal()?).ok()
    }

    /// Whether the leader has ended.
    pub(crate) fn has_ended(self) -> bool {
        self.ended().is_some()
    }

    fn ended(self) -> Option<WaitIdStatus> {
        self.wait(WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
    }

    fn wait(self, options: WaitIdOptions) -> Option<WaitIdStatus> {
        // Not by nix, which cannot represent real-time signals.
        let pid = rustix::process::Pid::from_raw(self.number())?;
        rustix::process::waitid(WaitId::Pid(pid), options | WaitIdOptions::NOHANG)
            .ok()
            .flatten()
    }

    /// Reaps the children that have ended, except the leader.
    pub(crate) fn reap_others(self) {
        loop {
            match self.next_ended() {
                EndedChild::None => return,
                EndedChild::Other(pid) => reap(pid),
                EndedChild::Unclear => return self.reap_hidden(),
            }
        }
    }

    fn next_ended(self) -> EndedChild {
        const PEEK: WaitPidFlag =
            WaitPidFlag::WEXITED.union(WaitPidFlag::WNOHANG).union(WaitPidFlag::WNOWAIT);
        match waitid(Id::All, PEEK).map(|ended| ended.pid()) {
            Ok(Some(pid)) if pid == self.0 => EndedChild::Unclear,
            Ok(pid) => pid.map_or(EndedChild::None, EndedChild::Other),
            // Killed by a real-time signal.
            Err(Errno::EINVAL) => EndedChild::Unclear,
            Err(_) => EndedChild::None,
        }
    }

    /// Reaps the children that `waitid` does not return because it returns another one first.
    fn reap_hidden(self) {
        let is_other = |one: &Process| one.is_our_child() && one.pid != self.0;
        let dead = Process::all().filter(|one| one.is_dead && is_other(one));
        dead.for_each(|one| reap(one.pid));
    }

    /// Reaps all children that have ended. The group's number may be reused from now on.
    pub(crate) fn give_up(self) {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => return,
                // EINVAL: it was killed by a real-time signal.
                Ok(_) | Err(Errno::EINVAL) => {}
                Err(_) => return,
            }
        }
    }
}

/// Reaps a child that has ended.
pub(crate) fn reap(child: Pid) {
    let _already_reaped =
        waitid(Id::Pid(child), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG);
}

impl Change {
    fn of(status: WaitIdStatus) -> Option<Self> {
        if let Some(signal) = status.stopping_signal() {
            return Signal::try_from(signal).ok().map(Self::Stopped);
        }
        if let Some(signal) = status.terminating_signal() {
            let status = status_of_signal(signal);
            // Real-time signals have no name.
            return Some(Self::Ended { status, signal: Signal::try_from(signal).ok() });
        }
        let status = u8::try_from(status.exit_status()?).ok()?;
        Some(Self::Ended { status, signal: None })
    }
}

/// The status that a shell reports for a process killed by this signal.
pub(crate) fn status_of_signal(signal: i32) -> u8 {
    u8::try_from(signal).map_or(u8::MAX, |signal| signal.saturating_add(128))
}
