//! Grants that did not reach their waiter: they are taken back, and the lock passes on.

use crate::manager::{Caller, LockManager};
use crate::rules::session::DeferredOutcome;
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::deferred::Lost;
use crate::state::event::End;
use crate::state::lock::{Bytes, Name};
use crate::state::outbox::Grant;
use crate::state::wait_queue::{Locks, Waiter};

impl LockManager {
    /// A waiter was gone before it received its grants: they are taken back.
    pub fn undelivered(&mut self, grants: &[Grant], waiter: &Waiter, set: &[Bytes]) {
        self.deferred.take_back(grants, waiter.clone(), set);
    }

    /// A waiter may not have its grants, because its user has lost the permission: they are taken
    /// back, and its position is not restored.
    pub fn not_permitted(&mut self, grants: &[Grant], waiter: &Waiter) {
        let waiter = Waiter { unique: false, ..waiter.clone() };
        self.deferred.take_back(grants, waiter, &[]);
    }

    /// Takes a grant back, unless its owner has acquired the lock again meanwhile and so got the
    /// token.
    pub(crate) fn take_back(
        &mut self,
        id: Id,
        token: u64,
        lost: &Lost,
        now: Now,
    ) -> DeferredOutcome {
        let hold = self.table.hold(id);
        if hold.is_none_or(|hold| hold.token() != Some(token) || hold.renewed) {
            return DeferredOutcome::Nothing;
        }
        self.restore_position(id, lost, now);
        self.end(id, End::Undelivered, Caller::default(), now);
        DeferredOutcome::Ended(self.hand_off_next(id, now))
    }

