//! Holds do not overlap, do not vanish, and end with their owner's release or their lease.
//!
//! For each grant two times are known: `began`, before which it cannot have begun, and `ended`,
//! before which it cannot have ended, unless somebody broke a promise. The next grant of the
//! lock begins after the end of this one; when it was heard before that, two held the lock.
//! Since each `began` is as early as it can be, no alarm is false.

use super::excuses::{Excuses, Lengthened};
use super::stories::{Grant, Stories, Story};
use super::{Rule, TOLERANCE, Violation};
use crate::clock::{MS, Nanos};
use crate::history::{Answer, Ask, Call};

/// Checks it, and returns when each grant began, at the earliest.
pub(crate) fn check(
    stories: &Stories<'_>,
    excuses: &Excuses,
    violations: &mut Vec<Violation>,
) -> Vec<Nanos> {
    let mut began = vec![0; stories.grants.len()];
    for of_lock in stories.by_lock.values() {
        let mut before: Option<Held<'_>> = None;
        for at in of_lock {
            let grant = &stories.grants[*at];
            let held = Held {
                grant,
                story: stories.story(grant),
                began: begin(before, grant, excuses, violations),
                excuses,
            };
            began[*at] = held.began;
            before = Some(held);
        }
    }
    for story in stories.of.values() {
        follow(stories, story, &began, excuses, violations);
    }
    began
}

/// When a grant began, at the earliest, given the one before it.
fn begin(
    before: Option<Held<'_>>,
    grant: &Grant,
    excuses: &Excuses,
    violations: &mut Vec<Violation>,
) -> Nanos {
    let Some(before) = before else { return grant.asked };
    let is_same = before.grant.owner == grant.owner;
    // The same hold, whose token the server had forgotten; when it had not, `follow` objects.
    if is_same && (grant.by_extend || excuses.forgot(before.began, grant.heard)) {
        return grant.asked.max(before.began);
    }
    let ended = before.ended();
    if ended <= grant.heard {
        return grant.asked.max(ended);
    }
    violations.push(Violation {
        rule: Rule::OneOwner,
        at: grant.heard,
        what: format!(
            "{} got {} with token {}, but {} held it with token {} for {} µs more",
            grant.owner,
            grant.lock,
            grant.token,
            before.grant.owner,
            before.grant.token,
            (ended - grant.heard) / 1_000
        ),
    });
    grant.asked
}

/// A grant in the light of its story.
#[derive(Clone, Copy)]
struct Held<'h> {
    grant: &'h Grant,
    story: &'h Story<'h>,
    began: Nanos,
    excuses: &'h Excuses,
}

impl Held<'_> {
    /// What its owner asked since, the call that got it included.
    fn calls(&self) -> impl Iterator<Item = &Call> {
        self.story.calls[self.grant.place..].iter().copied()
    }

    /// Before this it cannot have ended.
    fn ended(&self) -> Nanos {
        let causes = [
            Some(self.lease_ended()),
            self.given_back(),
            self.taken(),
            self.session_ended(),
            self.excuses.touched_after(self.grant.lock, self.began),
        ];
        causes.into_iter().flatten().min().unwrap_or(0).max(self.began)
    }

    fn lease_ended(&self) -> Nanos {
        let lease = |ms: u64| (ms * MS).saturating_sub(TOLERANCE);
        let mut ended = self.began + lease(self.grant.lease_ms);
        let Grant { lock, owner, .. } = *self.grant;
        let lengthened = self.excuses.lengthened(lock, owner).iter();
        let mut lengthened =
            lengthened.skip_while(|it| it.is_before(self.began)).peekable();
        for call in self.calls().skip(1) {
            while let Some(by) = lengthened.next_if(|it| it.is_before(call.asked)) {
                ended = by.earliest_end();
            }
            if let Some(lease_ms) = renews(call) {
                let renewed = call.asked + lease(lease_ms);
                match &call.answer {
                    _ if self.renewed_by(call) => ended = renewed,
                    answer if answer.is_unknown() => ended = ended.min(renewed),
                    _ => {}
                }
            }
        }
        lengthened.last().map_or(ended, Lengthened::earliest_end)
    }

    fn renewed_by(&self, call: &Call) -> bool {
        call.tokens().contains(&(self.grant.lock, self.grant.token))
    }

    fn given_back(&self) -> Option<Nanos> {
        let may_free = |call: &&Call| {
            matches!(call.ask, Ask::Release { .. })
                && (call.answer == Answer::Released(true) || call.answer.is_unknown())
        };
        self.calls().find(may_free).map(|call| call.asked)
    }

    fn taken(&self) -> Option<Nanos> {
        let taken = self.story.taken.iter();
        taken.filter(|call| call.heard >= self.began).map(|call| call.asked).min()
    }

    /// The end of the session that it is tied to last, or may be.
    fn session_ended(&self) -> Option<Nanos> {
        let mut ended = None;
        for call in self.calls() {
            let Some(grace_ms) = call.ask.how().and_then(|how| how.grace_ms) else {
                continue;
            };
            let closed = self.excuses.closed(call.connection);
            let end = closed.map(|at| (at + grace_ms * MS).saturating_sub(TOLERANCE));
            if self.renewed_by(call) {
                ended = end;
            } else if call.answer.is_unknown() {
                ended = ended.into_iter().chain(end).min();
            }
        }
        ended
    }
}

