//! The time after the command's end in which the processes that read its output ([`readers`])
//! finish by themselves. The locks are still held.
//!
//! [`readers`]: super::readers

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::clock::Moment;
use crate::run::deadlines::Deadlines;
use crate::run::processes::Process;
use crate::run::readers::{Pipe, Remaining};
use crate::run::terminate::Termination;

/// How long readers may go without reading anything.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// How long readers may take at most.
const MAX_TIME: Duration = Duration::from_secs(60);

/// How long a process may be no reader before it counts as another process. A reader that has
/// read everything may close its input some time before it ends.
const SETTLE: Duration = Duration::from_millis(100);

/// A process, by number and start.
type Id = (i32, u64);

/// The processes that the command left running, while some of them read its output.
#[derive(Debug)]
pub(crate) struct Drain {
    /// The time is over then, or earlier if nothing is read until `end_of_pause`.
    end: Moment,
    end_of_pause: Moment,
    unread: Vec<(Pipe, u64)>,
    /// The deadlines of the other processes, once one was sent TERM.
    others: Option<Deadlines>,
    /// Those that were sent TERM.
    terminated: HashSet<Id>,
    /// The processes that were readers once.
    readers: HashSet<Id>,
    /// Since when the others have been seen.
    seen: HashMap<Id, Moment>,
}

impl Drain {
    /// Begins at this moment.
    pub(crate) fn since(now: Moment) -> Self {
        Self {
            end: now.saturating_add(MAX_TIME),
            end_of_pause: now.saturating_add(MAX_PAUSE),
            unread: Vec::new(),
            others: None,
            terminated: HashSet::new(),
            readers: HashSet::new(),
            seen: HashMap::new(),
        }
    }

    /// A reader stays one, even after it has closed its input, and a process is another one only
    /// after some time.
    pub(crate) fn settle(&mut self, now: Moment, remaining: Remaining) -> Remaining {
        self.readers.extend(remaining.readers.iter().map(id));
        let Remaining { readers, mut others } =
            remaining.with_readers(|one| self.readers.contains(&id(one)));
        self.readers.extend(readers.iter().map(id));
        others.retain(|one| {
            let since = *self.seen.entry(id(one)).or_insert(now);
            now >= since.saturating_add(SETTLE)
        });
        Remaining { readers, others }
    }

    /// Whether this signal asks this process to end.
    pub(crate) fn is_ended_by(signal: Signal) -> bool {
        const SIGNALS: [Signal; 4] =
            [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];
        SIGNALS.contains(&signal)
    }

    /// Terminates the processes that are not readers: the readers may wait for their output.
    /// Returns how to terminate all that are left, once no reader is left or their time is over.
    pub(crate) fn advance(
        &mut self,
        now: Moment,
        remaining: &Remaining,
    ) -> Option<Termination> {
        let has_readers = !remaining.readers.is_empty();
        let has_others = !remaining.others.is_empty();
        if has_others && !has_readers && self.others.is_none() {
            return Some(Termination::by(Deadlines::of_survivors(now)));
        }
        self.terminate(now, &remaining.others);
        let unread = remaining.unread();
        if has_others || unread != self.unread {
            self.end_of_pause = now.saturating_add(MAX_PAUSE);
            self.unread = unread;
        }
        match self.others {
            Some(deadlines) if has_others && !has_readers => {
                Some(Termination::continued(deadlines))
            }
            _ if now >= self.end.min(self.end_of_pause) => {
                Some(Termination::by(Deadlines::of_survivors(now)))
            }
            _ => None,
        }
    }

    /// When to call [`Drain::advance`] again, even if nothing happens.
    pub(crate) fn next(&self, now: Moment) -> Moment {
        let kill = self.others.map(|deadlines| deadlines.kill);
        let settled = self.seen.values().map(|since| since.saturating_add(SETTLE));
        let times = kill.into_iter().chain(settled).filter(|time| *time > now);
        times.fold(self.end.min(self.end_of_pause), Moment::min)
    }

    fn terminate(&mut self, now: Moment, others: &[Process]) {
        for process in others {
            let deadlines = self.others.get_or_insert(Deadlines::of_survivors(now));
            if self.terminated.insert(id(process)) {
                process.signal(Signal::SIGTERM);
                // A stopped process handles TERM only after CONT.
                process.signal(Signal::SIGCONT);
            }
            if now >= deadlines.kill {
                process.signal(Signal::SIGKILL);
            }
        }
    }
}

fn id(process: &Process) -> Id {
    (process.pid.as_raw(), process.started)
}
