//! When to look at a lock without being asked: at the end of its lease while somebody
//! waits for it, or while a grace runs; and every few milliseconds at the locks with
//! lines, since other commands take keys away without a word.

use crate::arena::Id;
use crate::clock::Now;
use crate::keeper::Keeper;
use crate::lock::{NO_END, Session};

/// How often the lines are looked at, in ms.
const LOOK_EVERY_MS: u64 = 5;

/// How many lines at a time. When one of them is served the next ones come at once.
const LINES_AT_A_TIME: usize = 160;

/// How many locks whose lease is over are looked at in one go; the rest a moment later.
const ENDS_AT_A_TIME: usize = 100;

/// How far the looking at lines is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Round {
    pub(crate) last: Option<Id>,
    pub(crate) next_ms: u64,
    /// When alarms were heard last: one that goes on, because the server still shows a key
    /// whose time is over, is heard again a millisecond later, not at once.
    pub(crate) heard_ms: u64,
}

impl Round {
    /// Goes on at once: where one key is gone, as after FLUSHALL, others may be.
    pub(crate) fn look_again(&mut self) {
        self.next_ms = 0;
    }
}

impl Keeper {
    /// Sets the alarm of a lock to the end of its lease, if anybody is to be told of it.
    pub(crate) fn rearm(&mut self, id: Id) {
        let Some(lock) = self.table.get_mut(id) else { return };
        let wanted = match &lock.hold {
            Some(hold)
                if (lock.present > 0 || hold.session == Session::Closed)
                    && hold.until_ms != NO_END =>
            {
                // A key lives through the millisecond in which it ends.
                hold.until_ms.saturating_add(1)
            }
            _ => 0,
        };
        let armed = std::mem::replace(&mut lock.alarm_ms, wanted);
        if armed == wanted {
            return;
        }
        self.alarms.remove(&(armed, id));
        if wanted != 0 {
            self.alarms.insert((wanted, id));
        }
    }

    /// True when [`Keeper::next_wake_ms`] has an answer.
    pub fn is_waited_for(&self) -> bool {
        self.lines.clients() > 0
            || !self.alarms.is_empty()
            || self.lines.left() > 0
            || self.owes()
    }

    /// When something is to be done without being asked, in ms since the epoch; none:
    /// nobody waits and no grace runs.
    pub fn next_wake_ms(&self, now: Now) -> Option<u64> {
        const NEVER: u64 = u64::MAX;
        // The clock may have been stepped back.
        let far = now.ms().saturating_add(LOOK_EVERY_MS);
        let (look, deadline) = match self.lines.clients() {
            // The end of a kept place is noticed in passing: nobody hears of it.
            0 if self.lines.left() == 0 => (NEVER, NEVER),
            0 => (NEVER, self.portion.next_ms(now)),
            _ => {
                let left = (self.lines.left() > 0).then_some(0);
                let deadline = left.or(self.lines.next_deadline()).unwrap_or(NEVER);
                (self.round.next_ms.min(far), deadline.max(self.portion.next_ms(now)))
            }
        };
        let heard_ms = self.round.heard_ms.min(now.ms());
        let owed = match (self.owes_at_once(), self.owes()) {
            (true, _) => 0,
            (false, true) => heard_ms.saturating_add(1),
            (false, false) => NEVER,
        };
        let alarm = self.alarms.first().map_or(NEVER, |(ms, _)| *ms);
        let alarm = alarm.max(heard_ms.saturating_add(1));
        let next = look.min(owed).min(alarm).min(deadline);
        (next != NEVER).then(|| next.max(now.ms()))
    }

    /// Puts the locks with lines that are to be looked at now into `due`.
    pub fn due_lines(&mut self, now: Now, due: &mut Vec<Id>) {
        self.round.heard_ms = now.ms();
        let over = self.alarms.range(..=(now.ms(), Id::LAST));
        due.extend(over.map(|(_, id)| *id).take(ENDS_AT_A_TIME));
        // The clock may have been stepped back.
        let far = now.ms().saturating_add(LOOK_EVERY_MS);
        if now.ms() < self.round.next_ms && self.round.next_ms <= far {
            return;
        }
        self.round.next_ms = far;
        let first = self.lines.next_line(self.round.last);
        let round = std::iter::successors(first, |id| {
            self.lines.next_line(Some(*id)).filter(|next| Some(*next) != first)
        });
        let looked_at = due.len();
        due.extend(round.take(LINES_AT_A_TIME));
        self.round.last = due.get(looked_at..).and_then(<[Id]>::last).copied();
    }
}
