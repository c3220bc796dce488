//! The server's event loop, timer and cron. Waiting clients receive their replies at the end of a
//! turn, and may be gone by then.

use gpulock_core::engine::{Keyspace, probe, tick};
use gpulock_core::rules::leave::LeaveReason;
use gpulock_core::state::outbox::{Grant, WaitReply};
use gpulock_core::state::wait_queue::Ticket;

use crate::call::OWNERS;
use crate::flaw::Flaw;
use crate::holds::{HoldParams, SessionTie};
use crate::law::Law;
use crate::memory_keys::name;
use crate::queue::PositionState;
use crate::world::{InFlight, World};

impl World {
    /// Takes the replies of the lock manager. Grants stay in flight until the turn ends.
    pub(crate) fn take_replies(&mut self) {
        while let Some((ticket, reply)) = self.manager.outbox().take_reply() {
            self.take_reply(ticket, reply);
        }
    }

    fn take_reply(&mut self, ticket: Ticket, reply: WaitReply) {
        let Some(at) = self.queue.find(ticket) else {
            self.require(Law::Bookkeeping, false, "every reply goes to a waiter");
            return;
        };
        match reply {
            WaitReply::Granted { grants, waiter, set } => {
                self.check_grants(at, &grants);
                let new = grants.iter().filter_map(|it| self.key_named(&it.key));
                let new: Vec<usize> =
                    new.filter(|key| self.is_unreceived(*key)).collect();
                self.queue.note_counts_at_end(at, &new);
                let position = self.queue.remove(at);
                let connection = position.connection().unwrap_or_default();
                let session = match waiter.session_grace_ms {
                    Some(grace_ms) => SessionTie::Connected { connection, grace_ms },
                    None => SessionTie::None,
                };
                let params = HoldParams { session, share: position.share };
                let received: Vec<(usize, u64)> = grants
                    .iter()
                    .filter_map(|grant| Some((self.key_named(&grant.key)?, grant.token)))
                    .collect();
                self.receive_grants(position.owner, received, params);
                let in_flight = InFlight { connection, position, grants, waiter, set };
                self.in_flight.push(in_flight);
            }
            WaitReply::Null => self.end_wait(at, ticket),
            WaitReply::Error(_) => drop(self.queue.remove(at)),
        }
    }

    /// Ends a wait that has timed out, or was taken over. What was kept until then has ended before.
    fn end_wait(&mut self, at: usize, ticket: Ticket) {
        let ended_ms = self.queue.positions()[at].ends_ms();
        self.queue.end_kept_until(ended_ms.filter(|ms| *ms <= self.now().ms()));
        if let Some(at) = self.queue.find(ticket) {
            self.leave_position(at, true);
        }
    }

    /// Checks that a waiter is granted all the locks that it wants, and is the first in their
    /// queues.
    fn check_grants(&mut self, at: usize, grants: &[Grant]) {
        let keys = grants.iter().filter_map(|grant| self.key_named(&grant.key));
        let is_whole = self.queue.positions()[at].is_whole(&keys.collect::<Vec<_>>());
        self.require(
            Law::AllOrNothing,
            is_whole,
            "a waiter gets as many locks as it wants",
        );
        for grant in grants {
            let key = self.key_named(&grant.key);
            if let Some(key) = key.filter(|key| self.is_unreceived(*key)) {
                self.check_passed(at, key);
                let mut earlier = self.queue.positions()[..at].iter();
                let is_first = !earlier.any(|it| {
                    it.is_connected() && it.keys.contains(&key) && self.has_taken(it, key)
                });
                self.require(
                    Law::Order,
                    is_first || self.turns_are_uncertain,
                    "the first waiter in the queue is served",
                );
            }
        }
    }

