//! The hand-off: a lock that is no longer held passes to the first waiter in one step, so its key
//! changes from owner to owner and is never absent in between.
//!
//! ```text
//!   queue of gpu:0     holder a            then                       then
//!   ┌───┬───┬───┐      RELEASE gpu:0 a     SET gpu:0 b PXAT …         b gets its token
//!   │ b │ c │ d │      ───────────────►    (no DEL in between)        the queue is c, d
//!   └───┴───┴───┘
//! ```
//!
//! A kept position is skipped and stays in the queue. An expired waiter gets null instead of the
//! lock; if there are too many of them, the lock is handed off when they have been removed. For a
//! waiter that wants several locks the lock is reserved until its set is complete (`lock_set`). A
//! waiter with GROUPS is skipped unless it collects the group of the lock (`groups`).

use crate::manager::{LockManager, counted_for};
use crate::rules::hold::GrantParams;
use crate::rules::leave::LeaveReason;
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::lock::Bytes;
use crate::state::outbox::{Grant, WaitReply};
use crate::state::wait_queue::{Ticket, Waiter};

/// What to write to the key of a lock that is no longer held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandOff {
    /// Delete it: no client waits.
    NoWaiter,
    /// Delete it: the lock is reserved for its first waiter, which needs other locks as well.
    Reserved,
    /// Set it to the first waiter.
    Waiter(NewHolder),
    /// The lock completes a set, as far as is known; [`LockManager::unprobed_of`] says what has to
    /// be probed first.
    LockSet {
        /// The waiter for the set.
        ticket: Ticket,
        /// The lock. Its key is left as it is until it is known who gets it.
        lock: Id,
    },
}

/// The waiter that holds the lock now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewHolder {
    /// The owner.
    pub owner: Bytes,
    /// When its lease expires, in ms since the epoch.
    pub until_ms: u64,
}

impl LockManager {
    /// Hands a free lock to the first waiter of its queue.
    pub(crate) fn hand_off_next(&mut self, id: Id, now: Now) -> HandOff {
        while let Some(ticket) = self.next_taker(id) {
            let Some(waiter) = self.queues.get(ticket) else { break };
            if waiter.is_expired(now) {
                if !self.budget.spend(waiter.locks.len(), now) {
                    // The lock is handed off when the waiter is removed.
                    self.mark_left(ticket, LeaveReason::TimedOut, now);
                    self.table.reserve(id);
                    return HandOff::Reserved;
                }
                self.end_wait(ticket, LeaveReason::TimedOut, now);
                continue;
            }
            if waiter.wants > 1 {
                return self.reserve_for_set(id, ticket);
            }
            return match self.hand_off_to(id, ticket, now) {
                Some(holder) => HandOff::Waiter(holder),
                None => HandOff::NoWaiter,
            };
        }
        HandOff::NoWaiter
    }

    /// The waiter that takes a free lock.
    fn next_taker(&mut self, id: Id) -> Option<Ticket> {
        if self.table.get(id).is_none_or(|lock| lock.connected == 0) {
            return None;
        }
        self.offer_to_groups(id);
        self.queues.first_taker(id)
    }

    /// Grants one lock to a waiter that wants one.
    fn hand_off_to(&mut self, id: Id, ticket: Ticket, now: Now) -> Option<NewHolder> {
        // Otherwise removing the waiter would pass the lock on to the next one.
        self.table.unreserve(id);
        let waiter = self.remove_waiter(ticket)?;
        let (token, until_ms) = self.grant(id, &params_of(&waiter), now);
        self.count(Some(id), |counters| &mut counters.acquired_after_wait);
        let key = self.table.get(id).map(|lock| lock.key.clone()).unwrap_or_default();
        let owner = waiter.owner.clone();
        self.reply_granted(ticket, vec![Grant { lock: id, key, token }], waiter, now);
        Some(NewHolder { owner, until_ms })
    }

    /// Counts the wait, and replies to the waiter.
    pub(crate) fn reply_granted(
        &mut self,
        ticket: Ticket,
        grants: Vec<Grant>,
        waiter: Waiter,
        now: Now,
    ) {
        let waited_ms = now.ms_since(waiter.since_ms);
        self.tally(counted_for(&waiter.locks), |counters| {
            counters.wait_ms.record(waited_ms);
        });
        let key = |id: &Id| self.table.get(*id).map(|lock| lock.key.clone());
        let may_come_back = waiter.of_set && waiter.unique;
        let locks = waiter.locks.iter().filter(|_| may_come_back);
        let set = locks.filter_map(key).collect();
        let waiter = Box::new(waiter);
        self.outbox.reply(ticket, WaitReply::Granted { grants, waiter, set });
    }
}

