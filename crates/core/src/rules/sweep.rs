//! The sweep: which locks to probe while no command names them and no client waits for them. Leases
//! expire and other commands delete keys without notice (a subscription would make every write of
//! every client slower), so two walks go through the table:
//!
//! - one reads memory only (lease over, held for long) and is fast: it passes every lock within a
//!   second, up to thirty-six thousand locks;
//! - one reads keys (gone, overwritten, lease changed) and is three times slower; it is faster than
//!   both after a portion in which many holds ended, as after FLUSHALL.
//!
//! Both rest after two whole rounds without a command (`rules/silence.rs`): the first until the
//! earliest lease end, the second except for a page of locks every two seconds.

use crate::manager::{Caller, Incident, LockManager};
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::lock::{Hold, Name};
use crate::state::log::{Kind, Text, truncate};
use crate::state::sweep::Sweep;

/// The locks that the walk through memory passes in a millisecond.
const MEMORY_PER_MS: u64 = 36;

/// The locks that are probed in a millisecond: about a hundredth of the server's time.
const PROBES_PER_MS: u64 = 12;

/// The factor by which more locks are probed after a portion in which [`ENDED`] holds ended.
const CATCH_UP: u64 = 4;
const ENDED: u64 = 64;

/// The shortest time between two portions, in ms: with a high `hz` the server's cron runs more
/// often than there is work.
const SHORTEST_MS: u64 = 40;

/// The longest time to make up for at once, in ms: after a pause the server has other work.
const LONGEST_MS: u64 = 1_000;

/// The shortest time between two rounds of the walk through keys, in ms: each lock is probed about
/// once a second.
const SHORTEST_ROUND_MS: u64 = 800;

/// How often a page of locks is probed while the walk through keys rests, in ms.
const REST_MS: u64 = 2_000;

impl LockManager {
    /// Begins a new portion of locks for [`LockManager::next_due`]: the longer ago the last one
    /// began and the more holds have ended in it, the more locks.
    pub fn begin_sweep(&mut self, now: Now) {
        let elapsed_ms = now.ms().abs_diff(self.sweep.last_ms).min(LONGEST_MS);
        if elapsed_ms < SHORTEST_MS {
            return;
        }
        let Sweep { memory, keys, .. } = &mut self.sweep;
        if !self.listening.is_on() {
            memory.rounds.owe();
            keys.rounds.owe();
        }
        self.sweep.last_ms = now.ms();
        let locks = |per_ms: u64| elapsed_ms.saturating_mul(per_ms);
        self.begin_memory(locks(MEMORY_PER_MS), now);
        self.begin_keys(locks(PROBES_PER_MS), now);
    }

    fn begin_memory(&mut self, locks: u64, now: Now) {
        let Sweep { memory, soonest_ms, .. } = &mut self.sweep;
        if *soonest_ms <= now.ms() {
            memory.rounds.owe();
        }
        if memory.begin(locks) {
            *soonest_ms = u64::MAX;
        }
    }

    fn begin_keys(&mut self, locks: u64, now: Now) {
        let Sweep { keys, keys_began_ms, ended, .. } = &mut self.sweep;
        let times = match std::mem::take(ended) {
            ..ENDED => 1,
            _ => CATCH_UP,
        };
        let is_soon = now.ms().abs_diff(*keys_began_ms) < SHORTEST_ROUND_MS;
        if keys.rounds.is_done() {
            self.probe_at_rest(now);
        } else if (keys.rounds.is_running() || !is_soon)
            && keys.begin(locks.saturating_mul(times))
        {
            *keys_began_ms = now.ms();
        }
    }

    /// Finds a page of locks every two seconds while the walk through keys rests.
    fn probe_at_rest(&mut self, now: Now) {
        let Sweep { rest_page, rest_ms, .. } = &mut self.sweep;
        if now.ms().abs_diff(*rest_ms) >= REST_MS {
            let page = if *rest_page < self.table.pages() { *rest_page } else { 0 };
            (*rest_page, *rest_ms) = (page.saturating_add(1), now.ms());
            self.walk_keys(page);
        }
    }

