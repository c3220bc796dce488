//! Deadlocks: a waits for what b holds, and b waits for what a holds. Only what is certain counts,
//! so there is no false alarm: each owner of a cycle holds its lock with UNIQUE, granted by the
//! module, and waits with UNIQUE, in one call only. Anything else ends the search. A call for a
//! lock set counts if it wants all of it.

use std::collections::BTreeSet;

use crate::error::CommandError;
use crate::manager::{Caller, Incident, LockManager};
use crate::request::Acquire;
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::lock::{Hold, Name};
use crate::state::log::Kind;
use crate::state::wait_queue::{Ticket, Waiter, Wanted};

/// The number of locks that the search passes.
const STEPS: usize = 1_000;

/// The number of locks of waiting calls that the search reads in all: a call names up to 1,024, so
/// the number of steps alone would not bound the time. A search that reads more reports no cycle.
const READS: usize = 8_192;

/// The number of owners that the error names.
const NAMED: usize = 8;

/// The number of bytes of an owner that the error shows.
const SHOWN: usize = 64;

/// What is certain about cycles before a wait begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeadlockCheck {
    /// These locks were probed just now.
    Probed(Vec<Id>),
    /// The locks cannot be probed: there may be a cycle, and it is not refused.
    Skipped,
}

/// A cycle that a wait would close.
pub(crate) struct Cycle {
    /// The locks that it goes through.
    pub(crate) locks: Vec<Id>,
    /// `"a" -> "b" -> "a"`
    pub(crate) chain: String,
}

/// A lock that the search passes, and the step that led to it.
struct Step {
    lock: Id,
    before: Option<usize>,
}

impl LockManager {
    /// The cycle that would be closed if `owner` waited for all of these locks and gave up its
    /// positions `older`. A call that wants fewer locks than it names can be served by another
    /// lock, so it closes none.
    pub(crate) fn cycle(
        &self,
        owner: &[u8],
        wanted: Wanted<'_>,
        locks: &[Id],
        older: &[Ticket],
        now: Now,
    ) -> Option<Cycle> {
        // `older` is sorted, and each of its positions is of this owner, so one call more than
        // there are of them ends this.
        let stays = |ticket: &Ticket| older.binary_search(ticket).is_err();
        if wanted.count < locks.len() || self.queues.calls_of(owner).any(|it| stays(&it))
        {
            return None;
        }
        let is_own = |id: &Id| locks.len() > 1 && self.holds(*id, owner);
        let begin = locks.iter().filter(|id| !is_own(id));
        self.search(owner, begin.copied().take(STEPS).collect(), READS, now).0
    }

    /// Refuses a wait that would close a cycle: counts and logs it, and returns the error.
    pub(crate) fn refuse_deadlock(
        &mut self,
        wanted: Wanted<'_>,
        request: &Acquire<'_>,
        cycle: Cycle,
        client: u64,
        now: Now,
    ) -> CommandError {
        let Cycle { locks, chain } = cycle;
        let Some((id, key)) = locks
            .first()
            .and_then(|id| self.table.get(*id).map(|lock| (*id, lock.key.clone())))
        else {
            return CommandError::Internal;
        };
        let counted = (wanted.keys.len() == 1).then_some(id);
        self.count(counted, |counters| &mut counters.deadlocks);
        let hold = self.table.hold(id).cloned();
        let incident = Incident {
            name: Name { db: wanted.db, key: &key },
            kind: Kind::Deadlock,
            holder: hold.as_ref().map(|hold| &*hold.owner),
            token: hold.as_ref().and_then(Hold::token),
            held_ms: hold.as_ref().and_then(|hold| hold.held_ms(now)),
            reason: chain.clone().into_bytes().into(),
            caller: Caller { owner: Some(request.owner), client: Some(client) },
        };
        self.log_incident(incident, now);
        CommandError::Deadlock { chain }
    }

    /// Goes from lock to holder, and from there to the locks that the holder waits for, until the
    /// holder is `owner`. Reads at most `reads` locks of waiting calls, and returns how many of
    /// these reads are left.
    fn search(
        &self,
        owner: &[u8],
        begin: Vec<Id>,
        mut reads: usize,
        now: Now,
    ) -> (Option<Cycle>, usize) {
        let mut seen: BTreeSet<Id> = begin.iter().copied().collect();
        let mut seen_calls = BTreeSet::new();
        let mut steps: Vec<Step> =
            begin.into_iter().map(|lock| Step { lock, before: None }).collect();
        let mut at = 0;
        while let Some(step) = steps.get(at) {
            if let Some(holder) = self.certain_holder(step.lock) {
                if *holder == *owner {
                    return (self.cycle_of(&steps, at, owner), reads);
                }
                let needed = self.certain_wait(holder, now);
                let needed = needed.filter(|(call, _)| seen_calls.insert(*call));
                for id in needed.into_iter().flat_map(|(_, waiter)| &waiter.locks) {
                    if steps.len() >= STEPS {
                        break;
                    }
                    let Some(left) = reads.checked_sub(1) else { return (None, 0) };
                    reads = left;
                    if !seen.contains(id) && !self.holds(*id, holder) {
                        seen.insert(*id);
                        steps.push(Step { lock: *id, before: Some(at) });
                    }
                }
            }
            at = at.saturating_add(1);
        }
        (None, reads)
    }

