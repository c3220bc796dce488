//! Circles: a waits for what b holds, who waits for what a holds. Only what is certain
//! counts, so that there is no false alarm: each owner of a circle holds its lock by
//! UNIQUE, granted by the module, and waits by UNIQUE, in one call alone. Anything else
//! ends the search. A call for a set counts where it wants all of it.

use std::collections::BTreeSet;

use crate::arena::Id;
use crate::clock::Now;
use crate::keeper::Keeper;
use crate::line::{Ticket, Waiter};
use crate::wait::Wanted;

/// How many locks the search passes.
const STEPS: usize = 1_000;

/// How many locks of waiting calls the search reads in all: a call names up to 1,024, so that
/// the number of steps alone would not bound the time. A search that reads more reports no
/// circle.
const READS: usize = 8_192;

/// How many owners are named.
const NAMED: usize = 8;

/// How many bytes of an owner are shown.
const SHOWN: usize = 64;

/// What is certain of circles before a wait begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Circles {
    /// The keys of these locks were looked at just now.
    SureOf(Vec<Id>),
    /// The keys cannot be looked at: there may be a circle, and it is not refused.
    Unseen,
}

/// A circle that a wait would close.
pub(crate) struct Circle {
    /// The locks that it goes through.
    pub(crate) locks: Vec<Id>,
    /// `"a" -> "b" -> "a"`
    pub(crate) chain: String,
}

/// A lock on the way of the search, and the step that led to it.
struct Step {
    lock: Id,
    before: Option<usize>,
}

impl Keeper {
    /// The circle that would be closed if `owner` waited for all of these locks, and gave up
    /// its places `older`. Whoever wants fewer than it names can be served by another: that is
    /// no circle.
    pub(crate) fn circle(
        &self,
        owner: &[u8],
        wanted: Wanted<'_>,
        locks: &[Id],
        older: &[Ticket],
        now: Now,
    ) -> Option<Circle> {
        // `older` is in order and each of its places is of this owner, so that one call more
        // than there are of them ends this.
        let stays = |ticket: &Ticket| older.binary_search(ticket).is_err();
        if wanted.count < locks.len() || self.lines.calls_of(owner).any(|it| stays(&it)) {
            return None;
        }
        let is_own = |id: &Id| locks.len() > 1 && self.holds(*id, owner);
        let begin = locks.iter().filter(|id| !is_own(id));
        self.search(owner, begin.copied().take(STEPS).collect(), READS, now).0
    }

