//! What the module does to keys with the keeper's answers: `src/hand_off.rs`, `look.rs` and
//! `waiting.rs` of the module, step by step, on the keyspace of the world. A rule of locking
//! must not be in here. The flaws are, each where the module could have it.

use std::collections::BTreeSet;

use gpulock_core::Seen;
use gpulock_core::arena::Id;
use gpulock_core::keeper::Grant;
use gpulock_core::line::Ticket;
use gpulock_core::serve::{Handed, Next};
use gpulock_core::session::{MadeGood, Owed};
use gpulock_core::share::Part;

use crate::flaw::Flaw;
use crate::holds::Tie;
use crate::keyspace::{KEYS, Shown, Value, name};
use crate::law::Law;
use crate::line::Waits;
use crate::world::{World, Writes};

impl World {
    /// What a rule is told of a key.
    pub(crate) fn see(&mut self, key: usize) -> Shown {
        self.let_leases_end();
        let shown = self.keys.open(key);
        self.end_if_set_anew(key, &shown);
        self.keys.read(key);
        if self.flaw == Flaw::ExpiresEarly && self.keys.is_over_soon(key) {
            return Shown::absent();
        }
        shown
    }

    fn end_if_set_anew(&mut self, key: usize, shown: &Shown) {
        let now = self.now();
        let Seen::Text { expires, .. } = shown.seen() else { return };
        let other = self.keeper.may_be_another_hold(name(key), expires, || now);
        if let Some(id) = other.filter(|_| !self.keys.is_ours(key)) {
            self.keeper.key_was_set_anew(id, expires, now);
        }
    }

    /// The hold of a key is over: it is the next one's.
    pub(crate) fn pass_on(&mut self, key: usize, next: Next) {
        match next {
            Next::Nobody | Next::SetAside => self.end_hold(key),
            Next::One(handed) => self.hand_over(key, &handed),
            Next::Set { ticket, lock } => self.give_set(ticket, Some((lock, key))),
        }
        self.hear();
    }

    /// A key without a hold was looked at: it is the next one's.
    pub(crate) fn fill(&mut self, key: usize, shown: &Shown, next: Next) {
        match next {
            Next::Nobody | Next::SetAside => {}
            Next::One(handed) => {
                let is_free = shown.is_absent();
                self.require(Law::MutualExclusion, is_free, "handed over when absent");
                self.hand_over(key, &handed);
            }
            Next::Set { ticket, .. } => self.give_set(ticket, None),
        }
        self.hear();
    }

    fn hand_over(&mut self, key: usize, handed: &Handed) {
        if self.flaw == Flaw::DropsTheHandOff {
            self.end_hold(key);
            return;
        }
        self.begin_hold(key, &handed.owner, handed.until_ms);
    }

    fn give_set(&mut self, ticket: Ticket, in_hand: Option<(Id, usize)>) {
        let now = self.now();
        let mut seen: BTreeSet<Id> = in_hand.iter().map(|(lock, _)| *lock).collect();
        loop {
            let unseen = self.keeper.unseen_of(ticket, &seen);
            if unseen.is_empty() {
                break;
            }
            for id in unseen {
                seen.insert(id);
                let Some(key) = self.key_of(id) else { continue };
                let shown = self.see(key);
                self.keeper.looked_at_for_set(id, &shown.seen(), now);
            }
        }
        let parts = match self.flaw {
            Flaw::ForgetsSets => Vec::new(),
            _ => self.keeper.serve_set(ticket, now).unwrap_or_default(),
        };
        let is_taken = parts.iter().any(|part| Some(part.lock) == in_hand.map(|it| it.0));
        if let Some((_, key)) = in_hand {
            // What is taken is overwritten, not deleted: who held it holds it no more.
            match is_taken {
                true => {
                    self.write_key();
                    self.keys.put(key, None);
                }
                false => self.end_hold(key),
            }
        }
        self.write(&parts);
    }