    /// A lease was set: its end may be the earliest one.
    pub(crate) fn lease_changed(&mut self) {
        self.sweep.memory.rounds.owe();
    }

    /// The next lock to probe; none when the portion is done. The caller may stop at any time: the
    /// rest comes first the next time.
    pub fn next_due(&mut self, now: Now) -> Option<Id> {
        while self.sweep.due.is_empty() {
            let pages = self.table.pages();
            if let Some(page) = self.sweep.memory.next(pages) {
                self.walk_memory(page, now);
            } else {
                let page = self.sweep.keys.next(pages)?;
                self.walk_keys(page);
            }
        }
        self.sweep.due.pop_front()
    }

    /// Finds the locks of a page whose lease is over, and logs those that are held for long.
    fn walk_memory(&mut self, page: usize, now: Now) {
        let mut long = Vec::new();
        let Self { table, sweep, settings, .. } = self;
        let warn_ms = |hold: &Hold| match settings.warn_hold {
            0 => u64::MAX,
            _ if hold.warned => u64::MAX,
            warn_hold => hold.since_ms.saturating_add(warn_hold),
        };
        for (id, lock) in table.page(page) {
            sweep.memory.count_lock();
            let Some(hold) = &lock.hold else { continue };
            let warn_ms = warn_ms(hold);
            if hold.is_over(now.ms()) {
                sweep.due.push_back(id);
            } else if warn_ms <= now.ms() {
                long.push(id);
            }
            sweep.soonest_ms = sweep.soonest_ms.min(hold.until_ms).min(warn_ms);
        }
        for id in long {
            self.warn_long_hold(id, now);
        }
    }

    /// Finds the locks of a page that are held or waited for.
    fn walk_keys(&mut self, page: usize) {
        for (id, lock) in self.table.page(page) {
            if lock.hold.is_some() || lock.connected > 0 {
                self.sweep.keys.count_lock();
                self.sweep.due.push_back(id);
            }
        }
    }

    fn warn_long_hold(&mut self, id: Id, now: Now) {
        let warned = self.table.change_hold(id, |hold| {
            hold.warned = true;
            (truncate(&hold.owner), hold.token(), now.ms_since(hold.since_ms))
        });
        let Some((owner, token, held_ms)) = warned else { return };
        let Some(lock) = self.table.get(id) else { return };
        let (db, key) = (lock.db, truncate(&lock.key));
        let incident = Incident {
            name: Name { db, key: &key },
            kind: Kind::LongHold,
            holder: Some(&owner),
            token,
            held_ms: Some(held_ms),
            reason: Text::Borrowed(b"warn-hold"),
            caller: Caller::default(),
        };
        self.log_incident(incident, now);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::rules::test_support::{
        GPU, LEASE_END, NOW, adopted_from_me, after, held, held_by_me, id, logged,
        manager, name, request, wait,
    };
    use crate::state::key_state::{Expires, KeyState};
    use crate::state::lock::NO_END;
    use crate::state::settings::Settings;

    fn manager_of(locks: u32, now: Now) -> LockManager {
        let mut manager = LockManager::new(Settings::default(), 1, now);
        for n in 0..locks {
            let key = n.to_string();
            let name = Name { db: 0, key: key.as_bytes() };
            let id = manager.table.find_or_create(name).unwrap();
            manager.table.begin_hold(id, Hold::new(b"me", Some(1), now.ms(), NO_END));
        }
        manager
    }

    #[test]
    fn a_portion_is_larger_after_many_holds_ended() {
        let at = |tick: u64| Now::from_ms(1_000_000 + tick * 100);
        let mut manager = manager_of(20_000, at(0));
        // The first portion covers all the time that the clock shows.
        manager.begin_sweep(at(0));
        let mut probes = |tick: u64, state: &KeyState<'_>| {
            manager.begin_sweep(at(tick));
            let mut probes = 0;
            while let Some(id) = manager.next_due(at(tick)) {
                manager.probed(id, state, at(tick));
                probes += 1;
            }
            probes
        };
        let there = KeyState::String { value: b"me", expires: Expires::Never };
        let usual = probes(1, &there);
        assert_eq!(probes(2, &there), usual);
        probes(3, &KeyState::Absent);
        let larger = probes(4, &there);
        assert!((3 * usual..=5 * usual).contains(&larger), "{usual}, then {larger}");
        assert_eq!(probes(5, &there), usual);
    }

