//! What the server itself does to locks: it becomes a primary or a replica, or evicts a key.

use crate::manager::{Caller, LockManager};
use crate::rules::leave::LeaveReason;
use crate::state::clock::Now;
use crate::state::event::End;
use crate::state::lock::Name;

impl LockManager {
    /// This server became a primary: tokens start ahead of the clock again.
    pub fn promoted(&mut self, now: Now) {
        self.is_primary = true;
        self.tokens.begin(now);
    }

    /// This server became a replica: all holds and waits end here.
    pub fn demoted(&mut self, now: Now) {
        self.is_primary = false;
        while let Some(id) = self.queues.first_lock() {
            while let Some(ticket) = self.queues.first_position(id) {
                self.end_wait(ticket, LeaveReason::RoleChanged, now);
            }
        }
        self.deferred.clear();
        while let Some(id) = self.table.oldest() {
            self.end(id, End::Removed, Caller::default(), now);
        }
    }

    /// The server evicted a key.
    pub fn evicted(&mut self, name: Name<'_>, now: Now) {
        if let Some(id) = self.table.find(name) {
            self.end(id, End::Evicted, Caller::default(), now);
            self.key_changed();
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::error::CommandError;
    use crate::rules::test_support::{
        GPU, NOW, acquire, adopted, after, begin, counted, held, holder, in_session,
        logged, manager, name, published, queue, replies, request, unique, wait,
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
        assert_eq!(manager.next_wake_ms(after(50)), None);
        assert_eq!(manager.may_write(), Err(CommandError::ReadOnly));
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
