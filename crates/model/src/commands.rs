//! What clients do: the commands, each as in `src/commands` of the module, and what the
//! contract says of their answers.

use gpulock_core::acquire::Acquired;
use gpulock_core::acquire_any::AcquiredAny;
use gpulock_core::deadlock::Circles;
use gpulock_core::event::Text;
use gpulock_core::extend::Extended;
use gpulock_core::force_release::Forced;
use gpulock_core::keeper::Grant;
use gpulock_core::line::Ticket;
use gpulock_core::list::Listed;
use gpulock_core::release::Released;
use gpulock_core::request::{AcquireAny, Extend, ForceRelease, Release};
use gpulock_core::seen::{Expires, Seen, Shown, can_own};
use gpulock_core::serve::Next;
use gpulock_core::share::Part;
use gpulock_core::wait::{Waiting, Wanted};
use gpulock_core::{Fault, Keeper};

use crate::ask::{Ask, OWNERS};
use crate::flaw::Flaw;
use crate::holds::Tie;
use crate::keyspace::name;
use crate::law::Law;
use crate::world::World;

impl World {
    /// ACQUIRE, or ACQUIREANY. Nothing while the client waits.
    pub fn acquire(&mut self, ask: &Ask) {
        if !self.is_waiting(ask.client) {
            match ask.count {
                None => self.acquire_one(ask),
                Some(count) => self.acquire_any(ask, count),
            }
        }
        self.finish_step();
    }

    fn acquire_one(&mut self, ask: &Ask) {
        let (now, key, connection) =
            (self.now(), ask.keys[0], self.connection(ask.client));
        let shown = self.see(key);
        let (seen, request, asker) = (shown.seen(), ask.request(), ask.asker(connection));
        let acquired = self.keeper.acquire(name(key), &request, &seen, asker, now);
        self.shown_free[key] |= shown.is_absent() && acquired.is_ok();
        match acquired {
            Ok(Acquired::Granted { token, until_ms }) => {
                self.waits_ended();
                self.granted_at_once(ask, &[key]);
                let is_free = self.keys.get(key).is_none();
                self.require(Law::MutualExclusion, is_free, "granted when it is free");
                self.begin_hold(key, OWNERS[ask.owner], until_ms);
                self.hears_token(key, token, tie(ask, connection));
            }
            Ok(Acquired::Renewed { token, until_ms }) => {
                self.waits_ended();
                let is_own = shown.text() == Some(OWNERS[ask.owner]);
                self.require(
                    Law::MutualExclusion,
                    ask.unique && is_own,
                    "renewed its own",
                );
                self.renewed(key, token, until_ms, tie(ask, connection));
            }
            Ok(Acquired::Contested { next }) => {
                let is_held = !shown.is_absent();
                let passes = next != Next::Nobody;
                self.require(Law::NoLostWakeUp, is_held || passes, "refused when held");
                self.fill(key, &shown, next);
                self.waits_ended();
                if ask.block_ms.is_some() {
                    self.wait(ask, &[]);
                }
            }
            Err(_) => self.waits_ended(),
        }
    }

    fn acquire_any(&mut self, ask: &Ask, count: usize) {
        let (now, connection) = (self.now(), self.connection(ask.client));
        let shown: Vec<_> = ask.keys.iter().map(|key| self.see(*key)).collect();
        let seen: Vec<Shown> = shown.iter().map(|shown| shown.seen().into()).collect();
        let request = AcquireAny { keys: ask.names(), count, how: ask.request() };
        let is_own = |text: Option<&[u8]>| ask.unique && text == Some(OWNERS[ask.owner]);
        let held = shown.iter().filter(|shown| is_own(shown.text())).count();
        let asker = ask.asker(connection);
        let acquired = self.keeper.acquire_any(0, &request, &seen, asker, now);
        self.waits_ended();
        // A free lock that its owner waits for in another call is left to the next look.
        let tells_next = acquired.is_ok() && !ask.unique;
        for (key, shown) in ask.keys.iter().zip(&shown) {
            self.shown_free[*key] |= shown.is_absent() && tells_next;
        }
        match acquired {
            Ok(AcquiredAny::Granted { parts, grants }) => {
                let all = parts.len() == count && grants.len() == count;
                self.require(Law::AllOrNone, all, "as many as were asked for");
                let renewed = parts.iter().filter(|part| part.renewed).count();
                let counts_held = renewed == held.min(count);
                self.require(Law::AllOrNone, counts_held, "what is held counts first");
                self.check_preference(ask, &parts, &grants);
                self.write(&parts);
                self.hear_grants(ask.owner, &grants, tie(ask, connection));
            }
            Ok(AcquiredAny::Contested { free }) => {
                let too_few = free.len() + held < count;
                self.require(Law::NoLostWakeUp, too_few, "refused when too few are free");
                if ask.block_ms.is_some() {
                    self.wait(ask, &free);
                }
            }
            Err(_) => {}
        }
    }