    /// Checks that a granted waiter passes none that it may not pass.
    fn check_passed(&mut self, at: usize, key: usize) {
        let granted = &self.queue.positions()[at];
        let connected = self.queue.connected();
        let others = connected
            .filter(|other| other.keys.contains(&key) && self.has_taken(other, key));
        let arrivals = others.map(|it| (it.turn().arrival, it.is_plain()));
        let (mut passes_plain, mut passes_bound) = (false, false);
        for (arrival, is_plain) in arrivals {
            let is_earlier = arrival < granted.turn().arrival;
            passes_plain |= is_plain && granted.is_plain() && is_earlier;
            passes_bound |= granted.joined.behind.contains(&arrival);
        }
        self.require(
            Law::PlainOrder,
            !passes_plain,
            "callers without PRIORITY and SHARE are served in the order of their arrival",
        );
        self.require(
            Law::BoundedWait,
            !passes_bound || self.turns_are_uncertain,
            "no waiter is passed once its bound is reached",
        );
    }

    /// An owner receives its grants. Each key must show it, unless it held the lock already and a
    /// notice has ended that hold since.
    pub(crate) fn receive_grants(
        &mut self,
        owner: usize,
        grants: impl IntoIterator<Item = (usize, u64)>,
        params: HoldParams,
    ) {
        for (key, token) in grants {
            let shows = self.keys.text(key) == Some(OWNERS[owner]);
            if !shows && self.current.ended_by_notice[key] {
                continue;
            }
            self.require(Law::AllOrNothing, shows, "each key of a lock set is written");
            self.receive_grant(key, token, params);
        }
    }

    /// A client receives a new or a renewed hold.
    pub(crate) fn receive_grant(&mut self, key: usize, token: u64, params: HoldParams) {
        if self.is_unreceived(key) {
            self.receive_token(key, token, params);
            return;
        }
        self.receive_renewal(key, token);
        if let Some(held) = &mut self.holds[key] {
            if params.session != SessionTie::None {
                held.session = params.session;
            }
            held.share = params.share.or(held.share);
        }
    }

    /// Ends a wait without a grant. The position of a UNIQUE owner may be kept.
    pub(crate) fn leave_position(&mut self, at: usize, may_be_kept: bool) {
        let keep_ms = self.keep_ms(&self.queue.positions()[at]);
        let until_ms = self.now().ms() + keep_ms;
        if self.queue.positions()[at].unique && may_be_kept && keep_ms > 0 {
            let kept = self.queue.new_kept(until_ms);
            self.queue.position(at).state = kept;
            self.make_room();
        } else {
            self.queue.remove(at);
        }
    }

    /// The turn of the event loop ends: clients receive the grants in flight.
    pub fn end_turn(&mut self) {
        if self.flaw != Flaw::DropsTheWaiter {
            self.in_flight.clear();
        }
        self.run_deferred();
        self.finish_step();
    }

    /// The timer fires.
    pub fn tick(&mut self) {
        let now = self.now();
        self.armed_ms = None;
        tick::tick(self);
        self.remove_ended_waits();
        if self.flaw == Flaw::CallsAgainAtEachTick {
            self.first_calls_again();
        }
        self.finish_step();
        let wakes = self.armed_ms.is_some_and(|armed_ms| armed_ms <= now.ms() + 6);
        let wakes = wakes || self.waiting() == 0 || self.manager.probes_rest();
        self.require(
            Law::NoLostWakeUp,
            wakes,
            "the timer fires again while a client waits, unless the probes rest",
        );
        self.execute_postponed();
        self.finish_step();
    }

    /// Arms the timer, unless it fires early enough, or disarms it.
    pub(crate) fn arm_timer(&mut self) {
        let due_ms = self.manager.next_wake_ms(self.now());
        self.armed_ms =
            due_ms.map(|due| self.armed_ms.map_or(due, |armed| armed.min(due)));
    }

    /// The timer fires, if it is due. Otherwise the cron ends what has no timer; its sweep is left
    /// out, because it would find later what the probes must find.
    pub(crate) fn tick_if_due(&mut self) {
        let now = self.now();
        if self.armed_ms.is_some_and(|armed_ms| armed_ms <= now.ms()) {
            return self.tick();
        }
        self.manager.expire_waits(now);
        self.remove_ended_waits();
        self.execute_postponed();
        self.finish_step();
    }