    /// Goes from lock to holder, and from there to the locks that it waits for, until the
    /// holder is `owner`. Reads at most `reads` locks of waiting calls, and tells how many are
    /// left of these.
    fn search(
        &self,
        owner: &[u8],
        begin: Vec<Id>,
        mut reads: usize,
        now: Now,
    ) -> (Option<Circle>, usize) {
        let mut seen: BTreeSet<Id> = begin.iter().copied().collect();
        let mut seen_calls = BTreeSet::new();
        let mut steps: Vec<Step> =
            begin.into_iter().map(|lock| Step { lock, before: None }).collect();
        let mut at = 0;
        while let Some(step) = steps.get(at) {
            if let Some(holder) = self.sure_holder(step.lock) {
                if *holder == *owner {
                    return (self.way_to(&steps, at, owner), reads);
                }
                // Of a call met before nothing is new.
                let needed = self.needs(holder, now);
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

    /// Who holds a lock, if that is certain.
    fn sure_holder(&self, lock: Id) -> Option<&[u8]> {
        let hold = self.table.get(lock)?.hold.as_ref()?;
        let is_sure = !hold.adopted && hold.unique && !self.is_ending(hold.session);
        is_sure.then_some(&*hold.owner)
    }

    /// The call in which a UNIQUE owner waits, if it waits in one alone, whose time is not
    /// over, and which nothing but all of its locks serves.
    fn needs(&self, owner: &[u8], now: Now) -> Option<(Ticket, &Waiter)> {
        let mut calls = self.lines.calls_of(owner);
        let only = calls.next().filter(|_| calls.next().is_none())?;
        let call = self.lines.get(only)?;
        let is_needed = call.wants == call.locks.len()
            && call.deadline_ms.is_none_or(|ms| ms > now.ms());
        is_needed.then_some((only, call))
    }

    /// The steps that led to this one.
    fn way_to(&self, steps: &[Step], last: usize, owner: &[u8]) -> Option<Circle> {
        let way = std::iter::successors(steps.get(last), |step| {
            step.before.and_then(|before| steps.get(before))
        });
        let mut locks: Vec<Id> = way.map(|step| step.lock).collect();
        locks.reverse();
        let holders = locks.iter().map(|id| self.sure_holder(*id));
        let owners: Option<Vec<&[u8]>> =
            std::iter::once(Some(owner)).chain(holders).collect();
        Some(Circle { chain: chain(&owners?), locks })
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
    use crate::acquire::Asker;
    use crate::lock::Name;
    use crate::request::Acquire;
    use crate::seen::Seen;
    use crate::settings::Settings;
    use crate::wait::{Leaving, Waiting};

    const NOW: Now = Now::from_ms(1_000_000);

    fn ask(owner: &[u8]) -> Acquire<'_> {
        let (lease_ms, block_ms, session_grace_ms) = (None, Some(0), None);
        Acquire { owner, lease_ms, unique: true, block_ms, session_grace_ms }
    }

    /// `owner` takes a lock that is free.
    fn take(keeper: &mut Keeper, key: &str, owner: &str) {
        let name = Name { db: 0, key: key.as_bytes() };
        let asker = Asker { client: Some(0), may_wait: true, room: true };
        let ask = ask(owner.as_bytes());
        keeper.acquire(name, &ask, &Seen::Absent, asker, NOW).unwrap();
    }

    /// `owner` waits for all of some locks, as this client.
    fn wait(keeper: &mut Keeper, keys: &[String], owner: &str, client: u64) -> Ticket {
        let keys: Vec<&[u8]> = keys.iter().map(String::as_bytes).collect();
        let (count, free) = (keys.len(), &[]);
        let wanted = Wanted { db: 0, keys: &keys, count, of_set: true, free };
        let ask = ask(owner.as_bytes());
        let waiting = keeper.wait(wanted, &ask, client, &Circles::Unseen, true, NOW);
        match waiting.unwrap() {
            Waiting::Begun(ticket) => ticket,
            Waiting::LookFirst(_) => unreachable!("circles are not looked for"),
        }
    }

    fn keys(of: &str, count: usize) -> Vec<String> {
        (0..count).map(|n| format!("{of}:{n}")).collect()
    }

    fn id(keeper: &Keeper, key: &str) -> Id {
        keeper.table.find(Name { db: 0, key: key.as_bytes() }).unwrap()
    }

    /// Owners 0 to `len`, each of which holds the first lock of its own and waits for all locks
    /// of the next one's, a hundred; the last one waits for those of the first.
    fn ring(len: usize) -> Keeper {
        let mut keeper = Keeper::new(Settings::default(), 1, NOW);
        for n in 0..len {
            take(&mut keeper, &format!("{n}:0"), &n.to_string());
        }
        for n in 1..len {
            let next = ((n + 1) % len).to_string();
            wait(&mut keeper, &keys(&next, 100), &n.to_string(), n as u64);
        }
        keeper
    }

    #[test]
    fn a_search_ends_after_so_many_locks_without_an_alarm() {
        let keeper = ring(5);
        let begin = vec![id(&keeper, "1:0")];
        let (circle, left) = keeper.search(b"0", begin.clone(), 1_000, NOW);
        assert_eq!(circle.unwrap().chain, r#""0" -> "1" -> "2" -> "3" -> "4" -> "0""#);
        assert_eq!(left, 600, "each of four calls is read once");
        let (circle, left) = keeper.search(b"0", begin.clone(), 350, NOW);
        assert!(circle.is_none() && left == 0);
        assert!(keeper.search(b"0", begin, READS, NOW).0.is_some());
    }

    #[test]
    fn a_call_is_read_once_and_kept_places_are_not_read() {
        let mut keeper = Keeper::new(Settings::default(), 1, NOW);
        let held = keys("held", 500);
        held.iter().for_each(|key| take(&mut keeper, key, "x"));
        for n in 0..20 {
            let ticket = wait(&mut keeper, &keys(&format!("w{n}"), 100), "x", 1);
            keeper.end_wait(ticket, Leaving::TimedOut, &[], NOW).unwrap();
        }
        let begin: Vec<Id> = held.iter().map(|key| id(&keeper, key)).collect();
        let (circle, left) = keeper.search(b"z", begin.clone(), READS, NOW);
        assert_eq!((circle.is_some(), left), (false, READS));
        wait(&mut keeper, &keys("w0", 100), "x", 1);
        let (circle, left) = keeper.search(b"z", begin, READS, NOW);
        assert_eq!((circle.is_some(), left), (false, READS - 100));
    }

    #[test]
    fn a_call_that_has_left_counts_no_longer() {
        let mut keeper = ring(3);
        let begin = vec![id(&keeper, "1:0")];
        let finds =
            |keeper: &Keeper| keeper.search(b"0", begin.clone(), READS, NOW).0.is_some();
        let other = wait(&mut keeper, &keys("w", 2), "1", 9);
        assert!(!finds(&keeper), "one that waits in two calls is not certain to wait");
        keeper.mark_left(other, Leaving::Disconnected, NOW);
        assert!(finds(&keeper));
    }

    #[test]
    fn steps_end_a_search_as_well() {
        let mut keeper = Keeper::new(Settings::default(), 1, NOW);
        take(&mut keeper, "a", "x");
        let many = keys("many", STEPS);
        take(&mut keeper, many.last().unwrap(), "z");
        wait(&mut keeper, &many, "x", 1);
        let begin = vec![id(&keeper, "a")];
        // The lock that would close it is the one after the last step.
        let (circle, left) = keeper.search(b"z", begin.clone(), READS, NOW);
        assert!(circle.is_none());
        assert_eq!(left, READS - (STEPS - 1));
    }
}
