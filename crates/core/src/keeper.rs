//! The lock keeper: all that is known, and the small steps that the rules share. The
//! rules themselves are beside it, one a file.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::alarm::Round;
use crate::arena::Id;
use crate::clock::Now;
use crate::counters::{Counters, bump};
use crate::event::{End, Event, Text};
use crate::fault::Fault;
use crate::lease;
use crate::line::{Lines, Ticket, Waiter};
use crate::lock::{Bytes, Hold, Lock, NO_END, Name};
use crate::log::{Entry, Kind, Log, Subject, cut};
use crate::portion::Portion;
use crate::seen::Expires;
use crate::session::{EndingSession, Owed};
use crate::settings::{Events, Settings};
use crate::sweep::Sweep;
use crate::table::Table;
use crate::token::Tokens;
use crate::wait::Leaving;

/// Who calls, as the log tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller<'a> {
    /// The owner that the call names.
    pub owner: Option<&'a [u8]>,
    /// The id of its client; none in scripts and where no client calls.
    pub client: Option<u64>,
}

/// Something that went wrong with a lock.
pub(crate) struct Incident<'a> {
    pub(crate) name: Name<'a>,
    pub(crate) kind: Kind,
    pub(crate) holder: Option<&'a [u8]>,
    pub(crate) token: Option<u64>,
    pub(crate) held_ms: Option<u64>,
    pub(crate) reason: Text,
    pub(crate) caller: Caller<'a>,
}

/// All that is known of the locks of one server.
#[derive(Clone, Debug)]
pub struct Keeper {
    pub(crate) settings: Settings,
    pub(crate) table: Table,
    pub(crate) tokens: Tokens,
    pub(crate) counters: Counters,
    pub(crate) log: Log,
    pub(crate) sweep: Sweep,
    /// What is to be published, oldest first, until [`Keeper::take_event`] takes it.
    events: VecDeque<Event>,
    /// The client whose line the newest entry of the log lacks.
    unidentified: Option<u64>,
    internal_errors: u64,
    is_primary: bool,
    memory_is_limited: bool,
    /// What was warned of and is still so, with the setting that it was warned of for.
    warned: BTreeMap<&'static str, Box<[u8]>>,
    pub(crate) lines: Lines,
    /// What waiting clients are to be told, oldest first.
    pub(crate) answers: VecDeque<(Ticket, Answer)>,
    /// Which locks end with which client's connection.
    pub(crate) ties: BTreeSet<(u64, Id)>,
    /// What is to be made good as soon as the server may be written.
    pub(crate) owed: VecDeque<Owed>,
    /// Sessions that ended, of which more is owed than what was done at once.
    pub(crate) sessions: VecDeque<EndingSession>,
    /// The clients whose session has ended, while locks are tied to them.
    pub(crate) gone: BTreeSet<u64>,
    /// How much may be done in one go.
    pub(crate) portion: Portion,
    /// When which lock is to be looked at.
    pub(crate) alarms: BTreeSet<(u64, Id)>,
    pub(crate) round: Round,
}

/// What a waiting client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The lock, or the set, is the client's.
    Granted {
        /// What it got, in the order in which it asked.
        grants: Vec<Grant>,
        /// Who it was granted to, in case that nobody is there to hear it.
        waiter: Box<Waiter>,
        /// The keys of the set that it asked for: of those that it did not get nothing may
        /// be known any more.
        set: Vec<Bytes>,
    },
    /// It is not.
    Null,
    /// An error.
    Refused(Fault),
}

/// A lock that a waiting client got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The lock.
    pub lock: Id,
    /// Its key.
    pub key: Bytes,
    /// The fencing token.
    pub token: u64,
}

/// What a hold begins with.
pub(crate) struct Terms<'a> {
    pub(crate) owner: &'a [u8],
    pub(crate) lease_ms: u64,
    pub(crate) unique: bool,
    /// The client that it is tied to, and the grace in ms.
    pub(crate) session: Option<(u64, u64)>,
}

impl Keeper {
    /// The keeper of a primary, which knows of no lock. `seed` scatters the names in the
    /// table, so that no client can choose names that collide.
    pub fn new(settings: Settings, seed: u64, now: Now) -> Self {
        let mut log = Log::default();
        log.set_limit(settings.log_len);
        let mut table = Table::new(seed);
        table.set_tracked_limit(settings.tracked_keys);
        Self {
            settings,
            table,
            tokens: Tokens::new(now),
            counters: Counters::default(),
            log,
            sweep: Sweep::default(),
            events: VecDeque::new(),
            unidentified: None,
            internal_errors: 0,
            is_primary: true,
            memory_is_limited: true,
            warned: BTreeMap::new(),
            lines: Lines::default(),
            answers: VecDeque::new(),
            ties: BTreeSet::new(),
            owed: VecDeque::new(),
            sessions: VecDeque::new(),
            gone: BTreeSet::new(),
            portion: Portion::default(),
            alarms: BTreeSet::new(),
            round: Round::default(),
        }
    }

    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Changes the settings. What they limit is cut to the new limits at once.
    pub fn configure(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
        self.log.set_limit(self.settings.log_len);
        self.table.set_tracked_limit(self.settings.tracked_keys);
    }

