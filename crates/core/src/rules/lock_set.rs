//! Lock sets: a waiter that wants several locks gets all of them or none. A lock that becomes free
//! for it is reserved: free in the keyspace, but not granted to any other caller, until the set is
//! complete. The beneficiary of a reserved lock is not stored; it is always the first connected
//! waiter in the queue. So a reserved lock changes hands by itself when a waiter leaves or comes
//! back. Because a set has one turn in all its queues, the waiter with the lowest turn of all is
//! first in each of them: it is always served, and after it the next.
//!
//! ```text
//!              queue of gpu:0  gpu:1   gpu:2      gpu:0 becomes free: reserved for G
//!   first      G (2 of 3)      G       G          gpu:2 becomes free: G gets both and
//!   then       a               b       a          leaves; now gpu:1 goes to b
//! ```

use std::collections::BTreeSet;

use crate::manager::LockManager;
use crate::rules::hand_off::{HandOff, params_of};
use crate::rules::hold::GrantParams;
use crate::rules::leave::LeaveReason;
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::key_state::{KeyState, is_valid_owner};
use crate::state::lock::Bytes;
use crate::state::outbox::Grant;
use crate::state::wait_queue::Ticket;

/// What to write to the key of a lock that is granted with others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyWrite {
    /// The lock.
    pub lock: Id,
    /// The owner that holds it now.
    pub owner: Bytes,
    /// When its lease expires, in ms since the epoch.
    pub until_ms: u64,
    /// The owner held it before: only the expiry of the key changes.
    pub renewed: bool,
}

/// What is left to probe of a lock set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToProbe {
    /// These locks.
    Locks(Vec<Id>),
    /// Nothing: the set can be granted.
    Nothing(ProbedSet),
    /// Nothing: a lock is missing.
    Incomplete,
}

/// The locks that a set gets, all of which were probed just now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbedSet(Vec<Choice<Id>>);

/// A lock that a set gets, and whether its owner holds it already.
type Choice<T> = (T, bool);

impl LockManager {
    /// Reserves a free lock for its first waiter.
    pub(crate) fn reserve_for_set(&mut self, id: Id, ticket: Ticket) -> HandOff {
        let is_new = self.table.reserve(id);
        // Before it is reserved for this waiter, waiters with GROUPS count it as free.
        let was_free = self.queues.has_groups(id);
        if let Some(waiter) = self.queues.get_mut(ticket) {
            waiter.missing = match was_free {
                true => 0,
                false => waiter.missing.saturating_sub(usize::from(is_new)),
            };
            if waiter.missing == 0 && self.complete_set(ticket).is_some() {
                return HandOff::LockSet { ticket, lock: id };
            }
        }
        HandOff::Reserved
    }

    /// The locks that a set gets. None when some are missing; then their number is stored.
    pub(crate) fn complete_set(&mut self, ticket: Ticket) -> Option<Vec<Choice<Id>>> {
        let waiter = self.queues.get(ticket).filter(|waiter| waiter.is_waiting())?;
        if waiter.groups.is_some() {
            return self.complete_groups(ticket);
        }
        let availability = |id: &Id| {
            if waiter.unique && self.holds(*id, &waiter.owner) {
                Availability::Held
            } else if self.is_reserved_for(*id, ticket) {
                Availability::Free
            } else {
                Availability::Unavailable
            }
        };
        let chosen = choose(&waiter.locks, waiter.wants, availability);
        let missing = waiter.wants.saturating_sub(chosen.len());
        self.queues.get_mut(ticket)?.missing = missing;
        (missing == 0).then_some(chosen)
    }

    /// Whether a lock is reserved for this waiter.
    pub(crate) fn is_reserved_for(&self, id: Id, ticket: Ticket) -> bool {
        self.table.get(id).is_some_and(|lock| lock.reserved && lock.hold.is_none())
            && self.queues.first_taker(id) == Some(ticket)
    }

