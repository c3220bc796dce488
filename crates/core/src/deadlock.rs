//! Circles: a waits for what b holds, who waits for what a holds. Only what is certain
//! counts, so that there is no false alarm: each owner of a circle holds its lock by
//! UNIQUE, granted by the module, and waits by UNIQUE, in one call alone. Anything else
//! ends the search.

use crate::arena::Id;
use crate::clock::Now;
use crate::keeper::Keeper;
use crate::line::Waiter;
use crate::lock::Session;

/// How far the search goes.
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

impl Keeper {
    /// The circle that would be closed if `owner` waited for the lock.
    pub(crate) fn circle(&self, owner: &[u8], lock: Id, now: Now) -> Option<Circle> {
        if self.calls_of(owner).any(|waiter| waiter.lock != lock) {
            return None;
        }
        let (mut owners, mut locks) = (vec![owner], vec![lock]);
        for _ in 0..STEPS {
            let id = *locks.last()?;
            let hold = self.table.get(id)?.hold.as_ref()?;
            let is_ending = matches!(hold.session, Session::Ending { .. });
            if hold.adopted || !hold.unique || is_ending {
                return None;
            }
            owners.push(&hold.owner);
            if *hold.owner == *owner {
                return Some(Circle { chain: chain(&owners), locks });
            }
            locks.push(self.only_wait(&hold.owner, now)?.lock);
        }
        None
    }

    /// The call in which a UNIQUE owner waits, if it is one alone and its time is not over.
    fn only_wait(&self, owner: &[u8], now: Now) -> Option<&Waiter> {
        let mut calls = self.calls_of(owner);
        let only = calls.next()?;
        let is_over = only.deadline_ms.is_some_and(|ms| ms <= now.ms());
        (calls.next().is_none() && !is_over).then_some(only)
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