    /// Writes the keys of a share.
    pub(crate) fn write(&mut self, parts: &[Part]) {
        let half = if self.flaw == Flaw::WritesHalfAShare { 1 } else { parts.len() };
        for part in parts.iter().take(half) {
            let Some(key) = self.key_of(part.lock) else {
                self.require(Law::AllOrNone, false, "each lock of a share is known");
                continue;
            };
            if part.renewed {
                self.write_key();
                let is_own = self.keys.text(key) == Some(&*part.owner);
                self.require(Law::MutualExclusion, is_own, "renewed when it is its own");
                self.keys.expire(key, Some(part.until_ms));
            } else {
                let is_free = self.keys.get(key).is_none();
                self.require(Law::MutualExclusion, is_free, "a share of what is free");
                self.begin_hold(key, &part.owner, part.until_ms);
            }
        }
    }

    /// Looks at some locks without a command that names them.
    pub(crate) fn look(&mut self, due: Vec<Id>) {
        if self.flaw == Flaw::NeverLooks {
            return;
        }
        let now = self.now();
        for id in due {
            let Some(key) = self.key_of(id) else { continue };
            let shown = self.see(key);
            let is_refused = shown.is_absent()
                && self.keeper.is_waited_for_now(id)
                && self.writes == Writes::Refused
                && self.flaw != Flaw::HandsOverWhenRefused;
            if !self.keeper.agrees(id, shown.glimpse()) && !is_refused {
                let next = self.keeper.looked_at(id, &shown.seen(), now);
                self.shown_free[key] |= shown.is_absent();
                self.fill(key, &shown, next);
            }
            self.hear();
        }
    }

    /// Looks at one lock, as the walk through all locks does at its own time.
    pub fn look_at(&mut self, key: usize) {
        let known = self.keeper.table().find(name(key));
        if self.may_begin() {
            self.look(known.into_iter().collect());
        }
        self.finish_step();
    }

    /// What the timer does.
    pub fn tick(&mut self) {
        let now = self.now();
        self.end_waits();
        self.make_good();
        if self.may_begin() {
            self.make_good_later();
            let mut due = Vec::new();
            self.keeper.due_lines(now, &mut due);
            self.look(due);
        }
        if self.flaw == Flaw::PollsAtEachTick {
            self.first_asks_anew();
        }
        self.finish_step();
        let wake_ms = self.keeper.next_wake_ms(now);
        let wakes = wake_ms.is_some_and(|ms| ms <= now.ms() + 6);
        let wakes = wakes || self.waiting() == 0;
        self.require(Law::NoLostWakeUp, wakes, "the timer comes again while one waits");
    }

    /// What the server's clock does: locks whose turn it is are looked at.
    pub fn sweep(&mut self) {
        let now = self.now();
        self.end_waits();
        if self.may_begin() {
            self.keeper.begin_sweep(now);
            let due = std::iter::from_fn(|| self.keeper.next_due(now)).collect();
            self.look(due);
        }
        self.finish_step();
    }

    /// Ends the waits, and the keeping of places, whose time is over.
    pub(crate) fn end_waits(&mut self) {
        let now = self.now();
        self.keeper.end_waits(now);
        self.waits_ended();
    }

    /// Who waited, or had a place kept, until now: the keeper has ended it.
    pub(crate) fn waits_ended(&mut self) {
        let now = self.now();
        self.hear();
        self.line.retain(|place| !place.is_over(now));
    }

    /// Whether work without a client's command may begin.
    fn may_begin(&self) -> bool {
        matches!(self.writes, Writes::Accepted | Writes::Refused)
    }

    /// Whether deferred work may be done.
    fn may_run_deferred(&self) -> bool {
        match self.writes {
            Writes::Accepted => self.flaw != Flaw::ForgetsWhatItOwes,
            Writes::Paused => false,
            Writes::Refused => self.flaw == Flaw::WritesWhenRefused,
            Writes::WithinCommand => self.flaw == Flaw::WritesWithinCommands,
        }
    }

    /// Makes good what is owed, if keys may be written.
    pub(crate) fn make_good(&mut self) {
        if !self.may_run_deferred() {
            return;
        }
        while let Some(owed) = self.keeper.take_owed() {
            self.make_good_one(owed);
            self.hear();
        }
        self.undelivered.clear();
    }

