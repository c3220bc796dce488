//! What the server itself does to locks: it becomes a primary or a replica, or evicts a key.

use crate::manager::{Caller, LockManager};
use crate::rules::leave::LeaveReason;
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::event::End;
use crate::state::lock::Name;

/// The number of holds that a replica ends at a time. Half a million would take as many
/// microseconds.
const HOLDS_AT_A_TIME: usize = 1_000;

impl LockManager {
    /// This server became a primary: tokens start ahead of the clock again.
    pub fn promoted(&mut self, now: Now) {
        // The keys may have changed hands while this server was a replica, so no older hold may
        // remain. Usually they have all ended by now.
        while self.has_old_holds() {
            self.end_old_holds(now);
        }
        self.finish_demotion(now);
        self.is_primary = true;
        self.tokens.begin(now);
    }

    /// This server became a replica: all waits end at once, and all holds in portions.
    pub fn demoted(&mut self, now: Now) {
        self.is_primary = false;
        for ticket in self.queues.tickets() {
            self.end_wait_within_budget(ticket, LeaveReason::RoleChanged, now);
        }
        self.finish_demotion(now);
    }

    /// On a replica, ends a portion of the holds that remain, and forgets the work that their ends,
    /// closed connections and removed positions have deferred: a replica writes nothing.
    pub(crate) fn finish_demotion(&mut self, now: Now) {
        if !self.is_primary {
            self.end_old_holds(now);
            self.forget_deferred();
        }
    }

    /// Forgets all deferred work. A lock that was to pass on is not known to be free any longer: else
    /// those that wait for it with GROUPS later would not count it, because nothing has offered it to
    /// the waiters that have left before them.
    fn forget_deferred(&mut self) {
        for lock in self.deferred.clear() {
            self.table.unreserve(lock);
        }
    }

    /// Whether holds remain from when this server was a primary.
    pub(crate) fn has_old_holds(&self) -> bool {
        !self.is_primary && self.table.held() > 0
    }

    /// Ends a portion of the holds that remain from when this server was a primary.
    fn end_old_holds(&mut self, now: Now) {
        for _ in 0..HOLDS_AT_A_TIME {
            let Some(id) = self.table.oldest().filter(|_| !self.is_primary) else {
                return;
            };
            self.end_old_hold(id, now);
        }
    }

    /// Ends the hold of a lock if it remains from when this server was a primary. A replica reports
    /// only what the keys show.
    pub(crate) fn end_old_hold(&mut self, id: Id, now: Now) {
        if !self.is_primary {
            self.end(id, End::Removed, Caller::default(), now);
        }
    }

