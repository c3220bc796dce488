//! How waiting clients hear: an answer of the keeper's is on its way until the turn of the
//! server's loop ends, and a client may go before it is told.

use gpulock_core::keeper::{Answer, Grant};
use gpulock_core::line::Ticket;
use gpulock_core::wait::Leaving;

use crate::ask::{Ask, OWNERS};
use crate::flaw::Flaw;
use crate::holds::Tie;
use crate::law::Law;
use crate::line::Waits;
use crate::world::{Untold, World};

impl World {
    /// Takes the keeper's answers.
    pub(crate) fn hear(&mut self) {
        while let Some((ticket, answer)) = self.keeper.take_answer() {
            let Some(at) = self.line.find(ticket) else {
                self.require(Law::Tidiness, false, "an answer is for somebody who waits");
                continue;
            };
            match answer {
                Answer::Granted { grants, waiter, set } => {
                    self.check_grants(at, &grants);
                    let place = self.line.remove(at);
                    let connection = place.connection().unwrap_or_default();
                    let session = match waiter.session_grace_ms {
                        Some(grace_ms) => Tie::To { connection, grace_ms },
                        None => Tie::No,
                    };
                    self.hear_grants(place.owner, &grants, session);
                    self.untold.push(Untold { connection, place, grants, waiter, set });
                }
                Answer::Null => self.leave_place(at, true),
                Answer::Refused(_) => drop(self.line.remove(at)),
            }
        }
    }

    /// A waiter is granted what it wants, all of it, and nobody stood before it.
    fn check_grants(&mut self, at: usize, grants: &[Grant]) {
        let wants = self.line.places()[at].wants;
        self.require(Law::AllOrNone, grants.len() == wants, "as many as it wants");
        for grant in grants {
            let key = self.key_named(&grant.key);
            if let Some(key) = key.filter(|key| self.is_unheard(*key)) {
                let is_first = self.line.first(key) == Some(at);
                self.require(Law::Order, is_first, "the first in line is served");
            }
        }
    }

    /// An owner hears what it got; each key shows it.
    pub(crate) fn hear_grants(&mut self, owner: usize, grants: &[Grant], session: Tie) {
        for grant in grants {
            let Some(key) = self.key_named(&grant.key) else { continue };
            let shows = self.keys.text(key) == Some(OWNERS[owner]);
            self.require(Law::AllOrNone, shows, "each key of a share is written");
            self.hear_grant(key, grant.token, session);
        }
    }

    /// Somebody hears that a lock is its own: granted anew, or renewed.
    pub(crate) fn hear_grant(&mut self, key: usize, token: u64, session: Tie) {
        match self.is_unheard(key) {
            true => self.hears_token(key, token, session),
            false => {
                self.hears_renewal(key, token);
                if session != Tie::No
                    && let Some(held) = &mut self.holds[key]
                {
                    held.session = session;
                }
            }
        }
    }

    /// The wait at a place ends without a grant; a UNIQUE owner's place may be kept.
    pub(crate) fn leave_place(&mut self, at: usize, may_be_kept: bool) {
        let keep_ms = self.keeper.settings().place_keep;
        let until_ms = self.now().ms() + keep_ms;
        let place = self.line.place(at);
        if place.unique && may_be_kept && keep_ms > 0 {
            place.waits = Waits::Kept { until_ms };
        } else {
            self.line.remove(at);
        }
    }

    /// The turn of the server's loop ends: who was granted something is told.
    pub fn end_turn(&mut self) {
        if self.flaw != Flaw::DropsTheWaiter {
            self.untold.clear();
        }
        self.make_good();
        self.finish_step();
    }

    /// A client is gone before it was told of its grants.
    fn take_back(&mut self, untold: Untold) {
        for grant in &untold.grants {
            let key = self.key_named(&grant.key);
            if let Some(held) = key.and_then(|key| self.holds[key].as_mut()) {
                held.lost |= held.token == Some(grant.token) && !held.renewed;
            }
        }
        self.keeper.undelivered(&untold.grants, &untold.waiter, &untold.set);
        self.undelivered.push(untold);
    }

    /// The connection of a client closes.
    pub fn drop_client(&mut self, client: usize) {
        let (now, connection) = (self.now(), self.connection(client));
        self.connections[client] += 1;
        for held in self.holds.iter_mut().flatten() {
            if let Tie::To { connection: tied_to, grace_ms } = held.session
                && tied_to == connection
            {
                let closed_ms = now.ms();
                held.session = Tie::Closed { closed_ms, until_ms: closed_ms + grace_ms };
            }
        }
        if let Some(at) = self.line.find_connection(connection) {
            self.leave_place(at, true);
        }
        if self.flaw != Flaw::IgnoresDisconnects {
            let mut lost = self.untold.extract_if(.., |it| it.connection == connection);
            if let Some(untold) = lost.next() {
                drop(lost);
                self.take_back(untold);
            }
            self.keeper.client_gone(connection, now);
        }
        self.finish_step();
    }

    /// `CLIENT UNBLOCK`, with or without `ERROR`. Nothing when the client does not wait any
    /// more.
    pub fn unblock(&mut self, client: usize, with_error: bool) {
        let now = self.now();
        let why = match with_error {
            true => Leaving::UnblockedWithError,
            false => Leaving::Unblocked,
        };
        if let Some(at) = self.line.find_connection(self.connection(client)) {
            let ticket = self.line.places()[at].ticket();
            self.leave_place(at, false);
            let left = ticket.and_then(|ticket| self.keeper.leave(ticket, why, now));
            self.require(Law::Tidiness, left.is_some(), "who waits is known to wait");
        }
        self.finish_step();
    }

    /// A flaw: the first who waits leaves and asks anew.
    pub(crate) fn first_asks_anew(&mut self) {
        let Some(place) = self.line.present().next() else { return };
        let (ask, connection) = (place.ask_again(), place.connection());
        let at = self.line.places().iter().position(|it| it.connection() == connection);
        let Some(ticket) = place.ticket() else { return };
        self.keeper.leave(ticket, Leaving::UnblockedWithError, self.now());
        if let (Some(at), Some(new)) = (at, self.wait_anew(&ask, connection)) {
            self.line.place(at).waits = new;
        }
    }

    fn wait_anew(&mut self, ask: &Ask, connection: Option<u64>) -> Option<Waits> {
        let connection = connection?;
        let ticket = self.begin_wait(ask, connection, &[]).ok()?;
        Some(Waits::Client { connection, ticket, deadline_ms: None })
    }

    /// The wait of a call, for the line.
    pub(crate) fn waits(
        &self,
        connection: u64,
        ticket: Ticket,
        block_ms: Option<u64>,
    ) -> Waits {
        let now_ms = self.now().ms();
        let deadline_ms = block_ms.filter(|ms| *ms > 0).map(|ms| now_ms + ms);
        Waits::Client { connection, ticket, deadline_ms }
    }
}
