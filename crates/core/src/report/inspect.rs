//! INSPECT: reports the state of one lock. It adopts no hold.

use crate::error::CommandError;
use crate::manager::LockManager;
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::key_state::{KeyState, is_valid_owner};
use crate::state::lease::Left;
use crate::state::lock::{Bytes, Hold, NO_END, Name, Session};
use crate::state::log::Text;
use crate::state::wait_queue::{Ticket, Waiter};

/// What INSPECT reports about a lock that is held or has a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The owner; none when the value is not a valid owner.
    pub owner: Option<Box<[u8]>>,
    /// The fencing token.
    pub token: Option<u64>,
    /// The rest of the lease.
    pub lease: Left,
    /// How long the lock has been held, in ms.
    pub held_ms: Option<u64>,
    /// The client whose connection the lock is tied to.
    pub session: Option<u64>,
    /// The rest of the grace period, in ms, if that connection has closed.
    pub grace_ms: Option<u64>,
    /// The hold is adopted: the module did not grant it. None when the lock is not held.
    pub adopted: Option<bool>,
    /// The owner of the first connected waiter, if the lock is free.
    pub reserved_for: Option<Bytes>,
    /// The rest of the notice that the holder was given, in ms.
    pub revoked_ms: Option<u64>,
    /// The reason of that notice.
    pub revoked_reason: Option<Text>,
    /// The share under which the lock is held.
    pub share: Option<Bytes>,
    /// The number of clients that wait now: kept positions do not count.
    pub waiting: u64,
    /// The first positions, in queue order.
    pub waiters: Vec<Position>,
}

/// What INSPECT reports about a position in a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The owner.
    pub owner: Bytes,
    /// The client of a connected waiter; none for a kept position.
    pub client: Option<u64>,
    /// How long it has waited, in ms.
    pub waited_ms: u64,
    /// The number of locks that it waits for.
    pub wants: usize,
    /// The number of locks in its lock set.
    pub of: usize,
    /// The number of groups that it waits for locks of, with GROUPS.
    pub groups: Option<usize>,
    /// Its priority.
    pub priority: i64,
    /// The share under which it waits.
    pub share: Option<Bytes>,
    /// The keys of the locks that are reserved for it; none if they were not looked up because the
    /// calls before it name too many locks.
    pub reserved: Option<Vec<Bytes>>,
}

/// The maximum number of positions reported.
const POSITIONS_MAX: usize = 100;

/// The maximum number of locks that are looked up to find the reserved ones: 100 calls name up to
/// 102,400 of them.
const LOOKUPS_MAX: usize = 4_096;

/// The maximum length of the reserved keys, in bytes. The call that exceeds it is the last one
/// whose keys are reported.
const KEYS_MAX: usize = 256 * 1024;

/// What one call may still look up and report.
struct Room {
    lookups: usize,
    bytes: usize,
}

impl LockManager {
    /// Inspects a lock; none when it is free and has no queue.
    ///
    /// # Errors
    /// When the key is not a string.
    pub fn inspect(
        &mut self,
        name: Name<'_>,
        state: &KeyState<'_>,
        now: Now,
    ) -> Result<Option<Inspection>, CommandError> {
        let known = self.reconcile_named(name, state, now);
        known.into_iter().for_each(|id| self.end_old_hold(id, now));
        match state {
            KeyState::OtherType => Err(CommandError::WrongType),
            _ => Ok(self.inspection(known, state, now)),
        }
    }

