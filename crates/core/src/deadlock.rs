//! Circles: a waits for what b holds, who waits for what a holds. Only what is certain
//! counts, so that there is no false alarm: each owner of a circle holds its lock by
//! UNIQUE, granted by the module, and waits by UNIQUE, in one call alone. Anything else
//! ends the search. A call for a set counts where it wants all of it.

use std::collections::BTreeSet;

use crate::arena::Id;
use crate::clock::Now;
use crate::keeper::Keeper;
use crate::line::Waiter;
use crate::lock::Session;
use crate::wait::Wanted;

/// How many locks the search passes.
const STEPS: usize = 1_000;

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
    /// The circle that would be closed if `owner` waited for all of these locks. Whoever
    /// wants fewer than it names can be served by another: that is no circle.
    pub(crate) fn circle(
        &self,
        owner: &[u8],
        wanted: Wanted<'_>,
        locks: &[Id],
        now: Now,
    ) -> Option<Circle> {
        let stays = |waiter: &Waiter| !waiter.locks.iter().any(|id| locks.contains(id));
        if wanted.count < locks.len() || self.calls_of(owner).any(stays) {
            return None;
        }
        let mut seen: BTreeSet<Id> = BTreeSet::new();
        let mut steps = Vec::new();
        let is_own = |id: &Id| locks.len() > 1 && self.holds(*id, owner);
        let begin = locks.iter().filter(|id| !is_own(id));
        steps.extend(begin.map(|lock| Step { lock: *lock, before: None }));
        seen.extend(steps.iter().map(|step| step.lock));
        let mut at = 0;
        while let Some(step) = steps.get(at).filter(|_| at < STEPS) {
            if let Some(holder) = self.sure_holder(step.lock) {
                if *holder == *owner {
                    return self.way_to(&steps, at, owner);
                }
                let next = self.needs(holder, now);
                let new = next.filter(|id| !self.holds(*id, holder) && seen.insert(*id));
                let new: Vec<_> =
                    new.map(|lock| Step { lock, before: Some(at) }).collect();
                steps.extend(new);
            }
            at = at.saturating_add(1);
        }
        None
    }

    /// Who holds a lock, if that is certain.
    fn sure_holder(&self, lock: Id) -> Option<&[u8]> {
        let hold = self.table.get(lock)?.hold.as_ref()?;
        let is_ending = matches!(hold.session, Session::Ending { .. });
        (!hold.adopted && hold.unique && !is_ending).then_some(&*hold.owner)
    }

    /// The locks that a UNIQUE owner waits for, if it waits in one call alone, whose time is
    /// not over, and which nothing but all of them serves.
    fn needs(&self, owner: &[u8], now: Now) -> impl Iterator<Item = Id> {
        let mut calls = self.calls_of(owner);
        let only = calls.next().filter(|_| calls.next().is_none());
        let needed = only.filter(|call| {
            call.wants == call.locks.len()
                && call.deadline_ms.is_none_or(|ms| ms > now.ms())
        });
        needed.into_iter().flat_map(|call| call.locks.iter().copied())
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

    /// The calls in which a UNIQUE owner waits.
    fn calls_of(&self, owner: &[u8]) -> impl Iterator<Item = &Waiter> {
        self.lines.places_of(owner).filter(|place| place.client.is_some())
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