    /// Goes on with what is owed in portions.
    fn make_good_later(&mut self) {
        if !self.may_run_deferred() {
            return;
        }
        while self.flaw != Flaw::ForgetsTheRest
            && let Some(owed) = self.keeper.take_owed_later()
        {
            self.make_good_one(owed);
            self.hear();
            if self.in_portions {
                return;
            }
        }
    }

    fn make_good_one(&mut self, owed: Owed) {
        let now = self.now();
        if let Owed::Share { ticket } = owed {
            self.give_set(ticket, None);
            return;
        }
        let Some(key) = owed.lock().and_then(|id| self.key_of(id)) else { return };
        let shown = self.see(key);
        match self.keeper.make_good(owed.clone(), &shown.seen(), now) {
            MadeGood::Nothing => {}
            MadeGood::Freed(next) => {
                self.end_owed_hold(key, &owed);
                self.pass_on(key, next);
            }
            MadeGood::Served(next) => {
                self.shown_free[key] |= shown.is_absent();
                self.fill(key, &shown, next);
            }
            MadeGood::Cut { until_ms } => self.cut_to_grace(key, until_ms),
        }
    }

    /// A hold ends because its connection closed, or because nobody heard of it.
    fn end_owed_hold(&mut self, key: usize, owed: &Owed) {
        let held = self.holds[key].as_ref();
        match owed {
            Owed::TakeBack { token, .. } => {
                let is_lost = held
                    .is_some_and(|it| it.lost && !it.renewed && it.token == Some(*token));
                self.require(
                    Law::MutualExclusion,
                    is_lost,
                    "taken back when nobody heard",
                );
                self.keep_place_again(*token);
            }
            _ => {
                let now_ms = self.now().ms();
                let closed = held.map(|held| held.session);
                let is_over = matches!(closed, Some(Tie::Closed { closed_ms, until_ms })
                    if until_ms <= now_ms || until_ms == closed_ms);
                self.require(Law::MutualExclusion, is_over, "ended when it closed");
            }
        }
        self.holds[key] = None;
    }

    /// Who never heard of its grant gets its place back, once for all locks of a set.
    fn keep_place_again(&mut self, token: u64) {
        let is_it = |grant: &Grant| grant.token == token;
        let mut lost = self.undelivered.iter();
        let Some(lost) = lost.find(|lost| lost.grants.iter().any(is_it)) else { return };
        let mut place = lost.place.clone();
        let stands = self.line.places().iter().any(|other| {
            let meets = |key| other.keys.contains(key);
            other.unique && other.owner == place.owner && place.keys.iter().any(meets)
        });
        let keep_ms = self.keeper.settings().place_keep;
        if place.unique && keep_ms > 0 && !stands {
            place.waits = Waits::Kept { until_ms: self.now().ms() + keep_ms };
            self.line.insert(place);
        }
    }

    fn cut_to_grace(&mut self, key: usize, until_ms: u64) {
        let session = self.holds[key].as_ref().map(|held| held.session);
        let is_grace =
            matches!(session, Some(Tie::Closed { until_ms: end, .. }) if end == until_ms);
        let shortens = self.keys.until_ms(key).is_none_or(|until| until > until_ms);
        self.write_key();
        self.keys.expire(key, Some(until_ms));
        self.require(Law::Sessions, is_grace && shortens, "cut to its grace");
    }

    /// The place of a key among the keys.
    pub(crate) fn key_named(&self, key: &[u8]) -> Option<usize> {
        KEYS.iter().position(|other| *other == key)
    }

    fn is_known_to_be_over(&self, key: usize) -> bool {
        let id = self.keeper.table().find(name(key));
        let hold = id.and_then(|id| self.keeper.table().get(id)?.hold.as_ref());
        hold.is_some_and(|hold| hold.is_over(self.now().ms()))
    }

    /// Deletes, or writes over, a key as other clients do: whoever held it holds it no more.
    pub(crate) fn put_from_outside(&mut self, key: usize, value: Option<Value>) {
        self.end_by_right(key);
        // A lease that others shortened unnoticed is over as well, but cannot be known to be.
        let is_over = self.keys.is_over(key) && self.is_known_to_be_over(key);
        if let Some(held) = &mut self.holds[key] {
            held.over |= is_over;
        }
        self.shown_free[key] = false;
        self.keys.put_foreign(key, value);
    }
}