    /// The server's cron runs.
    pub fn cron(&mut self) {
        tick::cron(self);
        self.remove_ended_waits();
        self.finish_step();
    }

    /// Probes one lock, as the sweep does in its own order.
    pub fn probe(&mut self, key: usize) {
        let known = self.manager.table().find(name(key));
        if let Some(id) = known.filter(|_| self.may_start()) {
            probe::probe(self, id);
        }
        self.finish_step();
    }

    /// Removes the waits and kept positions that the lock manager has ended.
    pub(crate) fn remove_ended_waits(&mut self) {
        let now = self.now();
        self.take_replies();
        self.queue.retain(|position| !position.is_over(now));
        // With a lower limit, several give way.
        while self.make_room() {}
    }

    /// Reports to the lock manager that a client was gone before it received its grants.
    fn report_undelivered(&mut self, lost: InFlight) {
        for grant in &lost.grants {
            let key = self.key_named(&grant.key);
            if let Some(held) = key.and_then(|key| self.holds[key].as_mut()) {
                held.lost |= held.token == Some(grant.token) && !held.renewed;
            }
        }
        self.manager.undelivered(&lost.grants, &lost.waiter, &lost.set);
        self.undelivered.push(lost);
    }

    /// The connection of a client closes.
    pub fn drop_client(&mut self, client: usize) {
        let (now, connection) = (self.now(), self.connection(client));
        self.connections[client] += 1;
        for held in self.holds.iter_mut().flatten() {
            if let SessionTie::Connected { connection: tied_to, grace_ms } = held.session
                && tied_to == connection
            {
                let closed_ms = now.ms();
                held.session =
                    SessionTie::Closed { closed_ms, until_ms: closed_ms + grace_ms };
            }
        }
        if let Some(at) = self.queue.find_connection(connection) {
            self.leave_position(at, true);
        }
        if self.flaw != Flaw::IgnoresDisconnects {
            let mut lost =
                self.in_flight.extract_if(.., |it| it.connection == connection);
            if let Some(first) = lost.next() {
                drop(lost);
                self.report_undelivered(first);
            }
            self.manager.client_gone(connection, now);
        }
        self.finish_step();
    }

    /// `CLIENT UNBLOCK`, with or without `ERROR`. No effect when the client does not wait.
    pub fn unblock(&mut self, client: usize, with_error: bool) {
        let now = self.now();
        let reason = match with_error {
            true => LeaveReason::UnblockedWithError,
            false => LeaveReason::Unblocked,
        };
        if let Some(at) = self.queue.find_connection(self.connection(client)) {
            let ticket = self.queue.positions()[at].ticket();
            self.leave_position(at, false);
            let left = ticket.and_then(|ticket| self.manager.leave(ticket, reason, now));
            self.require(
                Law::Bookkeeping,
                left.is_some(),
                "the lock manager knows the waiter",
            );
        }
        self.finish_step();
    }

    /// The flaw [`Flaw::CallsAgainAtEachTick`]: the first waiter leaves and calls again.
    fn first_calls_again(&mut self) {
        let Some(position) = self.queue.connected().next() else { return };
        let (call, connection) = (position.to_call(), position.connection());
        let at =
            self.queue.positions().iter().position(|it| it.connection() == connection);
        let Some(ticket) = position.ticket() else { return };
        let now = self.now();
        self.manager.leave(ticket, LeaveReason::UnblockedWithError, now);
        if let (Some(at), Some(new)) = (at, self.wait_again(&call, connection)) {
            self.queue.position(at).state = new;
        }
    }

    /// The state of a position at which a client begins to wait.
    pub(crate) fn new_wait(
        &self,
        connection: u64,
        ticket: Ticket,
        block_ms: Option<u64>,
    ) -> PositionState {
        let now_ms = self.now().ms();
        let deadline_ms = block_ms.filter(|ms| *ms > 0).map(|ms| now_ms + ms);
        PositionState::Connected { connection, ticket, deadline_ms }
    }
}
