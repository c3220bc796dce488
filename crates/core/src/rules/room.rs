//! How many may wait: `max-waiters`. Only clients that wait are refused for it. Clients and kept
//! positions together stay within it as well: beyond it, the position that has been kept longest
//! gives way. So kept positions never keep a client from waiting.
//!
//! | with max-waiters 3 | | |
//! |---|---|---|
//! | 1 client, 1 kept position | a client wants to wait | 2 clients, 1 kept position |
//! | 1 client, 2 kept positions | a client wants to wait | 2 clients, the newer kept position |
//! | 2 clients, 1 kept position | the wait of one expires | 1 client, 2 kept positions |
//! | 3 clients | a client wants to wait | it is refused |

use crate::error::CommandError;
use crate::manager::{LockManager, counted_for};
use crate::rules::leave::LeaveReason;
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::wait_queue::{Ticket, Waiter};

impl LockManager {
    /// Checks that one more client may wait. A call that takes over from one that waits is none.
    pub(crate) fn check_room(
        &mut self,
        locks: &[Id],
        older: &[Ticket],
    ) -> Result<(), CommandError> {
        let waits = |ticket| self.queues.get(ticket).is_some_and(Waiter::is_waiting);
        let waiting = u64::try_from(self.count_waiting()).unwrap_or(u64::MAX);
        if waiting < self.settings.max_waiters || older.iter().copied().any(waits) {
            return Ok(());
        }
        self.count(counted_for(locks), |counters| &mut counters.refused);
        Err(CommandError::MaxWaiters)
    }

    /// The waiters that `max-waiters` compares with: kept positions give way instead.
    fn count_waiting(&self) -> usize {
        #[cfg(feature = "break-rules")]
        if crate::broken::is("kept-places-fill-the-server") {
            return self.queues.len();
        }
        self.queues.clients()
    }

    /// Whether there are more clients and kept positions than `max-waiters`, and a kept position
    /// can give way. With a lower limit there may be many.
    pub(crate) fn has_surplus(&self) -> bool {
        let limit = usize::try_from(self.settings.max_waiters).unwrap_or(usize::MAX);
        self.queues.len() > limit && self.queues.kept_longest().is_some()
    }

    /// After a position was added: the one kept longest gives way if there are too many. It may be
    /// the new one.
    pub(crate) fn make_room(&mut self, now: Now) {
        let Some(oldest) = self.queues.kept_longest().filter(|_| self.has_surplus())
        else {
            return;
        };
        // What is only marked needs memory until it is removed.
        let marked = u64::try_from(self.queues.given_up()).unwrap_or(u64::MAX);
        if marked < self.settings.max_waiters {
            self.end_wait_within_budget(oldest, LeaveReason::GivesWay, now);
        } else {
            self.end_wait(oldest, LeaveReason::GivesWay, now);
        }
    }