    fn inspection(
        &self,
        known: Option<Id>,
        state: &KeyState<'_>,
        now: Now,
    ) -> Option<Inspection> {
        let lock = known.and_then(|id| self.table.get(id));
        let hold = lock.and_then(|lock| lock.hold.as_ref());
        let waiting = known.map_or(0, |id| self.count_waiting_for(id));
        let (value, lease) = match *state {
            KeyState::String { value, expires } => {
                let until_ms = expires.end().unwrap_or(NO_END);
                (Some(value), Left::of(until_ms, now.ms()))
            }
            _ if waiting == 0 && !self.has_positions(known) => return None,
            _ => (None, Left::NotHeld),
        };
        let revoked = known.and_then(|id| self.revoked(id, now));
        let session = hold.map_or(Session::None, |hold| hold.session);
        let positions = known
            .into_iter()
            .flat_map(|id| self.queues.positions(id))
            .take(POSITIONS_MAX);
        let mut room = Room { lookups: LOOKUPS_MAX, bytes: KEYS_MAX };
        Some(Inspection {
            owner: value.filter(|value| is_valid_owner(value)).map(Into::into),
            token: hold.and_then(Hold::token),
            lease,
            held_ms: hold.and_then(|hold| hold.held_ms(now)),
            session: match session {
                Session::Tied { client, .. } if !self.is_ending(session) => Some(client),
                _ => None,
            },
            grace_ms: hold
                .filter(|_| session == Session::Closed)
                .map(|hold| hold.until_ms.saturating_sub(now.ms())),
            adopted: value.map(|_| hold.is_none_or(|hold| hold.adopted)),
            reserved_for: known
                .filter(|_| value.is_none())
                .and_then(|id| self.reserved_for(id)),
            revoked_ms: revoked.as_ref().map(|(left_ms, _)| *left_ms),
            revoked_reason: revoked.map(|(_, reason)| reason),
            share: known
                .and_then(|id| self.table.details(id))
                .and_then(|details| details.share.clone()),
            waiting,
            waiters: positions
                .map(|(ticket, waiter)| self.position(ticket, waiter, &mut room, now))
                .collect(),
        })
    }

    /// The number of clients that wait for a lock now. Of those that have left and are not removed
    /// yet, only the first ones are left out.
    fn count_waiting_for(&self, id: Id) -> u64 {
        let connected = self.table.get(id).map_or(0, |lock| u64::from(lock.connected));
        let left = u64::try_from(self.queues.left_in(id)).unwrap_or(0);
        connected.saturating_sub(left)
    }

    fn has_positions(&self, id: Option<Id>) -> bool {
        id.is_some_and(|id| self.queues.positions(id).next().is_some())
    }

    fn position(
        &self,
        ticket: Ticket,
        waiter: &Waiter,
        room: &mut Room,
        now: Now,
    ) -> Position {
        Position {
            owner: waiter.owner.clone(),
            client: waiter.client.filter(|_| waiter.is_waiting()),
            waited_ms: now.ms_since(waiter.since_ms),
            wants: waiter.wants,
            of: waiter.locks.len(),
            groups: waiter.groups.as_ref().map(|groups| groups.wanted),
            priority: waiter.priority,
            share: waiter.share.clone(),
            reserved: self.reserved_keys(ticket, waiter, room),
        }
    }

    /// The keys of the locks that are reserved for a waiter, if there is room to look them up.
    fn reserved_keys(
        &self,
        ticket: Ticket,
        waiter: &Waiter,
        room: &mut Room,
    ) -> Option<Vec<Bytes>> {
        if !waiter.is_waiting() {
            return Some(Vec::new());
        }
        if room.bytes == 0 {
            return None;
        }
        room.lookups = room.lookups.checked_sub(waiter.locks.len())?;
        let mut keys = Vec::new();
        let reserved =
            waiter.locks.iter().filter(|id| self.is_reserved_for(**id, ticket));
        for lock in reserved.filter_map(|id| self.table.get(*id)) {
            room.bytes = room.bytes.saturating_sub(lock.key.len());
            keys.push(lock.key.clone());
        }
        Some(keys)
    }

    /// The owner of the first connected waiter of a free lock.
    fn reserved_for(&self, id: Id) -> Option<Bytes> {
        let first = self.queues.first_taker(id)?;
        self.queues.get(first).map(|waiter| waiter.owner.clone())
    }
}