/// What the hold of a waiter begins with.
pub(crate) fn params_of(waiter: &Waiter) -> GrantParams<'_> {
    GrantParams {
        owner: &waiter.owner,
        lease_ms: waiter.lease_ms,
        unique: waiter.unique,
        session: waiter.client.zip(waiter.session_grace_ms),
        share: waiter.share.as_deref(),
        tag: waiter.tag.as_deref(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Acquire;
    use crate::rules::test_support::{
        GPU, after, begin, counted, held, holder, id, manager, name, queue, replies,
        request, unique, wait, wait_for_set,
    };
    use crate::state::deferred::Deferred;
    use crate::state::key_state::KeyState;
    use crate::state::lock::Session;
    use crate::state::settings::Settings;

    /// A free lock is handed off, 50 ms after its queue was made.
    struct Case {
        what: &'static str,
        /// Makes the queue.
        queue: fn(&mut LockManager),
        /// What to write to the key.
        next: &'static str,
        counted: &'static str,
        holder: &'static str,
        /// The queue afterwards.
        left: &'static str,
    }

    fn text(next: HandOff) -> String {
        match next {
            HandOff::NoWaiter => "no waiter".to_owned(),
            HandOff::Reserved => "reserved".to_owned(),
            HandOff::Waiter(holder) => {
                String::from_utf8_lossy(&holder.owner).into_owned()
            }
            HandOff::LockSet { .. } => "lock set".to_owned(),
        }
    }

    fn waits_50_ms(owner: &str) -> Acquire<'_> {
        Acquire { block_ms: Some(50), ..unique(owner) }
    }

    #[test]
    #[rustfmt::skip]
    fn a_free_lock_passes_to_the_first_taker_waiter() {
        let granted = "acquired acquired_after_wait";
        let case = |what, queue, next, counted, holder, left| {
            Case { what, queue, next, counted, holder, left }
        };
        for case in [
            case("no waiter",
                |it| { held(it, GPU, "z");
                    it.reconcile_named(name(GPU), &KeyState::Absent, after(0)); },
                "no waiter", "", "free", ""),
            case("the first waiter",
                |it| { wait(it, GPU, &request("a"), 2); wait(it, GPU, &request("b"), 3); },
                "a", granted, "a", "b"),
            case("a kept position is skipped and stays",
                |it| { wait(it, GPU, &unique("a"), 2); wait(it, GPU, &request("b"), 3);
                    it.client_gone(2, after(0)); },
                "b", granted, "b", "(a)"),
            case("only a kept position",
                |it| { wait(it, GPU, &unique("a"), 2); it.client_gone(2, after(0)); },
                "no waiter", "", "free", "(a)"),
            case("an expired waiter is skipped; its position is kept",
                |it| { wait(it, GPU, &waits_50_ms("a"), 2); wait(it, GPU, &request("b"), 3); },
                "b", "acquired acquired_after_wait wait_timeouts", "b", "(a)"),
            case("only an expired waiter", |it| { wait(it, GPU, &waits_50_ms("a"), 2); },
                "no waiter", "wait_timeouts", "free", "(a)"),
            case("a waiter for a lock set reserves the lock",
                |it| { wait_for_set(it, &[GPU, "gpu:1"], 2, &request("a"), 2);
                    wait(it, GPU, &request("b"), 3); },
                "reserved", "", "free, reserved", "a b"),
            case("a waiter for one lock of a lock set",
                |it| { wait_for_set(it, &[GPU, "gpu:1"], 1, &request("a"), 2); },
                "a", granted, "a", ""),
            case("the last lock of a lock set", |it| {
                    wait_for_set(it, &[GPU, "gpu:1"], 2, &request("a"), 2);
                    it.hand_off_next(id(it, "gpu:1"), after(0));
                },
                "lock set", "", "free, reserved", "a"),
        ] {
            let what = case.what;
            let mut manager = manager();
            (case.queue)(&mut manager);
            begin(&mut manager);
            let lock = id(&manager, GPU);
            let next = manager.hand_off_next(lock, after(50));
            assert_eq!(text(next), case.next, "{what}: to write");
            assert_eq!(counted(&manager), case.counted, "{what}: counters");
            assert_eq!(holder(&manager, GPU), case.holder, "{what}: holder");
            assert_eq!(queue(&manager, GPU), case.left, "{what}: queue");
        }
    }

    #[test]
    fn an_expired_waiter_gets_null_and_the_next_one_the_lock() {
        let mut manager = manager();
        let a = wait(&mut manager, GPU, &waits_50_ms("a"), 2);
        let b = wait(&mut manager, GPU, &request("b"), 3);
        let lock = id(&manager, GPU);
        manager.hand_off_next(lock, after(50));
        let expected = [(a, "null".to_owned()), (b, "granted gpu:0".to_owned())];
        assert_eq!(replies(&mut manager), expected);
    }

    #[test]
    fn the_reply_holds_the_token_of_the_new_hold() {
        let mut manager = manager();
        let ticket = wait(&mut manager, GPU, &request("a"), 2);
        let lock = id(&manager, GPU);
        manager.hand_off_next(lock, after(50));
        let hold = manager.table.hold(lock).unwrap().clone();
        let (to, reply) = manager.outbox.take_reply().unwrap();
        let WaitReply::Granted { grants, waiter, set } = reply else {
            panic!("{reply:?}")
        };
        assert_eq!((to, waiter.client, set.len()), (ticket, Some(2), 0));
        let token = hold.token().unwrap();
        assert_eq!(
            grants,
            [Grant { lock, key: Bytes::from_slice(GPU.as_bytes()), token }]
        );
        assert_eq!(manager.counters.wait_ms.sum(), 50);
    }

    #[test]
    fn the_new_hold_has_the_options_of_the_waiting_call() {
        let mut manager = manager();
        let request =
            Acquire { lease_ms: Some(3_000), session_grace_ms: Some(9), ..unique("a") };
        wait(&mut manager, GPU, &request, 2);
        let lock = id(&manager, GPU);
        let next = manager.hand_off_next(lock, after(50));
        let until_ms = after(3_050).ms();
        let owner = Bytes::from_slice(b"a");
        assert_eq!(
            next,
            HandOff::Waiter(NewHolder { owner, until_ms }),
            "the lease begins with the grant"
        );
        let hold = manager.table.hold(lock).unwrap();
        assert_eq!(hold.until_ms, until_ms);
        assert!(hold.unique);
        assert_eq!(hold.session, Session::Tied { client: 2, grace_ms: 9 });
    }

    #[test]
    fn a_lock_with_too_many_expired_waiters_is_reserved_until_they_are_removed() {
        let settings = Settings { place_keep: 0, ..Settings::default() };
        let mut manager = LockManager::new(settings, 1, after(0));
        manager.budget.set_size(2);
        for (owner, client) in ["a", "b", "c"].iter().zip(2..) {
            wait(&mut manager, GPU, &waits_50_ms(owner), client);
        }
        wait(&mut manager, GPU, &request("d"), 9);
        begin(&mut manager);
        let lock = id(&manager, GPU);
        assert_eq!(text(manager.hand_off_next(lock, after(50))), "reserved");
        assert_eq!(counted(&manager), "wait_timeouts=3", "each gets null at once");
        manager.expire_waits(after(51));
        assert_eq!(queue(&manager, GPU), "d");
        assert_eq!(manager.take_deferred(), Some(Deferred::HandOff { lock }));
        assert_eq!(text(manager.hand_off_next(lock, after(51))), "d");
    }

    #[test]
    fn the_reply_names_the_lock_set_of_a_unique_owner_that_may_come_back() {
        for (request, keys) in [(unique("a"), 2), (request("a"), 0)] {
            let mut manager = manager();
            wait_for_set(&mut manager, &[GPU, "gpu:1"], 1, &request, 2);
            let lock = id(&manager, GPU);
            manager.hand_off_next(lock, after(0));
            let reply = manager.outbox.take_reply();
            let Some((_, WaitReply::Granted { set, .. })) = reply else {
                panic!("{reply:?}")
            };
            assert_eq!(set.len(), keys, "UNIQUE: {}", request.unique);
        }
    }

    #[test]
    fn a_reserved_lock_that_is_handed_off_does_not_pass_on_again() {
        let mut manager = manager();
        held(&mut manager, "gpu:1", "other");
        wait_for_set(&mut manager, &[GPU, "gpu:1"], 2, &request("a"), 2);
        let lock = id(&manager, GPU);
        assert_eq!(manager.hand_off_next(lock, after(0)), HandOff::Reserved);
        wait(&mut manager, GPU, &request("b"), 3);
        wait(&mut manager, GPU, &request("c"), 4);
        manager.client_gone(2, after(0));
        begin(&mut manager);
        assert_eq!(text(manager.hand_off_next(lock, after(0))), "b");
        assert!(!manager.deferred.has_any());
    }
}