/// The lease that a call sets if it is answered with the token of the hold.
fn renews(call: &Call) -> Option<u64> {
    match call.ask {
        Ask::Extend { lease_ms, .. } => Some(lease_ms),
        _ => call.ask.how().filter(|how| how.unique).map(|how| how.lease_ms),
    }
}

/// Goes through a story: what its owner heard must fit what it had.
fn follow(
    stories: &Stories<'_>,
    story: &Story<'_>,
    began: &[Nanos],
    excuses: &Excuses,
    violations: &mut Vec<Violation>,
) {
    let mut so_far = SoFar::default();
    let mut grants = story.grants.iter().copied().peekable();
    let mut lengthened = lengthened(stories, story, excuses).iter().peekable();
    for (place, call) in story.calls.iter().enumerate() {
        while let Some(by) = lengthened.next_if(|it| it.is_before(call.asked)) {
            so_far.latest_end = by.latest_end();
        }
        so_far.judge(call, excuses, violations);
        so_far.begins += usize::from(call.may_have_begun());
        if let (Some(how), false) = (call.ask.how(), call.tokens().is_empty()) {
            so_far.latest_end = Some(call.heard + how.lease_ms * MS);
        }
        while let Some(at) = grants.next_if(|at| stories.grants[*at].place == place) {
            let grant = &stories.grants[at];
            so_far.begins += usize::from(!grant.by_extend);
            so_far.held = Some(Held { grant, story, began: began[at], excuses });
            so_far.latest_end = Some(call.heard + grant.lease_ms * MS);
        }
    }
    let ends = so_far.ends + story.taken.len();
    let Some(last) = story.calls.last() else { return };
    let end = story.taken.iter().map(|call| call.heard).fold(last.heard, Nanos::max);
    if ends > so_far.begins && !is_touched(last, story.calls[0].asked, end, excuses) {
        violations.push(Violation {
            rule: Rule::OnlyTheOwner,
            at: end,
            what: format!("{ends} ends of {} holds: {}", so_far.begins, in_words(last)),
        });
    }
}

/// How others set the leases of a story's owner.
fn lengthened<'e>(
    stories: &Stories<'_>,
    story: &Story<'_>,
    excuses: &'e Excuses,
) -> &'e [Lengthened] {
    let first = story.grants.first().map(|at| &stories.grants[*at]);
    first.map_or(&[], |grant| excuses.lengthened(grant.lock, grant.owner))
}

/// What an owner has, as far as the story is told.
#[derive(Default)]
struct SoFar<'h> {
    /// Its hold, unless it knows better.
    held: Option<Held<'h>>,
    /// When the lease of that is over, at the latest.
    latest_end: Option<Nanos>,
    /// How many holds may have begun.
    begins: usize,
    /// How many releases were answered 1.
    ends: usize,
}

