//! The turns that a call may have when it is decided: while the budgets of the lock manager are used
//! up, its queues may differ from those of the model. What the laws say of turns is in `turn`.

use gpulock_core::state::turn::Turn as TurnOfManager;

use crate::call::{Call, OWNERS};
use crate::memory_keys::{KEYS, name};
use crate::queue::{Position, Queue};
use crate::turn::{Grants, Joined, Turn};
use crate::world::World;

/// The turns that a call may have when it is decided at once: some locks may count as held under
/// its share whose holds have ended.
pub(crate) struct TurnsOfCall {
    pub(crate) earliest: Turn,
    pub(crate) latest: Turn,
    /// For each key, whether the lock manager knew who held its lock when the call began.
    pub(crate) known: [bool; KEYS.len()],
    /// The arrivals of the calls that waited then.
    pub(crate) waiting: Vec<u64>,
    /// The position that it takes over.
    pub(crate) same: Option<Repeated>,
    /// The grants of each queue then: a queue whose position is taken over counts on.
    pub(crate) grants: Grants,
    /// The arrivals of the calls in which its owner waits and which it takes over or gives up.
    pub(crate) given_up: Vec<u64>,
}

/// A position that a call repeats.
pub(crate) struct Repeated {
    pub(crate) joined: Joined,
    /// With small budgets: its turn in the lock manager. The call takes it over only if it gets this
    /// turn: its time may be over, or that of another position of the owner, and the lock manager
    /// may not have removed it yet.
    pub(crate) turn: Option<TurnOfManager>,
}

impl World {
    /// The turns that a call may have when it is decided at once.
    pub(crate) fn turns_of(&self, call: &Call) -> TurnsOfCall {
        let known = self.known_states();
        let waiting = self.queue.connected().map(|it| it.turn().arrival).collect();
        // What has expired leaves before the call is decided, unless the budget is used up.
        let mut queue = self.queue.clone();
        self.end_expired(&mut queue);
        let given_up = queue.connected().filter(|it| it.is_superseded_by(call));
        let given_up = given_up.map(|it| it.turn().arrival).collect();
        let (same, grants) = (self.repeated_by(call, &queue), self.queue.grants);
        let repeated = same.as_ref().map(|same| same.joined.turn);
        if let Some(turn) = repeated.filter(|_| !self.small_budgets) {
            let (earliest, latest) = (turn, turn);
            return TurnsOfCall {
                earliest,
                latest,
                known,
                waiting,
                same,
                grants,
                given_up,
            };
        }
        let held = |may_be_ended: bool| {
            let is_held = |key: &&usize| {
                let held = self.holds[**key].as_ref();
                held.is_some_and(|held| {
                    held.share == call.share && (may_be_ended || !held.ended)
                })
            };
            match call.share {
                Some(_) => call.keys.iter().filter(is_held).count(),
                None => 0,
            }
        };
        let last = |number| Turn { number, arrival: u64::MAX };
        let earliest = last(queue.number(call, held(false)));
        let latest = last(match self.small_budgets {
            true => self.lagging_queue(call).number(call, held(true)),
            false => queue.number(call, held(true)),
        });
        let earliest = repeated.map_or(earliest, |turn| turn.min(earliest));
        let latest = repeated.map_or(latest, |turn| turn.max(latest));
        TurnsOfCall { earliest, latest, known, waiting, same, grants, given_up }
    }

    /// The queue as the lock manager has it when its budgets are used up: what has expired may still
    /// be there, and so may waiters that have left, with the grants since they joined.
    fn lagging_queue(&self, call: &Call) -> Queue {
        let mut queue = self.queue.clone();
        for key in &call.keys {
            let id = self.manager.table().find(name(*key));
            let counted = id.map_or(0, |id| self.manager.queues().counted(id));
            queue.grants[*key] = queue.grants[*key].max(counted);
        }
        queue
    }

    /// Ends what has expired, in the order in which it does.
    fn end_expired(&self, queue: &mut Queue) {
        let now = self.now();
        while let Some(at) = queue.first_expired(now) {
            let position = &queue.positions()[at];
            let keep_ms = self.keep_ms(position);
            if position.is_connected() && position.unique && keep_ms > 0 {
                let kept = queue.new_kept(now.ms() + keep_ms);
                queue.position(at).state = kept;
            } else {
                queue.remove(at);
            }
            queue.make_room(self.max_waiters());
        }
    }

    /// The position that a call repeats. `queue` has only those whose time is not over.
    fn repeated_by(&self, call: &Call, queue: &Queue) -> Option<Repeated> {
        if !self.small_budgets {
            let own = queue.own(call);
            let [(joined, true)] = &own[..] else { return None };
            return Some(Repeated { joined: joined.clone(), turn: None });
        }
        let own = self.queue.own(call);
        let (joined, _) = own.into_iter().find(|(_, is_repeated)| *is_repeated)?;
        let id = self.manager.table().find(name(call.keys[0]))?;
        let mut positions = self.manager.queues().positions(id);
        let owner = OWNERS[call.owner];
        let position = positions.find(|(_, it)| it.unique && *it.owner == *owner);
        let turn = position.map(|(_, waiter)| waiter.turn);
        Some(Repeated { joined, turn })
    }

    /// Whether a free lock is certainly for a call: it comes before all waiters that may take it,
    /// also those that got it in this step. While turns are uncertain, any of them may come first.
    pub(crate) fn is_available(
        &self,
        key: usize,
        call: &Call,
        turns: &TurnsOfCall,
    ) -> bool {
        let is_blocking = |it: &&Position| {
            it.keys.contains(&key)
                && !it.is_superseded_by(call)
                && self.may_take(it, key, &turns.known)
        };
        let granted = self.in_flight.iter().map(|in_flight| &in_flight.position);
        let granted = granted.filter(|it| turns.waiting.contains(&it.turn().arrival));
        let mut others = self.queue.connected().chain(granted).filter(is_blocking);
        let may_differ = self.turns_are_uncertain;
        others.all(|other| !may_differ && turns.latest < other.turn())
    }
}