    /// After `max-waiters` was lowered: lets kept positions give way, as far as the budget goes.
    pub(crate) fn end_surplus(&mut self, now: Now) {
        while let Some(ticket) = self.queues.kept_longest().filter(|_| self.has_surplus())
        {
            if !self.budget.spend(self.queues.positions_of(ticket), now) {
                return;
            }
            self.end_wait(ticket, LeaveReason::GivesWay, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Acquire;
    use crate::rules::deadlock::DeadlockCheck;
    use crate::rules::test_support::{
        GPU, NOW, after, begin, counted, held, id, manager, name, queue, replies,
        request, run_next_deferred, unique, wait, wait_for_set,
    };
    use crate::rules::wait::Waiting;
    use crate::state::key_state::KeyState;
    use crate::state::outbox::WaitReply;
    use crate::state::wait_queue::Wanted;

    /// A manager with this `max-waiters`, and a lock that is held.
    fn limited(max_waiters: u64) -> LockManager {
        let mut manager = manager();
        manager.configure(|settings| settings.max_waiters = max_waiters);
        held(&mut manager, GPU, "holder");
        begin(&mut manager);
        manager
    }

    /// An owner gives up after a short wait, and its position is kept.
    fn give_up(manager: &mut LockManager, owner: &str) {
        let ticket = wait(manager, GPU, &unique(owner), 2);
        manager.leave(ticket, LeaveReason::TimedOut, NOW);
    }

    fn may_wait(manager: &mut LockManager) -> Result<(), CommandError> {
        let keys = [GPU.as_bytes()];
        let wanted = Wanted { keys: &keys, ..Wanted::default() };
        let check = DeadlockCheck::Skipped;
        let waits = manager.wait(wanted, &request("new"), 9, &check, true, NOW);
        waits.map(|waits| assert!(matches!(waits, Waiting::Queued(_)), "{waits:?}"))
    }

    #[test]
    fn owners_that_give_up_never_fill_the_server() {
        let mut manager = limited(10);
        for n in 0..1_000 {
            give_up(&mut manager, &n.to_string());
            assert!(manager.queues.len() <= 10);
        }
        let newest: Vec<_> = (990..1_000).map(|n| format!("({n})")).collect();
        assert_eq!(queue(&manager, GPU), newest.join(" "));
        assert_eq!(may_wait(&mut manager), Ok(()));
        assert_eq!(queue(&manager, GPU), format!("{} new", newest[1..].join(" ")));
        assert_eq!(counted(&manager), "wait_timeouts=1000", "giving way does not count");
        assert!(manager.next_wake_ms(NOW).is_some());
    }

    #[test]
    fn only_clients_that_wait_make_a_call_fail() {
        let mut manager = limited(2);
        for client in [3, 4] {
            give_up(&mut manager, "away");
            wait(&mut manager, GPU, &request("a"), client);
        }
        assert_eq!(queue(&manager, GPU), "a a");
        assert_eq!(may_wait(&mut manager), Err(CommandError::MaxWaiters));
        assert_eq!(counted(&manager), "refused wait_timeouts=2");
        assert_eq!(queue(&manager, GPU), "a a", "a refused call changes nothing");
    }

    #[test]
    fn the_position_kept_longest_gives_way_whenever_its_owner_joined_and_it_would_end() {
        let mut manager = limited(3);
        let long = Acquire { keep_ms: Some(60_000), ..unique("long") };
        let early = wait(&mut manager, GPU, &unique("early"), 2);
        let first = wait(&mut manager, GPU, &long, 3);
        let last = wait(&mut manager, GPU, &unique("last"), 4);
        for ticket in [first, last, early] {
            manager.leave(ticket, LeaveReason::Disconnected, NOW);
        }
        for expected in ["(early) (last) b", "(early) b b", "b b b"] {
            wait(&mut manager, GPU, &request("b"), 5);
            assert_eq!(queue(&manager, GPU), expected);
        }
    }

    #[test]
    fn a_position_that_was_taken_over_has_been_kept_only_since_then() {
        let mut manager = limited(2);
        give_up(&mut manager, "a");
        give_up(&mut manager, "b");
        give_up(&mut manager, "a");
        assert_eq!(queue(&manager, GPU), "(a) (b)");
        wait(&mut manager, GPU, &request("c"), 3);
        assert_eq!(queue(&manager, GPU), "(a) c");
    }

    #[test]
    fn the_position_of_a_waiter_that_is_only_marked_as_left_gives_way_in_its_turn() {
        for is_removed in [false, true] {
            let mut manager = limited(2);
            let marked = wait(&mut manager, GPU, &unique("marked"), 2);
            manager.mark_left(marked, LeaveReason::Disconnected, NOW);
            give_up(&mut manager, "b");
            if is_removed {
                manager.expire_waits(NOW);
                assert_eq!(manager.queues.left(), 0);
            }
            assert_eq!(queue(&manager, GPU), "(marked) (b)");
            wait(&mut manager, GPU, &request("c"), 3);
            assert_eq!(queue(&manager, GPU), "(b) c", "removed: {is_removed}");
            manager.expire_waits(NOW);
            assert_eq!((manager.queues.left(), manager.queues.len()), (0, 2));
        }
    }

    #[test]
    fn a_restored_position_makes_the_oldest_give_way_and_not_a_client() {
        for (others, expected) in [(&["(away)"][..], "(me)"), (&["b"], "b")] {
            let mut manager = limited(1);
            manager.reconcile_named(name(GPU), &KeyState::Absent, NOW);
            wait(&mut manager, GPU, &unique("me"), 2);
            manager.hand_off_next(id(&manager, GPU), NOW);
            let reply = manager.outbox.take_reply();
            let Some((_, WaitReply::Granted { grants, waiter, .. })) = reply else {
                panic!("{reply:?}")
            };
            for other in others {
                match other.strip_prefix('(') {
                    Some(_) => give_up(&mut manager, "away"),
                    None => drop(wait(&mut manager, "gpu:1", &request("b"), 3)),
                }
            }
            manager.deferred.clear();
            manager.undelivered(&grants, &waiter, &[]);
            run_next_deferred(&mut manager, NOW);
            let queues = [queue(&manager, GPU), queue(&manager, "gpu:1")].concat();
            assert_eq!((queues.as_str(), manager.queues.len()), (expected, 1));
        }
    }

    #[test]
    fn after_the_limit_was_lowered_kept_positions_give_way_in_portions_and_clients_stay()
    {
        let mut manager = limited(10_000);
        for n in 0..3_000 {
            give_up(&mut manager, &n.to_string());
        }
        let clients = ["a", "b"].map(|owner| wait(&mut manager, GPU, &unique(owner), 3));
        begin(&mut manager);
        manager.configure(|settings| settings.max_waiters = 1);
        assert_eq!(manager.queues.len(), 3_002);
        assert_eq!(manager.next_wake_ms(NOW), Some(NOW.ms()));
        for (ms, left) in [(0, 1_978), (1, 954), (2, 2)] {
            manager.expire_waits(after(ms));
            assert_eq!(manager.queues.len(), left, "after {ms} ms");
        }
        assert_eq!(queue(&manager, GPU), "a b");
        assert_eq!((counted(&manager), replies(&mut manager)), (String::new(), vec![]));
        // There is no room for a place of one that gives up now.
        manager.leave(clients[0], LeaveReason::TimedOut, after(2));
        assert_eq!(queue(&manager, GPU), "b");
    }

    #[test]
    fn positions_of_large_lock_sets_that_give_way_do_not_pile_up() {
        const LIMIT: usize = 4;
        let mut manager = limited(LIMIT as u64);
        let keys: Vec<String> = (0..1_024).map(|n| format!("k:{n}")).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        for n in 0..30u64 {
            let owner = n.to_string();
            let ticket = wait_for_set(&mut manager, &keys, 1_024, &unique(&owner), n);
            manager.mark_left(ticket, LeaveReason::TimedOut, NOW);
            assert!(manager.queues.len() <= LIMIT);
            assert!(manager.queues.tickets().len() <= 2 * LIMIT, "after {n}");
        }
    }
}