    /// The first free locks in the order of the call are granted.
    fn check_preference(&mut self, ask: &Ask, parts: &[Part], grants: &[Grant]) {
        let got: Vec<usize> =
            grants.iter().filter_map(|grant| self.key_named(&grant.key)).collect();
        let order = |key: &usize| ask.keys.iter().position(|other| other == key);
        self.require(Law::Order, got.is_sorted_by_key(order), "in the order of the keys");
        let parts = got.iter().zip(parts);
        let new: Vec<usize> =
            parts.filter_map(|(key, part)| (!part.renewed).then_some(*key)).collect();
        let Some(last) = new.last() else { return };
        let passed = ask.keys.iter().filter(|key| order(key) < order(last));
        let could_be_had = |key: &usize| {
            let first = self.line.first_but(*key, |place| place.is_own(ask));
            self.keys.get(*key).is_none() && first.is_none()
        };
        let mut passed = passed.filter(|key| !got.contains(key));
        let are_first = !passed.any(could_be_had);
        self.require(Law::Order, are_first, "the free ones that are liked best");
        self.granted_at_once(ask, &new);
    }

    /// A call was granted locks at once: nobody who was there stood before it, and the
    /// other calls of its owner in these lines are over.
    fn granted_at_once(&mut self, ask: &Ask, new: &[usize]) {
        let own = self.line.places().iter().enumerate().filter(|(_, it)| it.is_own(ask));
        let own: Vec<(usize, bool)> = own.map(|(at, it)| (at, it.is_same(ask))).collect();
        let turn = match own[..] {
            [(at, true)] => at,
            _ => usize::MAX,
        };
        for key in new {
            let first = self.line.first_but(*key, |place| place.is_own(ask));
            let is_first = first.is_none_or(|first| turn < first);
            self.require(Law::Order, is_first, "nobody who waits is passed over");
        }
        self.line.retain(|place| !place.is_own(ask));
    }

    fn renewed(&mut self, key: usize, token: u64, until_ms: u64, session: Tie) {
        let is_there = self.keys.expire(key, Some(until_ms));
        self.require(Law::MutualExclusion, is_there, "renewed when it is held");
        self.hear_grant(key, token, session);
    }

    fn wait(&mut self, ask: &Ask, free: &[usize]) {
        let connection = self.connection(ask.client);
        match self.begin_wait(ask, connection, free) {
            Ok(ticket) => {
                self.hear();
                let waits = self.waits(connection, ticket, ask.block_ms);
                self.line.begin(ask, waits);
                let is_circle = ask.unique && self.is_circle(ask);
                self.require(Law::Circles, !is_circle, "a circle is refused");
            }
            Err(Fault::Deadlock { .. }) => {
                let is_circle = ask.unique && self.is_circle(ask);
                self.require(Law::Circles, is_circle, "no false alarm");
            }
            Err(_) => {}
        }
    }

    /// Begins a wait, looking at the locks of what seems a circle first.
    pub(crate) fn begin_wait(
        &mut self,
        ask: &Ask,
        connection: u64,
        free: &[usize],
    ) -> Result<Ticket, Fault> {
        let (names, now) = (ask.names(), self.now());
        let (count, of_set) = (ask.wants(), ask.count.is_some());
        let wanted = Wanted { db: 0, keys: &names, count, of_set, free };
        let mut circles = Circles::SureOf(Vec::new());
        let request = ask.request();
        loop {
            let waiting = self
                .keeper
                .wait(wanted, &request, connection, &circles, ask.room, now)?;
            match waiting {
                Waiting::Begun(ticket) => return Ok(ticket),
                Waiting::LookFirst(locks) => {
                    if self.flaw != Flaw::BelievesInCircles {
                        self.look(locks.clone());
                    }
                    circles = Circles::SureOf(locks);
                }
            }
        }
    }

