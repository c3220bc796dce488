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

    /// Changes the turn of a waiter whose position is restored as if it was the first to join, if one
    /// of its queues was empty meanwhile and counts from 0 again. Otherwise calls that joined later
    /// would come first.
    pub(crate) fn restore_turn(&self, waiter: &mut Waiter) {
        let counts_again = |lock: &Id| {
            self.table.get(*lock).is_some_and(|lock| lock.positions > 0)
                && self.queues.counted(*lock) < waiter.counted
        };
        if waiter.locks.iter().any(counts_again) {
            let counted = i64::try_from(waiter.counted).unwrap_or(i64::MAX);
            waiter.turn.number = waiter.turn.number.saturating_sub(counted);
            waiter.counted = 0;
            waiter.counted_at_end = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::CommandError;
    use crate::manager::Caller;
    use crate::rules::hand_off::HandOff;
    use crate::rules::leave::LeaveReason;
    use crate::rules::test_support::{
        GPU, NOW, acquire, after, client, counted, hand_off_set, held, holder, id,
        manager, name, queue, request, shows, unique, wait, wait_for_set,
    };
    use crate::state::event::End;
    use crate::state::key_state::KeyState;

    /// A call with PRIORITY.
    fn prior(owner: &str, priority: i64) -> Acquire<'_> {
        Acquire { priority, ..request(owner) }
    }

    /// A call with SHARE.
    fn of_share<'a>(owner: &'a str, share: &'a str) -> Acquire<'a> {
        Acquire { share: Some(share.as_bytes()), ..request(owner) }
    }

    /// The holder gives the lock back. Returns the next one, if there is one.
    fn pass_on(manager: &mut LockManager, key: &str) -> String {
        let lock = id(manager, key);
        manager.end(lock, End::Expired, Caller::default(), NOW);
        if let HandOff::LockSet { ticket, .. } = manager.hand_off_next(lock, NOW) {
            hand_off_set(manager, ticket, NOW);
        }
        holder(manager, key)
    }

    /// `other` holds the lock, a call waits for it behind all others, and its queue has counted some
    /// grants.
    fn counting(manager: &mut LockManager, key: &str, grants: u64) {
        held(manager, key, "other");
        wait(manager, key, &prior("last", -100), 1_000);
        let lock = id(manager, key);
        (0..grants).for_each(|_| manager.queues.count_grant(lock));
    }

    fn turn(manager: &LockManager, ticket: Ticket) -> i64 {
        manager.queues.get(ticket).unwrap().turn.number
    }

    #[test]
    #[rustfmt::skip]
    fn the_formula() {
        for (counted, round, of_share, priority, expected) in [
            (0, 16, 0, 0, 0),
            (9, 16, 0, 0, 9),
            (9, 16, 0, 1, -7),
            (9, 16, 0, -1, 25),
            (9, 16, 2, 0, 41),
            (9, 16, 2, 2, 9),
            (9, 1, 2, 5, 6),
            (0, 1_000_000, 1_024, 100, 924_000_000),
            (u64::MAX, 16, 0, -100, i64::MAX),
            (0, u64::MAX, u64::MAX, 0, i64::MAX),
        ] {
            assert_eq!(number(counted, round, of_share, priority), expected,
                "{counted} + {round} × ({of_share} − {priority})");
        }
    }

    #[test]
    fn the_example_at_the_head_of_this_file() {
        let mut manager = manager();
        acquire(&mut manager, GPU, &of_share("ana 1", "ana"), 1);
        let calls = ["ana 2", "ana 3", "ben 1", "ben 2"].map(|owner| {
            let share = owner.split(' ').next().unwrap();
            wait(&mut manager, GPU, &of_share(owner, share), 2)
        });
        assert_eq!(calls.map(|ticket| turn(&manager, ticket)), [16, 32, 0, 16]);
        assert_eq!(queue(&manager, GPU), "ben 1 ana 2 ben 2 ana 3");
        let lock = id(&manager, GPU);
        for (grants, expected) in [(9, -7), (8, 1)] {
            (0..grants).for_each(|_| manager.queues.count_grant(lock));
            let urgent = wait(&mut manager, GPU, &prior("urgent", 1), 3);
            assert_eq!(turn(&manager, urgent), expected);
        }
        assert_eq!(queue(&manager, GPU), "urgent ben 1 urgent ana 2 ben 2 ana 3");
    }

    #[test]
    fn calls_with_the_same_options_are_first_in_first_out() {
        let plain: fn(&str) -> Acquire<'_> = request;
        let high: fn(&str) -> Acquire<'_> = |owner| prior(owner, 100);
        let low: fn(&str) -> Acquire<'_> = |owner| prior(owner, -100);
        let share: fn(&str) -> Acquire<'_> = |owner| of_share(owner, "all");
        for (what, call) in
            [("plain", plain), ("high", high), ("low", low), ("share", share)]
        {
            let mut manager = manager();
            acquire(&mut manager, GPU, &call("0"), 1);
            let owners: Vec<String> = (1..100).map(|n| n.to_string()).collect();
            let mut granted = Vec::new();
            for two in owners.chunks(2) {
                for (owner, client) in two.iter().zip(2..) {
                    wait(&mut manager, GPU, &call(owner), client);
                }
                granted.push(pass_on(&mut manager, GPU));
            }
            let rest = owners.len() - granted.len();
            granted.extend((0..rest).map(|_| pass_on(&mut manager, GPU)));
            assert_eq!(granted, owners, "{what}");
        }
    }

    #[test]
    fn a_call_is_passed_until_its_queue_has_made_the_grants_of_the_bound() {
        for (own, others, passed) in [(0, 1, 16), (0, 100, 1_600), (-2, 1, 48), (1, 0, 0)]
        {
            let mut manager = manager();
            held(&mut manager, GPU, "other");
            wait(&mut manager, GPU, &prior("batch", own), 2);
            let mut grants = 0;
            loop {
                wait(&mut manager, GPU, &prior("urgent", others), 3);
                if pass_on(&mut manager, GPU) == "batch" {
                    break;
                }
                grants += 1;
                assert!(
                    grants <= passed,
                    "PRIORITY {own} starves among those with {others}"
                );
            }
            assert_eq!(grants, passed, "PRIORITY {own} among those with {others}");
        }
    }

    #[test]
    fn a_hundred_jobs_of_one_share_take_turns_with_those_of_another() {
        let mut manager = manager();
        acquire(&mut manager, GPU, &of_share("ana", "ana"), 1);
        for n in 0..100 {
            wait(&mut manager, GPU, &of_share("ana", "ana"), 2 + n);
        }
        for n in 0..3 {
            wait(&mut manager, GPU, &of_share("ben", "ben"), 200 + n);
        }
        let granted: Vec<String> = (0..7).map(|_| pass_on(&mut manager, GPU)).collect();
        assert_eq!(granted, ["ben", "ana", "ben", "ana", "ben", "ana", "ana"]);
    }

    #[test]
    #[rustfmt::skip]
    fn the_places_and_holds_of_a_share() {
        type Prepare = fn(&mut LockManager);
        const PAIR: [&str; 2] = [GPU, "gpu:1"];
        let me = || of_share("me", "mine");
        let no: Prepare = |_| {};
        let hold: Prepare = |it| { acquire(it, GPU, &of_share("x", "mine"), 1); };
        let both: Prepare = |it| {
            for key in PAIR { acquire(it, key, &of_share("x", "mine"), 1); }
        };
        let elsewhere: Prepare = |it| { acquire(it, "gpu:7", &of_share("x", "mine"), 1); };
        let renewed: Prepare = |it| {
            held(it, GPU, "x");
            let renew = Acquire { unique: true, ..of_share("x", "mine") };
            it.acquire(name(GPU), &renew, &shows("x"), client(1), NOW).unwrap();
        };
        let renewed_plainly: Prepare = |it| {
            acquire(it, GPU, &of_share("x", "mine"), 1);
            it.acquire(name(GPU), &unique("x"), &shows("x"), client(1), NOW).unwrap();
        };
        let ended: Prepare = |it| {
            acquire(it, GPU, &of_share("x", "mine"), 1);
            let lock = id(it, GPU);
            it.end(lock, End::Expired, Caller::default(), NOW);
            held(it, GPU, "x");
        };
        let places: Prepare = |it| {
            held(it, GPU, "x");
            for (share, priority) in
                [("mine", 0), ("mine", -1), ("mine", 1), ("mine", 0), ("other", 0)]
            {
                wait(it, GPU, &Acquire { priority, ..of_share("x", share) }, 2);
            }
            wait(it, "gpu:1", &of_share("x", "mine"), 3);
        };
        let sets: Prepare = |it| {
            wait_for_set(it, &PAIR, 2, &of_share("x", "mine"), 2);
            wait_for_set(it, &["gpu:1", "gpu:7"], 2, &of_share("x", "mine"), 3);
        };
        let kept: Prepare = |it| {
            wait(it, GPU, &Acquire { unique: true, ..of_share("x", "mine") }, 2);
            it.client_gone(2, NOW);
        };
        let own: Prepare = |it| {
            wait(it, GPU, &Acquire { unique: true, ..of_share("me", "mine") }, 2);
            wait(it, GPU, &of_share("x", "mine"), 3);
        };
        let left: Prepare = |it| {
            let ticket = wait(it, GPU, &of_share("x", "mine"), 2);
            it.leave(ticket, LeaveReason::Disconnected, NOW);
        };
        let mine = Acquire { unique: true, ..me() };
        for (what, prepare, keys, call, expected) in [
            ("nothing", no, &PAIR[..1], me(), 0),
            ("a hold", hold, &PAIR[..1], me(), 1),
            ("holds of two named locks", both, &PAIR, me(), 2),
            ("one of them is named", both, &PAIR[..1], me(), 1),
            ("a hold of another lock", elsewhere, &PAIR, me(), 0),
            ("a hold of another share", hold, &PAIR[..1], of_share("me", "other"), 0),
            ("a hold of a share, and a call without", hold, &PAIR[..1], request("me"), 0),
            ("a hold that was renewed with SHARE", renewed, &PAIR[..1], me(), 1),
            ("a hold that was renewed without", renewed_plainly, &PAIR[..1], me(), 1),
            ("a hold that has ended", ended, &PAIR[..1], me(), 0),
            ("places with the same priority or a higher one", places, &PAIR[..1], me(), 3),
            ("all places, for a low priority", places, &PAIR[..1],
                Acquire { priority: -100, ..me() }, 4),
            ("places with a high priority", places, &PAIR[..1],
                Acquire { priority: 1, ..me() }, 1),
            ("the queue with most of them", places, &PAIR, me(), 3),
            ("places of lock sets", sets, &PAIR[..1], me(), 1),
            ("the queue with most lock sets", sets, &PAIR, me(), 2),
            ("a kept place", kept, &PAIR[..1], me(), 1),
            ("not the place that the call gives up", own, &PAIR[..1], mine, 1),
            ("that of another owner with the same name", own, &PAIR[..1], me(), 2),
            ("no place that was left", left, &PAIR[..1], me(), 0),
        ] {
            let mut manager = manager();
            prepare(&mut manager);
            let known = keys.iter().filter_map(|key| manager.table.find(name(key)));
            let known: Vec<Id> = known.collect();
            let number = manager.entry(&known, &call).number;
            assert_eq!(number, 16 * (expected - call.priority), "{what}");
        }
    }

    #[test]
    fn a_lock_set_takes_the_highest_count_and_raises_the_others() {
        let mut manager = manager();
        counting(&mut manager, GPU, 5);
        counting(&mut manager, "gpu:1", 2);
        held(&mut manager, "gpu:2", "other");
        let keys = [GPU, "gpu:1", "gpu:2"];
        let set = wait_for_set(&mut manager, &keys, 2, &request("me"), 2);
        assert_eq!(turn(&manager, set), 5);
        for (key, client) in keys.iter().zip(3..) {
            let later = wait(&mut manager, key, &request("later"), client);
            assert_eq!(turn(&manager, later), 5, "{key}");
        }
    }

    #[test]
    fn a_queue_counts_grants_from_its_first_position_to_its_last() {
        let mut manager = manager();
        acquire(&mut manager, GPU, &unique("x"), 1);
        let lock = id(&manager, GPU);
        wait(&mut manager, GPU, &request("a"), 2);
        wait(&mut manager, GPU, &unique("b"), 3);
        assert_eq!(manager.queues.counted(lock), 0);
        pass_on(&mut manager, GPU);
        assert_eq!(manager.queues.counted(lock), 1);
        // Neither a renewal nor an adopted hold is a grant.
        manager.renew(lock, 1_000, NOW).unwrap();
        manager.end(lock, End::Expired, Caller::default(), NOW);
        manager.adopt_unless_held(
            lock,
            b"y",
            crate::state::key_state::Expires::Never,
            NOW,
        );
        assert_eq!(manager.queues.counted(lock), 1);
        // A kept position is one, and a grant to a newcomer counts too.
        manager.client_gone(3, NOW);
        manager.end(lock, End::Expired, Caller::default(), NOW);
        acquire(&mut manager, GPU, &request("z"), 4);
        assert_eq!(manager.queues.counted(lock), 2);
        manager.expire_waits(after(10_000));
        assert_eq!(
            (queue(&manager, GPU).as_str(), manager.queues.counted(lock)),
            ("", 0)
        );
    }

    #[test]
    fn the_only_position_that_is_kept_and_taken_over_keeps_its_turn_and_the_count() {
        let mut manager = manager();
        held(&mut manager, GPU, "x");
        wait(&mut manager, GPU, &request("a"), 2);
        let lock = id(&manager, GPU);
        (0..20).for_each(|_| manager.queues.count_grant(lock));
        wait(&mut manager, GPU, &unique("b"), 3);
        (0..9).for_each(|_| manager.queues.count_grant(lock));
        let a = manager.queues.of_client(2).unwrap();
        manager.leave(a, LeaveReason::Unblocked, NOW);
        for _ in 0..2 {
            manager.client_gone(3, NOW);
            assert_eq!(
                (queue(&manager, GPU).as_str(), manager.queues.counted(lock)),
                ("(b)", 29)
            );
            let again = wait(&mut manager, GPU, &unique("b"), 3);
            assert_eq!((turn(&manager, again), manager.queues.counted(lock)), (20, 29));
        }
    }

    #[test]
    #[rustfmt::skip]
    fn another_priority_or_share_is_a_new_call() {
        let first = Acquire { priority: 1, ..of_share("me", "mine") };
        for (what, again, expected) in [
            ("the same", first, "me b"),
            ("another PRIORITY", Acquire { priority: 0, ..first }, "b me"),
            ("another SHARE", Acquire { share: Some(b"other"), ..first }, "me b"),
            ("no SHARE", Acquire { share: None, ..first }, "me b"),
        ] {
            let mut manager = manager();
            held(&mut manager, GPU, "other");
            let first = Acquire { unique: true, ..first };
            let before = wait(&mut manager, GPU, &first, 2);
            let before = manager.queues.get(before).unwrap().turn;
            wait(&mut manager, GPU, &request("b"), 3);
            let again = wait(&mut manager, GPU, &Acquire { unique: true, ..again }, 4);
            let again = manager.queues.get(again).unwrap().turn;
            assert_eq!(queue(&manager, GPU), expected, "{what}");
            assert_eq!(again == before, what == "the same", "{what}");
        }
    }

    #[test]
    fn nothing_is_stored_for_queues_that_are_gone() {
        let mut manager = manager();
        counting(&mut manager, GPU, 3);
        let keys = [GPU, "gpu:1", "gpu:2"];
        for (n, share) in ["a", "b", "a"].iter().enumerate() {
            let call = Acquire { unique: true, ..of_share(share, share) };
            wait_for_set(&mut manager, &keys, 2, &call, n as u64);
        }
        for client in [0, 1, 2, 1_000] {
            manager.client_gone(client, NOW);
        }
        assert_eq!(queue(&manager, GPU), "(a) (b)");
        manager.expire_waits(after(10_000));
        assert!(manager.queues.is_empty());
        assert!(manager.queues.has_no_counts_and_shares());
    }

    #[test]
    fn the_turn_of_a_restored_position_follows_a_queue_that_was_empty_meanwhile() {
        for (left, grants, expected) in
            [("empty, and counts again", 3, "(me) b"), ("the same", 30, "c (me) b")]
        {
            let mut manager = manager();
            held(&mut manager, GPU, "other");
            wait(&mut manager, GPU, &request("c"), 2);
            let lock = id(&manager, GPU);
            (0..20).for_each(|_| manager.queues.count_grant(lock));
            wait(&mut manager, GPU, &unique("me"), 3);
            let mine = manager.queues.of_client(3).unwrap();
            let mine = manager.remove_waiter(mine).unwrap();
            assert_eq!(mine.turn.number, 20);
            assert_eq!(mine.counted_at_end.as_deref(), Some(&[20][..]));
            if left != "the same" {
                let c = manager.queues.of_client(2).unwrap();
                manager.leave(c, LeaveReason::Disconnected, NOW);
            }
            (0..3).for_each(|_| manager.queues.count_grant(lock));
            if left != "the same" {
                manager.queues.queue_ended(lock);
            }
            wait(&mut manager, GPU, &request("b"), 4);
            (0..grants).for_each(|_| manager.queues.count_grant(lock));
            let mut restored = mine;
            manager.restore_turn(&mut restored);
            manager.keep_position(&restored, NOW);
            assert_eq!(queue(&manager, GPU), expected, "the queue was {left}");
        }
    }

    // ---- A call that is decided at once

    /// A call for one lock, which is free. Returns its holder afterwards.
    fn ask(manager: &mut LockManager, call: &Acquire<'_>) -> String {
        manager.acquire(name(GPU), call, &KeyState::Absent, client(9), NOW).unwrap();
        holder(manager, GPU)
    }

    #[test]
    #[rustfmt::skip]
    fn a_reserved_lock_goes_to_a_caller_whose_turn_is_before_the_first_waiters() {
        for (what, waiter, caller, expected) in [
            ("plain calls", request("b"), request("me"), "free, reserved"),
            ("a higher priority", request("b"), prior("me", 1), "me"),
            ("the same priority", prior("b", 1), prior("me", 1), "free, reserved"),
            ("a lower priority", prior("b", 2), prior("me", 1), "free, reserved"),
            ("a plain caller and a waiter with a low priority", prior("b", -1), request("me"), "me"),
            ("a share with a place", of_share("b", "mine"),
                Acquire { priority: 1, ..of_share("me", "mine") }, "me"),
            ("a share with a place of the same priority",
                Acquire { priority: 1, ..of_share("b", "mine") },
                Acquire { priority: 1, ..of_share("me", "mine") }, "free, reserved"),
        ] {
            let mut manager = manager();
            held(&mut manager, "gpu:1", "other");
            wait_for_set(&mut manager, &[GPU, "gpu:1"], 2, &waiter, 2);
            assert_eq!(ask(&mut manager, &caller), expected, "{what}");
            assert_eq!(queue(&manager, GPU), "b", "{what}");
        }
    }

    #[test]
    fn the_grants_counted_bound_what_newcomers_take_from_a_lock_set() {
        let mut manager = manager();
        held(&mut manager, "gpu:1", "other");
        wait_for_set(&mut manager, &[GPU, "gpu:1"], 2, &request("b"), 2);
        let mut taken = 0;
        while ask(&mut manager, &prior("me", 1)) == "me" {
            taken += 1;
            assert!(taken <= 16, "the lock set starves");
            assert_eq!(pass_on(&mut manager, GPU), "free, reserved");
        }
        assert_eq!(taken, 16);
        assert_eq!(pass_on(&mut manager, "gpu:1"), "b", "the set is complete");
        assert_eq!(holder(&manager, GPU), "b");
    }

    #[test]
    fn a_lock_set_that_lost_a_lock_to_a_newcomer_gets_it_back() {
        let mut manager = manager();
        held(&mut manager, "gpu:1", "other");
        wait_for_set(&mut manager, &[GPU, "gpu:1"], 2, &request("b"), 2);
        assert_eq!(ask(&mut manager, &request("a")), "free, reserved");
        assert_eq!(ask(&mut manager, &prior("me", 1)), "me");
        assert_eq!(pass_on(&mut manager, "gpu:1"), "free, reserved");
        assert_eq!(pass_on(&mut manager, GPU), "b");
    }

    #[test]
    #[rustfmt::skip]
    fn a_priority_above_the_maximum_is_refused() {
        for (max, priority, is_refused) in [
            (100, 100, false), (0, 1, true), (0, 0, false), (0, -1, false),
            (-50, 0, false), (-50, -49, true), (-50, -50, false),
        ] {
            let mut manager = manager();
            held(&mut manager, GPU, "other");
            manager.counters = crate::state::counters::Counters::default();
            manager.configure(|settings| settings.max_priority = max);
            let call = prior("me", priority);
            let reply = manager.acquire(name(GPU), &call, &shows("other"), client(2), NOW);
            let expected = is_refused.then_some(CommandError::PriorityTooHigh { max });
            assert_eq!(reply.err(), expected, "{priority} with a maximum of {max}");
            let expected = if is_refused { "acquire_requests" } else { "acquire_requests refused" };
            assert_eq!(counted(&manager), expected, "{priority} with a maximum of {max}");
        }
    }
}