    /// The server evicted a key.
    pub fn evicted(&mut self, name: Name<'_>, now: Now) {
        if let Some(id) = self.table.find(name) {
            self.end(id, End::Evicted, Caller::default(), now);
            self.keys_may_change();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::HOLDS_AT_A_TIME;
    use crate::error::CommandError;
    use crate::report::list::Listed;
    use crate::rules::test_support::{
        GPU, NOW, acquire, adopted, after, begin, counted, held, holder, id, in_session,
        logged, manager, name, published, queue, replies, request, shows, unique, wait,
    };

    #[test]
    fn a_replica_has_no_holds_no_waiters_and_no_deferred_work() {
        let mut manager = manager();
        held(&mut manager, "gpu:0", "me");
        adopted(&mut manager, "gpu:1", "other");
        acquire(&mut manager, "gpu:2", &in_session("me", 9), 7);
        let b = wait(&mut manager, "gpu:0", &unique("b"), 2);
        wait(&mut manager, "gpu:0", &unique("c"), 3);
        begin(&mut manager);
        manager.client_gone(3, NOW);
        manager.client_gone(7, NOW);
        manager.demoted(after(50));
        assert_eq!(counted(&manager), "waits_abandoned=2 removed=3");
        assert_eq!(replies(&mut manager), [(b, "UNBLOCKED".to_owned())]);
        assert_eq!(queue(&manager, "gpu:0"), "", "positions are not kept");
        assert_eq!((manager.table.held(), manager.queues.len()), (0, 0));
        assert!(!manager.deferred.has_any());
        assert_eq!(manager.next_wake_ms(after(50)), Some(after(50).ms()), "events");
        published(&mut manager);
        assert_eq!(manager.next_wake_ms(after(50)), None);
        assert_eq!(manager.may_write(), Err(CommandError::ReadOnly));
    }

    #[test]
    fn a_replica_replies_to_all_waiters_at_once_and_ends_many_holds_in_portions() {
        let mut manager = manager();
        for n in 0..2 * HOLDS_AT_A_TIME {
            held(&mut manager, &n.to_string(), "me");
        }
        for client in 0..2_000 {
            wait(&mut manager, "0", &unique(&client.to_string()), client);
        }
        begin(&mut manager);
        manager.demoted(NOW);
        assert_eq!(replies(&mut manager).len(), 2_000);
        // A report shows no hold from before.
        let last = (2 * HOLDS_AT_A_TIME - 1).to_string();
        let inspected = manager.inspect(name(&last), &shows("me"), NOW).unwrap().unwrap();
        assert_eq!((inspected.token, inspected.adopted), (None, Some(true)));
        let listed = id(&manager, &(2 * HOLDS_AT_A_TIME - 2).to_string());
        assert_eq!(manager.list_row(listed, &shows("me"), NOW), Listed::Gone);
        assert_eq!((manager.queues.clients(), manager.queues.len()), (0, 0));
        assert!(manager.queues.left() > 0, "they are removed from their queue later");
        assert_eq!(manager.table.held(), HOLDS_AT_A_TIME as u64 - 2);
        for ms in 1..9 {
            published(&mut manager);
            assert!(manager.needs_timer());
            assert_eq!(manager.next_wake_ms(after(ms - 1)), Some(after(ms).ms()));
            manager.expire_waits(after(ms));
            published(&mut manager);
            if !manager.needs_timer() {
                break;
            }
        }
        assert_eq!(counted(&manager), "waits_abandoned=2000 removed=2000");
        assert_eq!((manager.table.held(), manager.queues.left()), (0, 0));
        assert_eq!(manager.next_wake_ms(after(9)), None);
    }

    #[test]
    fn a_replica_keeps_no_deferred_work() {
        let mut manager = manager();
        for n in 0..2 * HOLDS_AT_A_TIME {
            acquire(&mut manager, &n.to_string(), &in_session("me", 0), 7);
        }
        manager.demoted(NOW);
        manager.client_gone(7, NOW);
        for ms in 1..9 {
            manager.expire_waits(after(ms));
            published(&mut manager);
        }
        assert!(!manager.deferred.has_any());
        assert_eq!(manager.next_wake_ms(after(9)), None);
    }

    #[test]
    fn no_hold_from_before_outlives_a_promotion() {
        let mut manager = manager();
        for n in 0..3 * HOLDS_AT_A_TIME {
            held(&mut manager, &n.to_string(), "me");
        }
        manager.demoted(NOW);
        manager.promoted(NOW);
        assert_eq!(manager.table.held(), 0);
        assert_eq!(manager.counters.removed, 3 * HOLDS_AT_A_TIME as u64);
        // A primary has no old holds.
        held(&mut manager, "gpu:0", "me");
        manager.expire_waits(after(1));
        assert_eq!(manager.table.held(), 1);
    }

    #[test]
    fn a_new_primary_grants_larger_tokens_than_before() {
        let mut manager = manager();
        let last = held(&mut manager, "gpu:0", "me");
        manager.demoted(NOW);
        manager.promoted(NOW);
        assert_eq!(manager.may_write(), Ok(()));
        assert!(held(&mut manager, "gpu:0", "me") > last);
        // They start ten seconds ahead of the clock again.
        manager.promoted(after(60_000));
        assert!(held(&mut manager, "gpu:1", "me") > after(70_000).micros());
    }

    #[test]
    fn an_evicted_lock_is_counted_and_passes_on_with_the_next_probe() {
        let mut manager = manager();
        held(&mut manager, GPU, "me");
        wait(&mut manager, GPU, &request("b"), 2);
        begin(&mut manager);
        manager.evicted(name(GPU), NOW);
        manager.evicted(name("gpu:1"), NOW);
        assert_eq!(
            (counted(&manager).as_str(), logged(&manager).as_str()),
            ("evicted", "removed")
        );
        assert_eq!(published(&mut manager), ["me: evicted"]);
        assert_eq!(
            (holder(&manager, GPU), queue(&manager, GPU)),
            ("free".to_owned(), "b".to_owned())
        );
    }
}