    /// RELEASE by an owner; `right_token` none: without TOKEN.
    pub fn release(&mut self, key: usize, owner: usize, right_token: Option<bool>) {
        let now = self.now();
        let token = self.token_to_give(key, right_token);
        let shown = self.see(key);
        let caller = OWNERS[owner];
        let may_release = shown.text() == Some(caller);
        let said = match self.flaw {
            Flaw::ReleasesForAnyone => shown.text().unwrap_or(caller),
            _ => caller,
        };
        let ask = Release { owner: said, token, reason: Text::Borrowed(b"normal") };
        // Without a token the expiry of one's own lock is not even read.
        let seen = match shown.seen() {
            Seen::Text { value, .. } if token.is_none() && value == said => {
                Seen::Text { value, expires: Expires::Unread }
            }
            seen => seen,
        };
        match self.keeper.release(name(key), ask, &seen, Some(1), now) {
            Ok(Released::Freed(next)) => {
                if may_release && right_token != Some(false) {
                    self.holds[key] = None;
                }
                self.pass_on(key, next);
            }
            Ok(Released::NotHeld) => {
                let refused = !may_release || token.is_some();
                self.require(Law::MutualExclusion, refused, "the owner can release");
            }
            Err(_) => {}
        }
        self.finish_step();
    }

    /// EXTEND by an owner.
    pub fn extend(&mut self, key: usize, owner: usize, lease_ms: Option<u64>) {
        let now = self.now();
        let shown = self.see(key);
        let is_own = shown.text() == Some(OWNERS[owner]);
        let ask = Extend { owner: OWNERS[owner], lease_ms, token: None };
        match self.keeper.extend(name(key), &ask, &shown.seen(), now) {
            Ok(Extended::Renewed { token, until_ms }) => {
                self.require(Law::MutualExclusion, is_own, "extended by its owner");
                self.renewed(key, token, until_ms, Tie::No);
            }
            Ok(Extended::NotHeld) => {
                self.require(Law::MutualExclusion, !is_own, "the owner can extend");
            }
            Err(_) => {}
        }
        self.finish_step();
    }

    /// FORCERELEASE, with OWNER and TOKEN if they are given.
    pub fn force(&mut self, key: usize, owner: Option<usize>, right_token: Option<bool>) {
        let now = self.now();
        let token = self.token_to_give(key, right_token);
        let shown = self.see(key);
        let ask = ForceRelease {
            owner: owner.map(|owner| OWNERS[owner]),
            token,
            reason: Text::Borrowed(b"forced"),
        };
        let forced = self.keeper.force_release(name(key), ask, &shown.seen(), None, now);
        if let Ok(Forced::Freed { owner: from, next }) = forced {
            let is_meant = shown.text() == Some(&*from)
                && owner.is_none_or(|owner| OWNERS[owner] == &*from);
            self.require(
                Law::MutualExclusion,
                is_meant,
                "taken from the one that is meant",
            );
            self.holds[key] = None;
            self.pass_on(key, next);
        }
        self.finish_step();
    }

    /// INSPECT.
    pub fn inspect(&mut self, key: usize) {
        let now = self.now();
        let shown = self.see(key);
        if let Ok(told) = self.keeper.inspect(name(key), &shown.seen(), now) {
            let owner = shown.text().filter(|it| can_own(it));
            let agrees = told.and_then(|told| told.owner).as_deref() == owner;
            self.require(
                Law::MutualExclusion,
                agrees,
                "INSPECT tells what the key shows",
            );
        }
        self.finish_step();
    }

    /// LIST: afterwards all that is known is what the keys show.
    pub fn list(&mut self) {
        let now = self.now();
        for id in self.keeper.table().by_age().collect::<Vec<_>>() {
            let Some(key) = self.key_of(id) else { continue };
            let shown = self.see(key);
            if let Listed::Row(row) = self.keeper.list_row(id, &shown.seen(), now) {
                let agrees = match row.owner {
                    Some(owner) => shown.text() == Some(&*owner),
                    None => row.waiting > 0,
                };
                self.require(Law::MutualExclusion, agrees, "LIST tells what keys show");
            }
        }
        self.finish_step();
    }

    /// RESETSTATS.
    pub fn reset_stats(&mut self) {
        if self.flaw == Flaw::ResetsByBeginningAnew && self.line.places().is_empty() {
            let settings = self.keeper.settings().clone();
            self.keeper = Keeper::new(settings, 1, self.now());
        }
        self.keeper.reset_stats();
        let adopted = self.keeper.counters().adopted;
        let are_held = adopted == self.keeper.table().held();
        self.require(Law::CountersAddUp, are_held, "what is held counts as adopted");
        self.finish_step();
    }

    /// The token of a lock, or another.
    fn token_to_give(&self, key: usize, right: Option<bool>) -> Option<u64> {
        let token = self.token(key).unwrap_or(77);
        right.map(|right| if right { token } else { token + 1 })
    }
}

/// What a grant to this call is tied to.
fn tie(ask: &Ask, connection: u64) -> Tie {
    match ask.session_grace_ms {
        Some(grace_ms) => Tie::To { connection, grace_ms },
        None => Tie::No,
    }
}