    /// The holder of a lock, if it is certain.
    fn certain_holder(&self, lock: Id) -> Option<&[u8]> {
        let hold = self.table.hold(lock)?;
        let is_certain = !hold.adopted && hold.unique && !self.is_ending(hold.session);
        is_certain.then_some(&*hold.owner)
    }

    /// The call in which a UNIQUE owner waits, if it waits in one call only, which has not expired,
    /// and which needs all of its locks.
    fn certain_wait(&self, owner: &[u8], now: Now) -> Option<(Ticket, &Waiter)> {
        let mut calls = self.queues.calls_of(owner);
        let only = calls.next().filter(|_| calls.next().is_none())?;
        let call = self.queues.get(only)?;
        let is_needed = call.wants == call.locks.len() && !call.is_expired(now);
        is_needed.then_some((only, call))
    }

    /// The cycle that consists of the steps that led to this one.
    fn cycle_of(&self, steps: &[Step], last: usize, owner: &[u8]) -> Option<Cycle> {
        let path = std::iter::successors(steps.get(last), |step| {
            step.before.and_then(|before| steps.get(before))
        });
        let mut locks: Vec<Id> = path.map(|step| step.lock).collect();
        locks.reverse();
        let holders = locks.iter().map(|id| self.certain_holder(*id));
        let owners: Option<Vec<&[u8]>> =
            std::iter::once(Some(owner)).chain(holders).collect();
        Some(Cycle { chain: chain(&owners?), locks })
    }
}

