//! First come, first served, and INSPECT shows what is. Nobody can tell from outside when a
//! call reached its line; but a look at the line can: whoever it shows stands there, before
//! all who are shown behind it and all who asked after the look was over. If those are granted
//! the lock, it is with a larger token.

use std::collections::HashMap;

use super::excuses::Excuses;
use super::stories::{Grant, Stories};
use super::{Rule, Violation};
use crate::clock::Nanos;
use crate::history::{Answer, Ask, Call, Lock, Owner, Shown};

/// Checks it, and answers how many places in a line it knew.
pub(crate) fn check(
    stories: &Stories<'_>,
    excuses: &Excuses,
    violations: &mut Vec<Violation>,
) -> usize {
    let mut places = 0;
    let mut served: HashMap<Lock, Vec<Served>> = HashMap::new();
    for look in &stories.looks {
        let (Ask::Inspect { lock }, Answer::Shown(shown)) = (&look.ask, &look.answer)
        else {
            continue;
        };
        check_holder(stories, look, *lock, shown, violations);
        let line = shown
            .line
            .iter()
            .filter_map(|owner| waiting_at(stories, *lock, *owner, look));
        let mut last: Option<&Grant> = None;
        for grant in line {
            places += 1;
            if let Some(before) = last.filter(|before| before.token > grant.token) {
                violations.push(passed(grant, before, look));
            }
            last = last.filter(|last| last.token > grant.token).or(Some(grant));
        }
        if let Some(last) = last {
            let seen = Served { look_ended: look.heard, token: last.token };
            served.entry(*lock).or_default().push(seen);
        }
    }
    for (lock, served) in served {
        check_newcomers(stories, lock, served, excuses, violations);
    }
    places
}

/// One of a line was granted the lock with this token, or a larger one.
struct Served {
    look_ended: Nanos,
    token: u64,
}

/// The grant by which the wait ended in which a look found an owner. None when it was not
/// granted the lock, or when that need not have been for this place.
fn waiting_at<'s>(
    stories: &'s Stories<'_>,
    lock: Lock,
    owner: Owner,
    look: &Call,
) -> Option<&'s Grant> {
    let story = stories.of.get(&(lock, owner))?;
    story.grants.iter().map(|at| &stories.grants[*at]).find(|grant| {
        let call = story.calls[grant.place];
        let before = &story.calls[..grant.place];
        call.ask.how().is_some()
            && call.asked < look.asked
            && call.heard > look.heard
            && !before.iter().any(|call| call.may_have_begun())
    })
}

/// Whoever asked after a look was over comes after all whom it showed.
fn check_newcomers(
    stories: &Stories<'_>,
    lock: Lock,
    mut served: Vec<Served>,
    excuses: &Excuses,
    violations: &mut Vec<Violation>,
) {
    let Some(of_lock) = stories.by_lock.get(&lock) else { return };
    served.sort_by_key(|seen| seen.look_ended);
    let mut grants: Vec<(Nanos, &Grant)> = of_lock
        .iter()
        .map(|at| &stories.grants[*at])
        .filter(|grant| !grant.by_extend)
        // A UNIQUE owner may stand where an earlier call of its own stood.
        .map(|grant| (stories.story(grant).calls[0].asked, grant))
        .collect();
    grants.sort_by_key(|(asked, _)| *asked);
    let mut served = served.into_iter().peekable();
    let mut largest = 0;
    for (asked, grant) in grants {
        while let Some(seen) = served.next_if(|seen| seen.look_ended < asked) {
            largest = largest.max(seen.token);
        }
        if grant.token < largest && !may_be_brought(stories, grant, excuses) {
            let before = &stories.grants[stories.by_token[&largest]];
            violations.push(Violation {
                rule: Rule::Order,
                at: before.heard,
                what: format!(
                    "{} asked for {lock} when {} was seen to wait, and got {} before its {}",
                    grant.owner, before.owner, grant.token, before.token
                ),
            });
        }
    }
}

/// Whether another command may have brought the owner's key of another lock to this one, as
/// RENAME does. A UNIQUE call of that owner is then a renewal, which waits for nobody.
fn may_be_brought(stories: &Stories<'_>, grant: &Grant, excuses: &Excuses) -> bool {
    let call = stories.story(grant).calls[grant.place];
    let of_owner = stories
        .grants
        .iter()
        .filter(|other| other.owner == grant.owner && other.lock != grant.lock);
    call.ask.how().is_some_and(|how| how.unique)
        && of_owner.into_iter().any(|other| {
            other.token < grant.token
                && excuses.touched(grant.lock, other.asked, grant.heard)
        })
}

fn passed(grant: &Grant, before: &Grant, look: &Call) -> Violation {
    Violation {
        rule: Rule::Order,
        at: before.heard.max(grant.heard),
        what: format!(
            "{} stood behind {} in the line of {} at {}, and got {} before its {}",
            grant.owner, before.owner, grant.lock, look.asked, grant.token, before.token
        ),
    }
}

/// The holder that a look shows is one that may have held the lock just then.
fn check_holder(
    stories: &Stories<'_>,
    look: &Call,
    lock: Lock,
    shown: &Shown,
    violations: &mut Vec<Violation>,
) {
    let (Some(owner), Some(token)) = (shown.owner, shown.token) else { return };
    let why = match stories.by_token.get(&token).map(|at| &stories.grants[*at]) {
        Some(grant) if (grant.lock, grant.owner) != (lock, owner) => "another's token",
        Some(grant) if grant.asked > look.heard => "a grant not yet asked for",
        Some(grant) if was_given_back(stories, grant, look) => "a hold given back before",
        Some(_) => return,
        None if may_hold(stories, lock, owner) => return,
        None => "a hold that nobody got",
    };
    violations.push(Violation {
        rule: Rule::Shown,
        at: look.heard,
        what: format!("INSPECT of {lock} shows {owner} with token {token}: {why}"),
    });
}

fn was_given_back(stories: &Stories<'_>, grant: &Grant, look: &Call) -> bool {
    let calls = &stories.story(grant).calls[grant.place..];
    calls.iter().any(|call| {
        matches!(call.ask, Ask::Release { .. })
            && call.answer == Answer::Released(true)
            && call.heard < look.asked
    })
}

/// Whether an owner may have been granted a lock without hearing of it.
fn may_hold(stories: &Stories<'_>, lock: Lock, owner: Owner) -> bool {
    let story = stories.of.get(&(lock, owner));
    story.is_some_and(|story| story.calls.iter().any(|call| call.answer.is_unknown()))
}