    /// The locks of a set, complete as far as is known, that are not `probed` yet. What a probe
    /// finds may put other locks in their place, so ask again until the set is probed.
    pub fn unprobed_of(&mut self, ticket: Ticket, probed: &BTreeSet<Id>) -> ToProbe {
        let Some(chosen) = self.complete_set(ticket) else { return ToProbe::Incomplete };
        let locks = chosen.iter().map(|(id, _)| *id);
        let unprobed: Vec<Id> = locks.filter(|id| !probed.contains(id)).collect();
        if unprobed.is_empty() {
            ToProbe::Nothing(ProbedSet(chosen))
        } else {
            ToProbe::Locks(unprobed)
        }
    }

    /// A lock of a set was probed.
    pub fn probed_for_set(&mut self, id: Id, state: &KeyState<'_>, now: Now) {
        let was_held = self.table.hold(id).is_some();
        self.reconcile(id, state, now);
        match *state {
            KeyState::String { value, expires } if is_valid_owner(value) => {
                self.adopt_unless_held(id, value, expires, now);
            }
            KeyState::Absent if was_held => self.deferred.hand_off(id),
            _ => {}
        }
    }

    /// Grants a lock set, right after all of it was probed. Returns what to write, in the order of
    /// the set; none when the wait is over.
    pub fn hand_off_set(
        &mut self,
        ticket: Ticket,
        set: ProbedSet,
        now: Now,
    ) -> Option<Vec<KeyWrite>> {
        let ProbedSet(chosen) = set;
        let waiter = self.queues.get(ticket).filter(|waiter| waiter.is_waiting())?;
        if waiter.is_expired(now) {
            self.leave(ticket, LeaveReason::TimedOut, now);
            return None;
        }
        // Otherwise removing the waiter would pass the locks on to the next ones.
        for (id, _) in &chosen {
            self.table.unreserve(*id);
        }
        let waiter = self.remove_waiter(ticket)?;
        let (writes, grants) = self.grant_set(&chosen, &params_of(&waiter), now);
        self.reply_granted(ticket, grants, waiter, now);
        Some(writes)
    }

    /// Leaves a set, complete as far as is known, to the deferred work: a script or a transaction
    /// may not see keys change that it does not name.
    pub fn hand_off_set_later(&mut self, ticket: Ticket) {
        self.recount_later(ticket);
    }

    /// Grants or renews the locks of a complete set.
    fn grant_set(
        &mut self,
        chosen: &[Choice<Id>],
        params: &GrantParams<'_>,
        now: Now,
    ) -> (Vec<KeyWrite>, Vec<Grant>) {
        #[cfg(feature = "break-rules")]
        let chosen = match chosen.split_last() {
            Some((_, others)) if crate::broken::is("set-incomplete") => others,
            _ => chosen,
        };
        let (mut writes, mut grants) = (Vec::new(), Vec::new());
        for (id, held) in chosen {
            let renewed =
                held.then(|| self.renew_unique(*id, params, now).ok()).flatten();
            let (token, until_ms) = match renewed {
                Some(renewed) => renewed,
                None => {
                    let granted = self.grant(*id, params, now);
                    self.count(Some(*id), |counters| &mut counters.acquired_after_wait);
                    granted
                }
            };
            let key = self.table.get(*id).map(|lock| lock.key.clone());
            let owner = Bytes::from_slice(params.owner);
            writes.push(KeyWrite { lock: *id, owner, until_ms, renewed: *held });
            grants.push(Grant { lock: *id, key: key.unwrap_or_default(), token });
        }
        (writes, grants)
    }

    /// The waiter is gone that a lock was reserved for: the lock passes to the next one.
    pub(crate) fn pass_on_reserved(&mut self, id: Id) {
        match self.queues.first_taker(id) {
            _ if self.queues.has_groups(id) => self.deferred.hand_off(id),
            None => self.table.unreserve(id),
            Some(next) if self.queues.get(next).is_some_and(|next| next.wants > 1) => {
                self.recount_later(next);
            }
            Some(_) => self.deferred.hand_off(id),
        }
    }

    /// Defers counting what a set could get.
    pub(crate) fn recount_later(&mut self, ticket: Ticket) {
        self.deferred.recount(ticket, &mut self.queues);
    }

    /// A lock that a UNIQUE owner holds counts for the set that it waits for.
    pub(crate) fn recount_set_of_holder(&mut self, id: Id, owner: &[u8]) {
        let has_queue = self.table.get(id).is_some_and(|lock| lock.positions > 0);
        self.recount_groups_of_holder(id, owner);
        if has_queue
            && let Some(own) = self.queues.position_of(owner, id)
            && self.queues.get(own).is_some_and(|waiter| waiter.of_set)
        {
            self.recount_later(own);
        }
    }
}