    /// Restores the position of a UNIQUE waiter whose grant is taken back, unless that was done for
    /// another lock of its set, or its owner has a newer position in one of these queues.
    fn restore_position(&mut self, id: Id, lost: &Lost, now: Now) {
        let Lost { waiter, set } = lost;
        let Some(db) = self.table.get(id).map(|lock| lock.db) else { return };
        if !waiter.unique || self.keep_ms(waiter) == 0 {
            return;
        }
        let is_queued = |id: &Id| self.queues.position_of(&waiter.owner, *id).is_some();
        let locks: Locks = if set.is_empty() {
            if waiter.locks.iter().any(is_queued) {
                return;
            }
            waiter.locks.clone()
        } else {
            let find = |key: &Bytes| self.table.find(Name { db, key });
            if set.iter().filter_map(find).any(|id| is_queued(&id)) {
                return;
            }
            let mut create = |key: &Bytes| self.table.find_or_create(Name { db, key });
            set.iter().filter_map(&mut create).collect()
        };
        let mut waiter = Waiter { locks, ..waiter.clone() };
        self.restore_turn(&mut waiter);
        self.keep_position(&waiter, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Acquire;
    use crate::rules::hand_off::HandOff;
    use crate::rules::test_support::{
        GPU, NOW, begin, client, counted, hand_off_set, held, holder, id, manager, name,
        published, queue, request, run_next_deferred, shows, unique, wait, wait_for_set,
    };
    use crate::state::key_state::KeyState;
    use crate::state::outbox::WaitReply;

    /// The lock passes to `me`, which waits as client 2 in the queue before `b`.
    fn hand_off(
        manager: &mut LockManager,
        how: &Acquire<'_>,
    ) -> (Vec<Grant>, Box<Waiter>) {
        wait(manager, GPU, how, 2);
        wait(manager, GPU, &request("b"), 3);
        let lock = id(manager, GPU);
        manager.hand_off_next(lock, NOW);
        first_grant(manager).0
    }

    /// The first reply: grants to a waiter, and the keys of its lock set.
    fn first_grant(manager: &mut LockManager) -> ((Vec<Grant>, Box<Waiter>), Vec<Bytes>) {
        let reply = manager.outbox.take_reply();
        let Some((_, WaitReply::Granted { grants, waiter, set })) = reply else {
            panic!("{reply:?}")
        };
        begin(manager);
        ((grants, waiter), set)
    }

    #[test]
    #[rustfmt::skip]
    fn a_grant_that_did_not_arrive_is_taken_back_and_passes_on() {
        let undelivered: fn(&mut LockManager, &[Grant], &Waiter) =
            |it, grants, waiter| it.undelivered(grants, waiter, &[]);
        for (what, call, take_back, expected_queue) in [
            ("a UNIQUE owner gets its position back", unique("me"), undelivered, "(me)"),
            ("without UNIQUE it does not", request("me"), undelivered, ""),
            ("without the permission it does not", unique("me"),
                |it, grants, waiter| it.not_permitted(grants, waiter), ""),
        ] {
            let mut manager = manager();
            let (grants, waiter) = hand_off(&mut manager, &call);
            take_back(&mut manager, &grants, &waiter);
            let outcome = run_next_deferred(&mut manager, NOW);
            let next = match outcome {
                Some(DeferredOutcome::Ended(HandOff::Waiter(next))) => next.owner,
                other => panic!("{what}: {other:?}"),
            };
            assert_eq!(&*next, b"b", "{what}: the next waiter");
            assert_eq!(queue(&manager, GPU), expected_queue, "{what}: queue");
            assert_eq!(counted(&manager), "acquired acquired_after_wait undelivered", "{what}");
            assert_eq!(published(&mut manager), ["me: disconnect"], "{what}: events");
        }
    }

    #[test]
    fn a_restored_position_is_the_one_before_the_grant() {
        let mut manager = manager();
        let (grants, waiter) = hand_off(&mut manager, &unique("me"));
        manager.undelivered(&grants, &waiter, &[]);
        run_next_deferred(&mut manager, NOW);
        wait(&mut manager, GPU, &request("c"), 4);
        let again = wait(&mut manager, GPU, &unique("me"), 5);
        assert_eq!(manager.queues.get(again).unwrap().turn, waiter.turn);
        assert_eq!(queue(&manager, GPU), "me c");
    }

    #[test]
    fn a_grant_that_its_owner_has_confirmed_is_not_taken_back() {
        let mut manager = manager();
        let (grants, waiter) = hand_off(&mut manager, &unique("me"));
        manager.undelivered(&grants, &waiter, &[]);
        // The owner has reconnected, and got the token by ACQUIRE UNIQUE.
        let renewed =
            manager.acquire(name(GPU), &unique("me"), &shows("me"), client(8), NOW);
        assert!(renewed.is_ok());
        assert_eq!(run_next_deferred(&mut manager, NOW), Some(DeferredOutcome::Nothing));
        assert_eq!(holder(&manager, GPU), "me");
    }

    #[test]
    fn a_grant_is_not_taken_back_from_a_later_hold() {
        let mut manager = manager();
        let (grants, waiter) = hand_off(&mut manager, &unique("me"));
        manager.undelivered(&grants, &waiter, &[]);
        manager.reconcile_named(name(GPU), &KeyState::Absent, NOW);
        manager.hand_off_next(id(&manager, GPU), NOW);
        assert_eq!(run_next_deferred(&mut manager, NOW), Some(DeferredOutcome::Nothing));
        assert_eq!(holder(&manager, GPU), "b");
    }

    #[test]
    fn the_position_for_a_lock_set_is_restored_once_in_all_its_queues() {
        let mut manager = manager();
        let keys = ["gpu:0", "gpu:1"];
        held(&mut manager, "gpu:2", "other");
        let pair_of_three = [keys[0], keys[1], "gpu:2"];
        let me = wait_for_set(&mut manager, &pair_of_three, 2, &unique("me"), 2);
        for key in keys {
            manager.hand_off_next(id(&manager, key), NOW);
        }
        hand_off_set(&mut manager, me, NOW).unwrap();
        let ((grants, waiter), set) = first_grant(&mut manager);
        manager.undelivered(&grants, &waiter, &set);
        while run_next_deferred(&mut manager, NOW).is_some() {}
        for key in pair_of_three {
            assert_eq!(queue(&manager, key), "(me)", "{key}");
        }
        assert_eq!(counted(&manager), "undelivered=2");
        assert_eq!(manager.queues.len(), 1);
    }
}