/// The owners in order, the first one again at the end; of many only the first ones.
fn chain(owners: &[&[u8]]) -> String {
    let quoted = |owner: &&[u8]| {
        let shown = owner.get(..SHOWN).unwrap_or(owner);
        format!("\"{}\"", shown.escape_ascii())
    };
    let mut names: Vec<String> = owners.iter().map(quoted).collect();
    if names.len() > NAMED
        && let Some(last) = names.pop()
    {
        names.truncate(NAMED.saturating_sub(1));
        names.push("...".to_owned());
        names.push(last);
    }
    names.join(" -> ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Acquire;
    use crate::rules::acquire::CallerContext;
    use crate::rules::test_support as support;
    use crate::rules::{leave::LeaveReason, wait::Waiting};
    use crate::state::key_state::KeyState;
    use crate::state::lock::Name;
    use crate::state::settings::Settings;

    const NOW: Now = Now::from_ms(1_000_000);

    fn request(owner: &[u8]) -> Acquire<'_> {
        Acquire { owner, unique: true, block_ms: Some(0), ..Acquire::default() }
    }

    /// `owner` acquires a free lock.
    fn take(manager: &mut LockManager, key: &str, owner: &str) {
        let name = Name { db: 0, key: key.as_bytes() };
        let caller = CallerContext { client: Some(0), may_wait: true, has_memory: true };
        let request = request(owner.as_bytes());
        manager.acquire(name, &request, &KeyState::Absent, caller, NOW).unwrap();
    }

    /// `owner` waits for all of some locks, as this client.
    fn wait(
        manager: &mut LockManager,
        keys: &[String],
        owner: &str,
        client: u64,
    ) -> Ticket {
        let keys: Vec<&[u8]> = keys.iter().map(String::as_bytes).collect();
        let (count, free) = (keys.len(), &[]);
        let wanted =
            Wanted { keys: &keys, count, of_set: true, free, ..Wanted::default() };
        let request = request(owner.as_bytes());
        let waiting =
            manager.wait(wanted, &request, client, &DeadlockCheck::Skipped, true, NOW);
        match waiting.unwrap() {
            Waiting::Queued(ticket) => ticket,
            Waiting::ProbeFirst(_) => unreachable!("deadlocks are not searched for"),
        }
    }

    fn keys(of: &str, count: usize) -> Vec<String> {
        (0..count).map(|n| format!("{of}:{n}")).collect()
    }

    fn id(manager: &LockManager, key: &str) -> Id {
        manager.table.find(Name { db: 0, key: key.as_bytes() }).unwrap()
    }

    /// Owners 0 to `len`, each of which holds the first lock of its own and waits for all locks
    /// of the next one, a hundred; the last one waits for those of the first.
    fn ring(len: usize) -> LockManager {
        let mut manager = LockManager::new(Settings::default(), 1, NOW);
        for n in 0..len {
            take(&mut manager, &format!("{n}:0"), &n.to_string());
        }
        for n in 1..len {
            let next = ((n + 1) % len).to_string();
            wait(&mut manager, &keys(&next, 100), &n.to_string(), n as u64);
        }
        manager
    }

    #[test]
    fn a_search_that_reads_too_many_locks_reports_no_cycle() {
        let manager = ring(5);
        let begin = vec![id(&manager, "1:0")];
        let (cycle, left) = manager.search(b"0", begin.clone(), 1_000, NOW);
        assert_eq!(cycle.unwrap().chain, r#""0" -> "1" -> "2" -> "3" -> "4" -> "0""#);
        assert_eq!(left, 600, "each of four calls is read once");
        let (cycle, left) = manager.search(b"0", begin.clone(), 350, NOW);
        assert!(cycle.is_none() && left == 0);
        assert!(manager.search(b"0", begin, READS, NOW).0.is_some());
    }

    #[test]
    fn a_call_is_read_once_and_kept_positions_are_not_read() {
        let mut manager = LockManager::new(Settings::default(), 1, NOW);
        let held = keys("held", 500);
        held.iter().for_each(|key| take(&mut manager, key, "x"));
        for n in 0..20 {
            let ticket = wait(&mut manager, &keys(&format!("w{n}"), 100), "x", 1);
            manager.end_wait(ticket, LeaveReason::TimedOut, NOW).unwrap();
        }
        let begin: Vec<Id> = held.iter().map(|key| id(&manager, key)).collect();
        let (cycle, left) = manager.search(b"z", begin.clone(), READS, NOW);
        assert_eq!((cycle.is_some(), left), (false, READS));
        wait(&mut manager, &keys("w0", 100), "x", 1);
        let (cycle, left) = manager.search(b"z", begin, READS, NOW);
        assert_eq!((cycle.is_some(), left), (false, READS - 100));
    }

    #[test]
    fn a_waiter_that_has_left_no_longer_counts() {
        let mut manager = ring(3);
        let begin = vec![id(&manager, "1:0")];
        let finds = |manager: &LockManager| {
            manager.search(b"0", begin.clone(), READS, NOW).0.is_some()
        };
        let other = wait(&mut manager, &keys("w", 2), "1", 9);
        assert!(
            !finds(&manager),
            "an owner that waits in two calls is not certain to wait"
        );
        manager.mark_left(other, LeaveReason::Disconnected, NOW);
        assert!(finds(&manager));
    }

    #[test]
    fn a_search_that_passes_too_many_locks_reports_no_cycle() {
        let mut manager = LockManager::new(Settings::default(), 1, NOW);
        take(&mut manager, "a", "x");
        let many = keys("many", STEPS);
        take(&mut manager, many.last().unwrap(), "z");
        wait(&mut manager, &many, "x", 1);
        let begin = vec![id(&manager, "a")];
        // The lock that would close it is the one after the last step.
        let (cycle, left) = manager.search(b"z", begin.clone(), READS, NOW);
        assert!(cycle.is_none());
        assert_eq!(left, READS - (STEPS - 1));
    }

    // ---- What is certain

    /// Makes the rest of a cycle, or something that is not certain to be one: `me` holds `gpu:0`
    /// and is about to wait for `gpu:1`.
    type Record = fn(&mut LockManager);

    fn holds(manager: &mut LockManager, key: &str, owner: &str, client: u64) {
        support::acquire(manager, key, &support::unique(owner), client);
    }

    fn waits(manager: &mut LockManager, key: &str, owner: &str, client: u64) {
        support::wait(manager, key, &support::unique(owner), client);
    }

    /// `other` holds `gpu:1`.
    fn other_holds(manager: &mut LockManager) {
        holds(manager, "gpu:1", "other", 2);
    }

    /// `other` holds `gpu:1` and waits for `gpu:0`.
    fn other_waits(manager: &mut LockManager) {
        other_holds(manager);
        waits(manager, "gpu:0", "other", 2);
    }

    /// `other` waits for `count` locks of a lock set.
    fn other_waits_for_set(manager: &mut LockManager, count: usize) {
        let keys = ["gpu:0", "gpu:2"];
        support::wait_for_set(manager, &keys, count, &support::unique("other"), 2);
    }

    #[test]
    #[rustfmt::skip]
    fn only_what_is_certain_is_a_cycle() {
        for (what, record, is_cycle) in [
            ("the holder waits for the lock of the caller", other_waits as Record, true),
            ("the holder waits for nothing", other_holds, false),
            ("the holder waits for a free lock",
                |it| { other_holds(it); waits(it, "gpu:2", "other", 2); }, false),
            ("the holder waits for the lock of a third owner, which waits for the caller's", |it| {
                other_holds(it);
                holds(it, "gpu:2", "third", 3);
                waits(it, "gpu:2", "other", 2);
                waits(it, "gpu:0", "third", 3);
            }, true),
            ("the holder waits without UNIQUE", |it| {
                other_holds(it);
                support::wait(it, "gpu:0", &support::request("other"), 2);
            }, false),
            ("the holder has acquired the lock without UNIQUE", |it| {
                support::held(it, "gpu:1", "other");
                waits(it, "gpu:0", "other", 2);
            }, false),
            ("the lock was not granted by the module", |it| {
                support::adopted(it, "gpu:1", "other");
                waits(it, "gpu:0", "other", 2);
            }, false),
            ("the holder waits in two calls",
                |it| { other_waits(it); waits(it, "gpu:2", "other", 3); }, false),
            ("only a kept position of the holder is left",
                |it| { other_waits(it); it.client_gone(2, NOW); }, false),
            ("the wait of the holder has expired", |it| {
                other_holds(it);
                let expired = Acquire { block_ms: Some(1), ..support::unique("other") };
                support::wait(it, "gpu:0", &expired, 2);
            }, false),
            ("the holder needs all locks of its lock set",
                |it| { other_holds(it); other_waits_for_set(it, 2); }, true),
            ("another lock of its lock set could still serve the holder",
                |it| { other_holds(it); other_waits_for_set(it, 1); }, false),
            ("the session of the holder is about to end", |it| {
                support::acquire(it, "gpu:1", &support::in_session("other", 0), 2);
                waits(it, "gpu:0", "other", 3);
                it.client_gone(2, NOW);
            }, false),
            ("the caller waits in another call already",
                |it| { other_waits(it); waits(it, "gpu:2", "me", 4); }, false),
            ("the caller waits for the same lock in another call, which ends with this one",
                |it| { other_waits(it); waits(it, "gpu:1", "me", 4); }, true),
        ] {
            let mut manager = support::manager();
            holds(&mut manager, "gpu:0", "me", 1);
            record(&mut manager);
            assert_eq!(closes_cycle(&mut manager, &["gpu:1"], 1), is_cycle, "{what}");
        }
    }

    /// Whether `me` closes a cycle if it waits for `count` of these locks, one millisecond later.
    fn closes_cycle(manager: &mut LockManager, keys: &[&str], count: usize) -> bool {
        let keys: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
        let wanted = Wanted { keys: &keys, count, of_set: true, ..Wanted::default() };
        let make =
            |key: &&[u8]| manager.table.find_or_create(Name { db: 0, key }).unwrap();
        let locks: Vec<Id> = keys.iter().map(make).collect();
        let older = manager.own_positions(&locks, &support::unique("me"));
        let now = support::after(1);
        manager.cycle(b"me", wanted, &locks, &older, now).is_some()
    }

    #[test]
    #[rustfmt::skip]
    fn a_call_for_a_lock_set_closes_a_cycle_only_if_it_needs_all_of_it() {
        for (what, keys, count, is_cycle) in [
            ("all", &["gpu:1", "gpu:2"][..], 2, true),
            ("one of two", &["gpu:1", "gpu:2"], 1, false),
            ("all, of which it holds one", &["gpu:0", "gpu:1"], 2, true),
            ("all, of which none is in the cycle", &["gpu:2", "gpu:3"], 2, false),
        ] {
            let mut manager = support::manager();
            holds(&mut manager, "gpu:0", "me", 1);
            other_holds(&mut manager);
            waits(&mut manager, "gpu:0", "other", 2);
            assert_eq!(closes_cycle(&mut manager, keys, count), is_cycle, "{what}");
        }
    }

    #[test]
    fn the_chain_is_quoted_escaped_and_cut() {
        let long = [b'x'; 100];
        let many: Vec<Vec<u8>> =
            (0..10).map(|n: u32| n.to_string().into_bytes()).collect();
        let ten: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
        let x64 = "x".repeat(64);
        let cut = format!("\"{x64}\" -> \"b\" -> \"{x64}\"");
        for (owners, expected) in [
            (&[&b"a"[..], b"b", b"a"][..], r#""a" -> "b" -> "a""#.to_owned()),
            (&[b"a\"\n", b"b"], r#""a\"\n" -> "b""#.to_owned()),
            (&[&long, b"b", &long], cut),
            (
                &ten,
                r#""0" -> "1" -> "2" -> "3" -> "4" -> "5" -> "6" -> ... -> "9""#
                    .to_owned(),
            ),
        ] {
            assert_eq!(chain(owners), expected);
        }
    }
}