    /// Takes their own counters from the locks used least recently when there are more than
    /// `gpulock.tracked-keys`. Called once a command or an event is done with: what was
    /// known of an idle lock may be removed here.
    pub fn trim_tracked(&mut self) {
        self.table.trim_tracked();
    }

    /// The locks.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The counters of the whole server.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many panics were caught.
    pub fn internal_errors(&self) -> u64 {
        self.internal_errors
    }

    /// Counts a panic that was caught.
    pub fn count_internal_error(&mut self) {
        bump(&mut self.internal_errors);
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Forgets the entries of the log.
    pub fn reset_log(&mut self) {
        self.log.reset();
    }

    /// Zeroes all counters; what is held now counts as adopted, so that the law holds.
    pub fn reset_stats(&mut self) {
        self.internal_errors = 0;
        self.counters = Counters { adopted: self.table.held(), ..Counters::default() };
        self.table.untrack_idle();
        self.table.for_each_tracked(|counters, held| {
            *counters = Counters { adopted: u64::from(held), ..Counters::default() };
        });
    }

    /// The lines.
    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    /// The oldest answer that a waiting client is to be given.
    pub fn take_answer(&mut self) -> Option<(Ticket, Answer)> {
        pop(&mut self.answers)
    }

    /// True when there is somebody to answer, an event to publish or a client to ask for.
    pub fn has_news(&self) -> bool {
        !self.answers.is_empty() || !self.events.is_empty() || self.unidentified.is_some()
    }

    /// The oldest event that is to be published.
    pub fn take_event(&mut self) -> Option<Event> {
        pop(&mut self.events)
    }

    #[cfg(test)]
    pub(crate) fn events_capacity(&self) -> usize {
        self.events.capacity()
    }

    /// The client whose line is to be added to the newest entry of the log
    /// ([`Keeper::identify`]); asked once.
    pub fn take_unidentified(&mut self) -> Option<u64> {
        self.unidentified.take()
    }

    /// Adds the line of the client asked for by [`Keeper::take_unidentified`].
    pub fn identify(&mut self, client_line: &[u8]) {
        self.log.identify_newest(client_line);
    }

    /// This server became a primary: tokens begin anew ahead of the clock.
    pub fn promoted(&mut self, now: Now) {
        self.is_primary = true;
        self.tokens.begin(now);
    }

    /// Whether the server's memory has a limit, so that it may be out of memory.
    pub fn memory_is_limited(&self) -> bool {
        self.memory_is_limited
    }

    /// Takes note of whether the server's memory has a limit.
    pub fn set_memory_limited(&mut self, limited: bool) {
        self.memory_is_limited = limited;
    }

    /// Whether this server may grant, renew and free.
    ///
    /// # Errors
    /// When it is a replica.
    pub fn may_write(&self) -> Result<(), Fault> {
        if self.is_primary { Ok(()) } else { Err(Fault::ReadOnly) }
    }

    /// This server became a replica: nothing is held here any more, and nobody waits.
    pub fn demoted(&mut self, now: Now) {
        self.is_primary = false;
        while let Some(id) = self.lines.first_lock() {
            while let Some(ticket) = self.lines.first_place(id) {
                self.end_wait(ticket, Leaving::RoleChanged, &[], now);
            }
        }
        self.forget_owed();
        while let Some(id) = self.table.oldest() {
            self.end(id, End::Removed, Caller::default(), now);
            self.table.forget_if_idle(id);
        }
    }

    /// The server evicted a key.
    pub fn evicted(&mut self, name: Name<'_>, now: Now) {
        if let Some(id) = self.table.find(name) {
            self.end(id, End::Evicted, Caller::default(), now);
            self.table.forget_if_idle(id);
        }
    }

    /// Logs that the server is set so that locks are in danger, when that is new; `danger`
    /// is the setting, none if there is no danger (any more). True when it is new.
    pub fn warn(&mut self, what: &'static str, danger: Option<&[u8]>, now: Now) -> bool {
        let Some(danger) = danger else {
            self.warned.remove(what);
            return false;
        };
        let before = self.warned.insert(what, danger.into());
        if before.as_deref() == Some(danger) {
            return false;
        }
        self.write_log(Entry {
            subject: Subject {
                kind: Kind::Warning,
                lock: None,
                holder: None,
                caller: None,
                reason: Text::Borrowed(what.as_bytes()),
            },
            token: None,
            held_ms: None,
            unix_ms: now.ms(),
            count: 1,
            client: None,
            client_line: None,
        });
        true
    }

    /// Counts for the server, and for the lock if it has counters of its own.
    pub(crate) fn count(
        &mut self,
        lock: Option<Id>,
        counter: impl Fn(&mut Counters) -> &mut u64,
    ) {
        self.tally(lock, |counters| bump(counter(counters)));
    }

    pub(crate) fn tally(&mut self, lock: Option<Id>, change: impl Fn(&mut Counters)) {
        change(&mut self.counters);
        let Some(id) = lock else { return };
        if let Some(own) = self.table.get_mut(id).and_then(|lock| lock.own.as_deref_mut())
        {
            change(&mut own.counters);
            self.table.mark_used(id);
        }
    }

    /// Begins a hold that the module grants, and answers its token and its end.
    pub(crate) fn grant(&mut self, id: Id, terms: &Terms<'_>, now: Now) -> (u64, u64) {
        let token = self.tokens.next(now);
        let now_ms = now.ms();
        let until_ms = lease::end(terms.lease_ms, now_ms, now_ms, &self.settings);
        let mut hold = Hold::new(terms.owner, Some(token), now_ms, until_ms);
        hold.unique = terms.unique;
        self.table.begin_hold(id, hold);
        if let Some((client, grace_ms)) = terms.session {
            self.tie(id, client, grace_ms);
        }
        self.rearm(id);
        self.count_held(id, terms.owner);
        self.count(Some(id), |counters| &mut counters.acquired);
        if self.settings.events == Events::All
            && let Some(lock) = self.table.get(id)
        {
            let event =
                event(lock, Bytes::from_slice(terms.owner), Some(token), None, now);
            self.events.push_back(event);
        }
        (token, until_ms)
    }

    /// Begins a hold that somebody else granted.
    pub(crate) fn adopt(&mut self, id: Id, owner: &[u8], expires: Expires, now: Now) {
        let until_ms = expires.end().unwrap_or(NO_END);
        self.table.begin_hold(id, Hold::new(owner, None, now.ms(), until_ms));
        self.count(Some(id), |counters| &mut counters.adopted);
        self.rearm(id);
        self.count_held(id, owner);
    }

    /// Ends a hold: counts, logs and tells it.
    pub(crate) fn end(&mut self, id: Id, end: End, caller: Caller<'_>, now: Now) {
        self.untie(id);
        let Some(hold) = self.table.end_hold(id) else { return };
        self.rearm(id);
        self.tally(Some(id), |counters| {
            bump(end.counter(counters));
            counters.hold_ms.record(now.ms_since(hold.since_ms));
        });
        let ours =
            !hold.adopted || !matches!(end, End::Removed | End::Evicted | End::Moved);
        let told = ours && end != End::Moved && self.settings.events != Events::Off;
        let kind = end.log_kind();
        let reason = end.reason();
        if let Some(kind) = kind
            && let Some((db, key)) =
                self.table.get(id).map(|lock| (lock.db, cut(&lock.key)))
        {
            let incident = Incident {
                name: Name { db, key: &key },
                kind,
                holder: Some(&hold.owner),
                token: hold.token(),
                held_ms: hold.held_ms(now),
                reason: reason.clone(),
                caller,
            };
            self.log_incident(incident, now);
        }
        if told && let Some(lock) = self.table.get(id) {
            let token = hold.token();
            self.events.push_back(event(lock, hold.owner, token, Some(reason), now));
        }
    }

    /// Writes what went wrong with a lock into the log.
    pub(crate) fn log_incident(&mut self, incident: Incident<'_>, now: Now) {
        let Incident { name, kind, holder, token, held_ms, reason, caller } = incident;
        self.write_log(Entry {
            subject: Subject {
                kind,
                lock: Some((name.db, cut(name.key))),
                holder: holder.map(cut),
                caller: caller.owner.map(cut),
                reason,
            },
            token,
            held_ms,
            unix_ms: now.ms(),
            count: 1,
            client: caller.client,
            client_line: None,
        });
    }

    fn write_log(&mut self, entry: Entry) {
        let client = entry.client;
        let lacks_line = self.log.write(entry);
        self.unidentified = client.filter(|_| lacks_line);
    }
}

/// The capacity that a queue keeps for good.
const QUEUE: usize = 1_024;

/// Takes the oldest of a queue. One that was large gives its memory back when it is empty.
pub(crate) fn pop<T>(queue: &mut VecDeque<T>) -> Option<T> {
    let oldest = queue.pop_front();
    if oldest.is_none() && queue.capacity() > QUEUE {
        *queue = VecDeque::new();
    }
    oldest
}

fn event(
    lock: &Lock,
    owner: Bytes,
    token: Option<u64>,
    ended: Option<Text>,
    at: Now,
) -> Event {
    Event { db: lock.db, key: lock.key.clone(), owner, token, at, ended }
}