/// What was broken, and how.
type Broken = Option<(Rule, &'static str)>;

impl SoFar<'_> {
    fn judge(&mut self, call: &Call, excuses: &Excuses, violations: &mut Vec<Violation>) {
        let broken = match (&call.ask, &call.answer) {
            (Ask::Release { token, .. }, Answer::Released(true)) => {
                self.released(*token, call, excuses)
            }
            (Ask::Release { token, .. }, Answer::Released(false)) => {
                self.not_released(*token, call)
            }
            (Ask::Extend { .. }, Answer::Null) => self.gone(call),
            (Ask::Acquire { how, .. }, Answer::Null) if how.unique => self.gone(call),
            (Ask::Extend { lease_ms, .. }, Answer::Token(token)) => {
                self.extended(*lease_ms, *token, call, excuses)
            }
            (_, answer) if answer.is_unknown() => {
                // It may have been given back, or renewed.
                self.latest_end = None;
                self.held.take_if(|_| matches!(call.ask, Ask::Release { .. }));
                None
            }
            _ => None,
        };
        violations.extend(broken.map(|(rule, what)| Violation {
            rule,
            at: call.heard,
            what: format!("{what}: {}", in_words(call)),
        }));
    }

    fn released(&mut self, token: Option<u64>, call: &Call, excuses: &Excuses) -> Broken {
        let outlived = self.outlived(call, excuses);
        self.ends += 1;
        self.latest_end = None;
        let held = self.held.take();
        let is_others = held.zip(token).is_some_and(|(held, token)| {
            held.grant.token != token
                && !excuses.forgot(held.began, call.heard)
                && !is_touched(call, held.began, call.heard, excuses)
        });
        if is_others {
            return Some((Rule::OnlyTheOwner, "released with another hold's token"));
        }
        outlived.then_some((Rule::LeasesEnd, "released after its lease was over"))
    }

    fn not_released(&mut self, token: Option<u64>, call: &Call) -> Broken {
        let is_others = |held: Held<'_>| token.is_some_and(|it| it != held.grant.token);
        if self.held.is_some_and(is_others) { None } else { self.gone(call) }
    }

    /// Its owner is told that it holds nothing.
    fn gone(&mut self, call: &Call) -> Broken {
        let lasts = self.held.take().is_some_and(|held| held.ended() > call.heard);
        lasts.then_some((Rule::HoldsLast, "a hold was gone"))
    }

    fn extended(
        &mut self,
        lease_ms: u64,
        token: u64,
        call: &Call,
        excuses: &Excuses,
    ) -> Broken {
        let outlived = self.outlived(call, excuses);
        self.latest_end = Some(call.heard + lease_ms * MS);
        match self.held {
            Some(held)
                if held.grant.token != token && !self.may_be_adopted(call, excuses) =>
            {
                Some((Rule::HoldsLast, "a hold changed its token"))
            }
            None if self.begins <= self.ends => {
                Some((Rule::OnlyTheOwner, "extended what it did not hold"))
            }
            _ => {
                outlived.then_some((Rule::LeasesEnd, "extended after its lease was over"))
            }
        }
    }

    fn outlived(&self, call: &Call, excuses: &Excuses) -> bool {
        let Some(latest_end) = self.latest_end else { return false };
        let began = self.held.map_or(call.asked, |held| held.began);
        call.asked > latest_end + TOLERANCE
            && !is_touched(call, began, call.heard, excuses)
    }

    /// The server may have met the hold again as one that somebody else granted.
    fn may_be_adopted(&self, call: &Call, excuses: &Excuses) -> bool {
        self.held.is_some_and(|held| {
            excuses.forgot(held.began, call.heard)
                || is_touched(call, held.began, call.heard, excuses)
                || held.calls().any(Call::may_have_begun)
        })
    }
}

fn is_touched(call: &Call, from: Nanos, to: Nanos, excuses: &Excuses) -> bool {
    call.ask.locks().iter().any(|lock| excuses.touched(*lock, from, to))
}

fn in_words(call: &Call) -> String {
    let Call { connection, asked, heard, ask, answer } = call;
    let us = (heard - asked) / 1_000;
    format!("{ask:?} over {connection}, asked at {asked}, answered {answer:?} in {us} µs")
}
