//! How `gpulock run` ends: with a status, or by the signal that interrupted the command or the
//! wait, so that a shell ends its loop or script as it does for any other command.

use std::process::ExitCode;

use nix::sys::prctl::set_dumpable;
use nix::sys::signal::{SigSet, Signal, killpg, raise};
use nix::unistd::getpgrp;

use crate::run::process_group::status_of_signal;

/// How the command ended.
#[derive(Debug)]
pub(crate) struct End {
    /// The command's own status.
    pub(crate) status: u8,
    /// The interruption that ended it, if one did.
    pub(crate) interrupt: Option<Interrupt>,
    /// Why the locks were lost, if they were.
    pub(crate) lost: Option<String>,
}

impl End {
    /// How `gpulock` ends, if the locks were not lost.
    pub(crate) fn ending(&self) -> Ending {
        self.interrupt.map_or(Ending::Status(self.status), Ending::Interrupted)
    }
}

/// How this process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Status(u8),
    Interrupted(Interrupt),
}

/// An interruption by the user: Control-C or Control-\.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interrupt {
    signal: Signal,
    /// Whether the terminal sent the signal to the command's process group only.
    missed_by_job: bool,
}

impl Ending {
    /// The end of a wait by this signal.
    pub(crate) fn of_signal(signal: Signal) -> Self {
        let status = Self::Status(status_of_signal(signal as i32));
        let interrupt = Interrupt::of(signal, &SigSet::empty(), false);
        interrupt.map_or(status, Self::Interrupted)
    }

    /// The status that a shell reports.
    pub(crate) fn status(self) -> u8 {
        match self {
            Self::Status(status) => status,
            Self::Interrupted(interrupt) => status_of_signal(interrupt.signal as i32),
        }
    }

    /// Ends this process if it was interrupted, and returns the status otherwise.
    pub(crate) fn finish(self) -> ExitCode {
        match self {
            Self::Status(status) => ExitCode::from(status),
            Self::Interrupted(interrupt) => interrupt.finish(),
        }
    }
}

impl Interrupt {
    /// The interruption by this signal, if it is one. A terminal that was given to the command
    /// sends its signals to the command alone; those that this process has forwarded came from
    /// elsewhere.
    pub(crate) fn of(
        signal: Signal,
        forwarded: &SigSet,
        has_terminal: bool,
    ) -> Option<Self> {
        let is_interrupt = matches!(signal, Signal::SIGINT | Signal::SIGQUIT);
        let missed_by_job = has_terminal && !forwarded.contains(signal);
        is_interrupt.then_some(Self { signal, missed_by_job })
    }

    /// A shell ends its script if the signal ended its child and reached itself, so the job
    /// gets what it missed.
    fn finish(self) -> ExitCode {
        let Self { signal, missed_by_job } = self;
        if missed_by_job {
            let _sent = killpg(getpgrp(), signal);
        }
        // No core dump: nothing is wrong with this process.
        let _undumpable = set_dumpable(false);
        let _unblocked = SigSet::from(signal).thread_unblock();
        let _raised = raise(signal);
        // The signal is ignored, or this is the first process of a container.
        ExitCode::from(status_of_signal(signal as i32))
    }
}
