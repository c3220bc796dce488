//! The lock manager: everything that is known about the locks of one server, and the small steps
//! that the rules share: settings, counting, logging. The rules are in `rules`, one a file.

use std::collections::BTreeMap;

use crate::error::CommandError;
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::counters::{Counters, bump};
use crate::state::deferred::DeferredQueue;
use crate::state::listening::Listening;
use crate::state::lock::Name;
use crate::state::log::{Entry, Kind, Log, Subject, Text, truncate};
use crate::state::outbox::Outbox;
use crate::state::probe_round::ProbeRound;
use crate::state::settings::Settings;
use crate::state::sweep::Sweep;
use crate::state::table::Table;
use crate::state::tags::Tags;
use crate::state::token::Tokens;
use crate::state::wait_queue::WaitQueues;
use crate::state::work_budget::WorkBudget;

/// Everything that is known about the locks of one server.
#[derive(Clone, Debug)]
pub struct LockManager {
    pub(crate) settings: Settings,
    pub(crate) table: Table,
    pub(crate) tags: Tags,
    pub(crate) queues: WaitQueues,
    pub(crate) deferred: DeferredQueue,
    pub(crate) outbox: Outbox,
    pub(crate) tokens: Tokens,
    pub(crate) counters: Counters,
    pub(crate) log: Log,
    pub(crate) sweep: Sweep,
    pub(crate) probes: ProbeRound,
    pub(crate) listening: Listening,
    pub(crate) budget: WorkBudget,
    pub(crate) is_primary: bool,
    memory_is_limited: bool,
    /// The warnings that still apply, each with the setting that caused it.
    warned: BTreeMap<&'static str, Box<[u8]>>,
}

/// The caller of a command, as the log shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller<'a> {
    /// The owner that the command names.
    pub owner: Option<&'a [u8]>,
    /// The id of its client; none in scripts, and where no client calls.
    pub client: Option<u64>,
}

/// Something to log about a lock.
pub(crate) struct Incident<'a> {
    pub(crate) name: Name<'a>,
    pub(crate) kind: Kind,
    pub(crate) holder: Option<&'a [u8]>,
    pub(crate) token: Option<u64>,
    pub(crate) held_ms: Option<u64>,
    pub(crate) reason: Text,
    pub(crate) caller: Caller<'a>,
}

impl LockManager {
    /// The manager of a primary without locks. `seed` scatters the names in the table, so that no
    /// client can choose names that collide.
    pub fn new(settings: Settings, seed: u64, now: Now) -> Self {
        let mut log = Log::default();
        log.set_limit(settings.log_len);
        let mut table = Table::new(seed);
        table.set_tracked_limit(settings.tracked_keys);
        let mut tags = Tags::default();
        tags.set_limit(settings.remembered_tags);
        Self {
            settings,
            table,
            tags,
            queues: WaitQueues::default(),
            deferred: DeferredQueue::default(),
            outbox: Outbox::default(),
            tokens: Tokens::new(now),
            counters: Counters::default(),
            log,
            sweep: Sweep::default(),
            probes: ProbeRound::default(),
            listening: Listening::default(),
            budget: WorkBudget::default(),
            is_primary: true,
            memory_is_limited: true,
            warned: BTreeMap::new(),
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
        self.tags.set_limit(self.settings.remembered_tags);
    }

    /// Forgets the locks that have become idle, and frees a portion of the deleted log entries and of
    /// the tags above a lower limit. To be
    /// called after each command and event: until then the ids of such locks stay valid.
    pub fn forget_idle(&mut self) {
        self.table.forget_idle();
        self.log.free_deleted();
        self.tags.forget_surplus();
    }

    /// The locks.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The wait queues.
    pub fn queues(&self) -> &WaitQueues {
        &self.queues
    }

    /// The deferred work.
    pub fn deferred(&self) -> &DeferredQueue {
        &self.deferred
    }

    /// What waits for delivery.
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// The counters of the whole server.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Zeroes all counters. Locks held now count as adopted, so that the counters still add up.
    pub fn reset_stats(&mut self) {
        self.counters = Counters { adopted: self.table.held(), ..Counters::default() };
        self.table.reset_counters();
    }

    /// Brings the counters of a lock up to date before they are read: after a reset, many are reset
    /// later.
    pub fn settle_counters(&mut self, name: Name<'_>) {
        if let Some(id) = self.table.find(name) {
            self.table.settle_counters(id);
        }
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Deletes the entries of the log.
    pub fn reset_log(&mut self) {
        self.log.reset();
    }

    /// Adds a client's `CLIENT LIST` line to the newest log entry; the client is that of
    /// [`Outbox::take_unidentified`].
    pub fn identify(&mut self, client_line: &[u8]) {
        self.log.identify_newest(client_line);
    }

    /// Whether the server's memory has a limit, so that it may be out of memory.
    pub fn memory_is_limited(&self) -> bool {
        self.memory_is_limited
    }

    /// Sets whether the server's memory has a limit.
    pub fn set_memory_limited(&mut self, limited: bool) {
        self.memory_is_limited = limited;
    }

    /// Whether this server may grant, renew and release locks.
    ///
    /// # Errors
    /// [`CommandError::ReadOnly`] on a replica.
    pub fn may_write(&self) -> Result<(), CommandError> {
        if self.is_primary { Ok(()) } else { Err(CommandError::ReadOnly) }
    }

    /// Reads a lock ahead of the rule for it, just before the server looks up its key: with many
    /// locks neither is in a cache, and the processor fetches both from memory at once.
    pub fn look_ahead(&self, name: Name<'_>) {
        self.table.look_ahead(name);
    }

    /// Logs that a setting of the server puts locks in danger, if that is new. `danger` is the
    /// setting's value; none: there is no danger. Returns whether it is new.
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

    /// Changes the counters of the server, and those of the lock if it has its own.
    pub(crate) fn tally(&mut self, lock: Option<Id>, change: impl Fn(&mut Counters)) {
        change(&mut self.counters);
        self.table.tally(lock, change);
    }

    /// Logs an incident.
    pub(crate) fn log_incident(&mut self, incident: Incident<'_>, now: Now) {
        let Incident { name, kind, holder, token, held_ms, reason, caller } = incident;
        self.write_log(Entry {
            subject: Subject {
                kind,
                lock: Some((name.db, truncate(name.key))),
                holder: holder.map(truncate),
                caller: caller.owner.map(truncate),
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
        self.outbox.identify(client.filter(|_| lacks_line));
    }
}

/// The lock whose own counters count a call: a call for several locks counts for the server only.
pub(crate) fn counted_for(locks: &[Id]) -> Option<Id> {
    match locks {
        [only] => Some(*only),
        _ => None,
    }
}