/// Whether a set can get a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Availability {
    /// Its owner holds it.
    Held,
    /// It is free, and may be granted to it.
    Free,
    /// It cannot.
    Unavailable,
}

/// The locks that a set gets: those that its owner holds first, then free ones, at most as many as
/// it wants, in its own order.
fn choose<T: Copy>(
    of: &[T],
    wants: usize,
    availability: impl Fn(&T) -> Availability,
) -> Vec<Choice<T>> {
    let availability: Vec<Availability> = of.iter().map(availability).collect();
    let held = availability.iter().filter(|it| **it == Availability::Held).count();
    let held = held.min(wants);
    let (mut held_left, mut free_left) = (held, wants.saturating_sub(held));
    let mut chosen = Vec::new();
    for (it, availability) in of.iter().zip(availability) {
        let (left, is_held) = match availability {
            Availability::Held => (&mut held_left, true),
            Availability::Free => (&mut free_left, false),
            Availability::Unavailable => continue,
        };
        if *left > 0 {
            *left = left.saturating_sub(1);
            chosen.push((*it, is_held));
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Acquire;
    use crate::rules::test_support::{
        NOW, acquire, adopted, after, begin, counted, hand_off_set, held, holder, id,
        manager, name, queue, replies, request, shows, to_probe, unique, wait,
        wait_for_set,
    };
    use crate::state::deferred::Deferred;

    const KEYS: [&str; 3] = ["gpu:0", "gpu:1", "gpu:2"];

    #[test]
    #[rustfmt::skip]
    fn locks_are_chosen_in_the_order_of_the_set_and_held_ones_first() {
        // One letter a lock: held by the owner, free, or unavailable. A chosen lock is its index;
        // `=` says that it is held.
        for (what, locks, wants, expected) in [
            ("the preferred ones first", "fff", 2, "0 1"),
            ("unavailable ones are skipped", "ufuf", 2, "1 3"),
            ("held ones count first", "ffh", 1, "2="),
            ("held ones and the first free one", "ffh", 2, "0 2="),
            ("not more held ones than wanted", "hhh", 2, "0= 1="),
            ("too few: as many as there are", "ufu", 2, "1"),
            ("none", "uuu", 1, ""),
        ] {
            let indexes: Vec<usize> = (0..locks.len()).collect();
            let chosen = choose(&indexes, wants, |index| match locks.as_bytes()[*index] {
                b'h' => Availability::Held,
                b'f' => Availability::Free,
                _ => Availability::Unavailable,
            });
            let chosen: Vec<String> = chosen
                .iter()
                .map(|(index, held)| format!("{index}{}", if *held { "=" } else { "" }))
                .collect();
            assert_eq!(chosen.join(" "), expected, "{what}");
        }
    }

    /// Each lock of the set is free now, and handed off.
    fn free(manager: &mut LockManager, keys: &[&str]) -> Vec<HandOff> {
        let ids: Vec<Id> = keys.iter().map(|key| id(manager, key)).collect();
        ids.into_iter().map(|lock| manager.hand_off_next(lock, NOW)).collect()
    }

    /// The holders of the three locks.
    fn holders(manager: &LockManager) -> [String; 3] {
        KEYS.map(|key| holder(manager, key))
    }

    #[test]
    fn free_locks_are_reserved_until_the_set_is_complete() {
        let mut manager = manager();
        held(&mut manager, "gpu:1", "other");
        held(&mut manager, "gpu:2", "other");
        let ticket = wait_for_set(&mut manager, &KEYS, 2, &request("me"), 2);
        begin(&mut manager);
        assert_eq!(free(&mut manager, &["gpu:0"]), [HandOff::Reserved]);
        assert_eq!(holders(&manager), ["free, reserved", "other", "other"]);
        assert!(hand_off_set(&mut manager, ticket, NOW).is_none(), "one is missing");
        manager.reconcile_named(name("gpu:2"), &KeyState::Absent, NOW);
        let lock = id(&manager, "gpu:2");
        assert_eq!(free(&mut manager, &["gpu:2"]), [HandOff::LockSet { ticket, lock }]);
        let writes = hand_off_set(&mut manager, ticket, NOW).unwrap();
        let written: Vec<Id> = writes.iter().map(|write| write.lock).collect();
        assert_eq!(written, [id(&manager, "gpu:0"), lock]);
        assert!(writes.iter().all(|write| !write.renewed && *write.owner == *b"me"));
        assert_eq!(holders(&manager), ["me", "other", "me"]);
        assert_eq!(queue(&manager, "gpu:1"), "", "its position is used up");
        assert_eq!(replies(&mut manager), [(ticket, "granted gpu:0 gpu:2".to_owned())]);
        assert_eq!(counted(&manager), "acquired=2 acquired_after_wait=2 removed");
    }

    #[test]
    fn a_lock_that_the_unique_owner_holds_counts_and_is_renewed() {
        let mut manager = manager();
        let token = acquire(&mut manager, "gpu:2", &unique("me"), 1);
        let ticket = wait_for_set(&mut manager, &KEYS, 2, &unique("me"), 2);
        begin(&mut manager);
        assert!(matches!(free(&mut manager, &["gpu:0"])[..], [HandOff::LockSet { .. }]));
        let writes = hand_off_set(&mut manager, ticket, NOW).unwrap();
        let renewed: Vec<bool> = writes.iter().map(|write| write.renewed).collect();
        assert_eq!(renewed, [false, true]);
        let hold = manager.table.hold(id(&manager, "gpu:2")).unwrap();
        assert_eq!(hold.token(), Some(token), "a renewal keeps the token");
        assert_eq!(counted(&manager), "acquired acquired_after_wait renewed");
    }

    #[test]
    fn a_lock_that_the_owner_holds_does_not_count_without_unique() {
        let mut manager = manager();
        held(&mut manager, "gpu:2", "me");
        wait_for_set(&mut manager, &KEYS, 2, &request("me"), 2);
        assert_eq!(free(&mut manager, &["gpu:0"]), [HandOff::Reserved]);
    }

    #[test]
    fn a_lock_that_the_owner_gets_meanwhile_leads_to_a_recount() {
        let mut manager = manager();
        held(&mut manager, "gpu:1", "other");
        let ticket = wait_for_set(&mut manager, &KEYS, 2, &unique("me"), 2);
        free(&mut manager, &["gpu:0"]);
        begin(&mut manager);
        adopted(&mut manager, "gpu:2", "me");
        assert_eq!(manager.take_deferred(), Some(Deferred::Recount { ticket }));
        assert!(hand_off_set(&mut manager, ticket, NOW).is_some());
        assert_eq!(holders(&manager), ["me", "other", "me, adopted"]);
    }

    #[test]
    fn a_set_that_loses_a_reserved_lock_waits_for_it_again() {
        let mut manager = manager();
        let ticket = wait_for_set(&mut manager, &KEYS, 3, &request("me"), 2);
        free(&mut manager, &KEYS);
        begin(&mut manager);
        // The engine probes each lock before it writes one: a plain SET took the second.
        let mut probed = BTreeSet::new();
        while let [lock, ..] = to_probe(&mut manager, ticket, &probed)[..] {
            let taken = lock == id(&manager, "gpu:1");
            let state = if taken { shows("other") } else { KeyState::Absent };
            manager.probed_for_set(lock, &state, NOW);
            probed.insert(lock);
        }
        assert_eq!(hand_off_set(&mut manager, ticket, NOW), None);
        assert_eq!(
            holders(&manager),
            ["free, reserved", "other, adopted", "free, reserved"],
            "none is granted"
        );
        assert_eq!(
            (counted(&manager).as_str(), manager.outbox.replies()),
            ("adopted", 0)
        );
        assert_eq!(queue(&manager, "gpu:1"), "me");
    }

    #[test]
    fn another_free_lock_takes_the_place_of_a_lost_one() {
        let mut manager = manager();
        let ticket = wait_for_set(&mut manager, &KEYS, 2, &request("me"), 2);
        free(&mut manager, &KEYS);
        let locks = KEYS.map(|key| id(&manager, key));
        let nothing = BTreeSet::new();
        assert_eq!(to_probe(&mut manager, ticket, &nothing), locks[..2]);
        manager.probed_for_set(locks[0], &shows("other"), NOW);
        let first = BTreeSet::from([locks[0]]);
        assert_eq!(to_probe(&mut manager, ticket, &first), locks[1..]);
        manager.probed_for_set(locks[1], &KeyState::Absent, NOW);
        manager.probed_for_set(locks[2], &KeyState::Absent, NOW);
        assert!(hand_off_set(&mut manager, ticket, NOW).is_some());
        assert_eq!(holders(&manager), ["other, adopted", "me", "me"]);
    }

    #[test]
    fn an_expired_waiter_for_a_set_gets_null_and_no_lock() {
        let mut manager = manager();
        let request = Acquire { block_ms: Some(50), ..request("me") };
        let ticket = wait_for_set(&mut manager, &KEYS, 3, &request, 2);
        free(&mut manager, &KEYS);
        begin(&mut manager);
        assert_eq!(hand_off_set(&mut manager, ticket, after(50)), None);
        assert_eq!(replies(&mut manager), [(ticket, "null".to_owned())]);
        assert_eq!(counted(&manager), "wait_timeouts");
        assert_eq!(holders(&manager), ["free", "free", "free"]);
    }

    #[test]
    #[rustfmt::skip]
    fn when_its_waiter_leaves_a_reserved_lock_passes_to_the_next_one() {
        let no_other: fn(&mut LockManager) = |_| {};
        let one: fn(&mut LockManager) = |it| { wait(it, "gpu:0", &request("b"), 3); };
        let set: fn(&mut LockManager) = |it| {
            wait_for_set(it, &["gpu:0", "gpu:1"], 2, &request("b"), 3);
        };
        for (what, next, expected_work, expected_holder) in [
            ("no other waiter", no_other, "", "free"),
            ("a waiter for one lock", one, "hand-off", "free, reserved"),
            ("a waiter for a lock set", set, "recount", "free, reserved"),
        ] {
            let mut manager = manager();
            held(&mut manager, "gpu:1", "other");
            let ticket = wait_for_set(&mut manager, &["gpu:0", "gpu:1"], 2, &request("me"), 2);
            next(&mut manager);
            free(&mut manager, &["gpu:0"]);
            begin(&mut manager);
            manager.leave(ticket, LeaveReason::Unblocked, NOW);
            let work = match manager.deferred.work().next() {
                None => "",
                Some(Deferred::HandOff { .. }) => "hand-off",
                Some(Deferred::Recount { .. }) => "recount",
                other => panic!("{what}: {other:?}"),
            };
            assert_eq!(work, expected_work, "{what}: deferred work");
            assert_eq!(holder(&manager, "gpu:0"), expected_holder, "{what}: lock");
        }
    }

    #[test]
    fn an_earlier_waiter_that_comes_back_gets_what_was_reserved_for_a_later_one() {
        let mut manager = manager();
        held(&mut manager, "gpu:1", "other");
        let pair = ["gpu:0", "gpu:1"];
        wait_for_set(&mut manager, &pair, 2, &unique("me"), 2);
        let later = wait_for_set(&mut manager, &pair, 2, &request("b"), 3);
        manager.client_gone(2, NOW);
        free(&mut manager, &["gpu:0"]);
        let lock = id(&manager, "gpu:0");
        assert!(manager.is_reserved_for(lock, later));
        let back = wait_for_set(&mut manager, &pair, 2, &unique("me"), 4);
        assert!(manager.is_reserved_for(lock, back));
        assert!(!manager.is_reserved_for(lock, later));
    }

    #[test]
    fn the_locks_of_a_granted_set_do_not_pass_on_again() {
        let mut manager = manager();
        let pair = ["gpu:0", "gpu:1"];
        let ticket = wait_for_set(&mut manager, &pair, 2, &request("me"), 2);
        wait(&mut manager, "gpu:0", &request("b"), 3);
        free(&mut manager, &pair);
        begin(&mut manager);
        assert!(hand_off_set(&mut manager, ticket, NOW).is_some());
        assert!(!manager.deferred.has_any());
        assert_eq!(queue(&manager, "gpu:0"), "b");
    }
}
