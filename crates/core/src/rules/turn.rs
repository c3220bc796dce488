//! The turn of a call: what orders the queues. It is a number that is fixed when the call joins:
//!
//! ```text
//!   turn = grants counted + round × (places and holds of its own share − PRIORITY)
//! ```
//!
//! The lowest turn is served first, and equal ones in order of arrival. A queue counts its grants
//! from its first position to its last one. So a turn says after how many grants of the queue a
//! call is served if all others are plain: PRIORITY moves it forward, and each place or hold that
//! its share has already moves it back, by one round (`gpulock.round` grants, here 16):
//!
//! | grants counted | the call | places and holds | turn | served |
//! |---|---|---|---|---|
//! | 0 | ana, SHARE ana; ana holds the lock | 1 | 16 | third |
//! | 0 | ana's next job | 2 | 32 | fifth |
//! | 0 | ben, SHARE ben | 0 | 0 | first |
//! | 0 | ben's next job | 1 | 16 | fourth, after ana's, which was earlier |
//! | 9 | urgent, PRIORITY 1 | 0 | −7 | at once: before all of these |
//! | 17 | urgent, PRIORITY 1 | 0 | 1 | second: no later call passes ben any more |
//!
//! - **Plain calls are first in, first out.** Their turn is the count of their queue, and that only
//!   rises while any call has a position there. A call for several locks takes the highest count of
//!   its queues and raises the others to it. So every plain call that joins one of these queues
//!   later has an equal or a higher turn.
//! - **No call waits forever.** Let a call with priority n₁ join when its share has k places and
//!   holds. A call with priority n₂ passes it only if fewer than round × (n₂ − n₁ + k) grants were
//!   counted since.
//! - **A turn never changes.** A position that is kept, taken over or restored keeps its turn, and
//!   its queues do not count from 0 again meanwhile.

use crate::manager::LockManager;
use crate::request::Acquire;
use crate::state::arena::Id;
use crate::state::turn::Turn;
use crate::state::wait_queue::{Ticket, Waiter};

/// Where a call joins its queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The number of its turn.
    pub(crate) number: i64,
    /// The highest number of grants counted in its queues.
    pub(crate) counted: u64,
}

/// The formula of the turn.
fn number(counted: u64, round: u64, of_share: u64, priority: i64) -> i64 {
    let [counted, round, of_share] =
        [counted, round, of_share].map(|it| i64::try_from(it).unwrap_or(i64::MAX));
    #[cfg(feature = "break-rules")]
    let counted = if crate::broken::is("priority-without-bound") {
        0
    } else if crate::broken::is("plain-passes-plain") {
        counted.saturating_neg()
    } else {
        counted
    };
    counted.saturating_add(round.saturating_mul(of_share.saturating_sub(priority)))
}

impl LockManager {
    /// Where a call would join the queues of these locks now. The positions that its UNIQUE owner has
    /// there already do not count: it gives them up.
    pub(crate) fn entry(&self, locks: &[Id], request: &Acquire<'_>) -> Entry {
        let counted = locks.iter().map(|lock| self.queues.counted(*lock)).max();
        let counted = counted.unwrap_or(0);
        let of_share = match request.share {
            Some(share) => self.places_and_holds(locks, share, request),
            None => 0,
        };
        let number = number(counted, self.settings.round, of_share, request.priority);
        Entry { number, counted }
    }

    /// The locks that are held under a share, and its positions in the queue that has most of them,
    /// with the priority of the call or a higher one.
    fn places_and_holds(&self, locks: &[Id], share: &[u8], request: &Acquire<'_>) -> u64 {
        let is_held = |lock: &&Id| {
            let details = self.table.details(**lock);
            details.is_some_and(|details| details.share.as_deref() == Some(share))
        };
        let holds = locks.iter().filter(is_held).count();
        let holds = u64::try_from(holds).unwrap_or(u64::MAX);
        let owner = request.unique.then_some(request.owner);
        let queues = &self.queues;
        let places = queues.places_of_share(locks, share, request.priority, owner);
        holds.saturating_add(places)
    }

    /// Whether a free lock goes to a caller with this turn: no connected waiter is before it. `own`
    /// is the caller's position in the queue.
    pub(crate) fn is_turn_of(&self, id: Id, own: Option<Ticket>, turn: Turn) -> bool {
        let first = self.queues.first_other(id, own);
        let first = first.and_then(|ticket| self.queues.get(ticket));
        first.is_none_or(|first| turn <= first.turn)
    }

    /// The turn that a call has in the queues of these locks: that of the position that it would take
    /// over, or else a new one.
    pub(crate) fn turn_of_caller(
        &self,
        same: Option<Ticket>,
        locks: &[Id],
        request: &Acquire<'_>,
    ) -> Turn {
        match same.and_then(|ticket| self.queues.get(ticket)) {
            Some(same) => same.turn,
            // Waiters with the same number come first.
            None => Turn { number: self.entry(locks, request).number, arrival: u64::MAX },
        }
    }

    /// Moves the turn of a waiter whose position is restored if one of its queues was empty
    /// meanwhile and counts from 0 again. Otherwise calls that joined later would come first.
    pub(crate) fn restore_turn(&self, waiter: &mut Waiter) {
        let has_queue =
            |lock: &&Id| self.table.get(**lock).is_some_and(|lock| lock.positions > 0);
        let queues = waiter.locks.iter().filter(has_queue);
        let Some(counted) = queues.map(|lock| self.queues.counted(*lock)).min() else {
            return;
        };
        let ahead = waiter.counted.saturating_sub(counted);
        if ahead > 0 {
            let ahead = i64::try_from(ahead).unwrap_or(i64::MAX);
            waiter.turn.number = waiter.turn.number.saturating_sub(ahead);
            waiter.counted = counted;
            waiter.counted_at_end = counted;
        }
    }
}
