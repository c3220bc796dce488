//! Terminates the command: TERM to all its processes, then KILL until none is left.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::clock::Moment;
use crate::run::deadlines::Deadlines;
use crate::run::process_tree::ProcessTree;
use crate::run::stderr::Stderr;

/// Pause between two KILL signals: processes that are being started may be missed by one.
const KILL_INTERVAL: Duration = Duration::from_millis(20);

/// How long killed processes may take to end before a message names them, and before KILL is
/// sent less often.
const KILL_GRACE: Duration = Duration::from_secs(1);

/// A termination in progress.
pub(crate) struct Termination {
    pub(crate) deadlines: Deadlines,
    term_sent: bool,
    /// When the first KILL was sent.
    killed_at: Option<Moment>,
    survivors_reported: bool,
}

impl Termination {
    pub(crate) fn by(deadlines: Deadlines) -> Self {
        let (term_sent, killed_at, survivors_reported) = (false, None, false);
        Self { deadlines, term_sent, killed_at, survivors_reported }
    }

    /// Continues a termination in which TERM was sent already.
    pub(crate) fn continued(deadlines: Deadlines) -> Self {
        Self { term_sent: true, ..Self::by(deadlines) }
    }

    /// Sends TERM the first time, and KILL each time after the deadline.
    pub(crate) fn advance(
        &mut self,
        now: Moment,
        kill_at: Moment,
        processes: ProcessTree,
        stderr: &Stderr,
    ) {
        let term_sent = std::mem::replace(&mut self.term_sent, true);
        if now >= kill_at {
            let killed_at = *self.killed_at.get_or_insert(now);
            processes.signal(Signal::SIGKILL);
            let is_overdue = now.saturating_sub(killed_at) >= KILL_GRACE;
            if is_overdue && !std::mem::replace(&mut self.survivors_reported, true) {
                report_survivors(processes, stderr);
            }
        } else if !term_sent {
            processes.signal(Signal::SIGTERM);
            // A stopped process handles TERM only after CONT.
            processes.signal(Signal::SIGCONT);
        }
    }

    /// The pause until the next KILL, if the first one was sent. None otherwise.
    pub(crate) fn kill_pause(&self, now: Moment, tick: Duration) -> Option<Duration> {
        let killed_at = self.killed_at?;
        let is_overdue = now.saturating_sub(killed_at) >= KILL_GRACE;
        Some(if is_overdue { tick } else { KILL_INTERVAL })
    }
}

/// Another user's process cannot be killed, and one that waits for a device ends only when the
/// device responds. The locks are kept until then.
fn report_survivors(processes: ProcessTree, stderr: &Stderr) {
    for process in processes.alive() {
        let (pid, name) = (process.pid, process.name());
        stderr.error(&format!(
            "process {pid} ({name}) cannot be killed: \
             it belongs to another user, or waits for a device"
        ));
    }
}