    #[test]
    fn each_lock_has_its_turn_although_portions_are_cut_short() {
        const LOCKS: u32 = 5_000;
        let at = |ms: u64| Now::from_ms(1_000_000 + ms);
        let mut manager = manager_of(LOCKS, at(0));
        let mut turns = BTreeMap::new();
        for tick in 1..=500 {
            manager.begin_sweep(at(tick * 100));
            // As if the time was up, after an odd number of locks.
            let portion = std::iter::from_fn(|| manager.next_due(at(tick * 100)));
            for id in portion.take(97) {
                *turns.entry(id).or_insert(0u32) += 1;
            }
        }
        assert_eq!(turns.len(), 5_000);
        let (least, most) = (turns.values().min(), turns.values().max());
        assert!(most <= least.map(|least| least + 1).as_ref(), "{least:?} to {most:?}");
    }

    /// The locks that one portion finds.
    fn portion(manager: &mut LockManager, now: Now) -> Vec<Id> {
        manager.begin_sweep(now);
        std::iter::from_fn(|| manager.next_due(now)).collect()
    }

    #[test]
    #[rustfmt::skip]
    fn which_locks_a_portion_finds() {
        for (what, record, late_ms, found) in [
            // The walk through keys finds each held lock, and each with a queue, the walk through
            // memory only those
            // whose lease is over: these are found twice.
            ("a held lock", held_by_me as fn(&mut LockManager) -> Option<u64>, 100, 1),
            ("an adopted lock", adopted_from_me, 100, 1),
            ("a lock whose lease is over", held_by_me, LEASE_END - NOW.ms(), 2),
            ("a free lock with a queue", |it| { wait(it, GPU, &request("b"), 2); None }, 100, 1),
            ("a lock that is neither held nor waited for", |it| {
                held_by_me(it);
                it.reconcile_named(name(GPU), &KeyState::Absent, NOW);
                None
            }, 100, 0),
        ] {
            let mut manager = manager();
            record(&mut manager);
            let locks = portion(&mut manager, after(late_ms));
            assert_eq!(locks, vec![id(&manager, GPU); found], "{what}");
        }
    }

    #[test]
    fn portions_do_not_follow_each_other_within_40_ms() {
        let mut manager = manager();
        held_by_me(&mut manager);
        let over = LEASE_END - NOW.ms();
        // The walk through memory finds it again and again, until its key was read.
        assert_eq!(portion(&mut manager, after(over + 100)).len(), 2);
        assert_eq!(portion(&mut manager, after(over + 139)).len(), 0);
        assert_eq!(portion(&mut manager, after(over + 140)).len(), 1);
        assert_eq!(
            portion(&mut manager, after(over)).len(),
            1,
            "the clock is stepped back"
        );
    }

    #[test]
    fn each_lock_is_probed_about_once_a_second() {
        let mut manager = manager();
        held_by_me(&mut manager);
        let probes = (1..=50).map(|n| portion(&mut manager, after(n * 100)).len());
        assert_eq!(probes.sum::<usize>(), 7, "in five seconds");
    }

    #[test]
    fn a_lock_that_is_held_for_long_is_logged_once() {
        let settings = Settings { warn_hold: 5_000, ..Settings::default() };
        let mut manager = LockManager::new(settings, 1, NOW);
        let token = held(&mut manager, GPU, "me");
        portion(&mut manager, after(4_999));
        assert_eq!(logged(&manager), "");
        portion(&mut manager, after(5_100));
        portion(&mut manager, after(6_000));
        assert_eq!(logged(&manager), "long_hold");
        let entry = manager.log.get(0).unwrap();
        let seen = (entry.token, entry.held_ms, entry.count);
        assert_eq!(seen, (Some(token), Some(5_100), 1));
    }
}
