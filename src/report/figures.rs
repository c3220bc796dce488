//! The counters and the current numbers of locks and waiting clients, as one table for all formats:
//! `STATS`, `INFO` and `METRICS`.

use std::borrow::Cow;

use gpulock_core::state::counters::Counters;
use gpulock_core::state::histogram::Histogram;
use gpulock_core::state::lock::Lock;
use gpulock_core::{LockManager, Name};

use crate::redis::panic_boundary::internal_errors;

/// A number of the table.
pub(crate) struct Number {
    /// The name in the command reference.
    pub(crate) name: &'static str,
    /// What it counts.
    pub(crate) help: &'static str,
    /// Its value.
    pub(crate) value: u64,
    /// It is a current number, which may decrease.
    pub(crate) is_gauge: bool,
}

/// The figures of the server, or of one lock.
pub(crate) struct Figures<'a> {
    counters: Cow<'a, Counters>,
    internal_errors: Option<u64>,
    locks_held: u64,
    clients_waiting: u64,
}

impl<'a> Figures<'a> {
    /// The figures of the server.
    pub(crate) fn of_server(manager: &'a LockManager) -> Self {
        Self {
            counters: Cow::Borrowed(manager.counters()),
            internal_errors: Some(internal_errors()),
            locks_held: manager.table().held(),
            clients_waiting: clients_waiting(manager),
        }
    }

    /// The figures of the server less those of all tracked locks.
    pub(crate) fn of_untracked(manager: &'a LockManager) -> Self {
        let table = manager.table();
        Self {
            counters: Cow::Borrowed(table.untracked()),
            internal_errors: None,
            locks_held: table.held().saturating_sub(table.tracked_held()),
            clients_waiting: clients_waiting(manager)
                .saturating_sub(table.tracked_connected()),
        }
    }

    /// The figures of the lock with this name; none when it has no counters.
    pub(crate) fn of_lock(manager: &'a LockManager, name: Name<'_>) -> Option<Self> {
        let lock = manager.table().get(manager.table().find(name)?)?;
        Self::of(lock)
    }

    /// The figures of a lock; none when it has no counters.
    pub(crate) fn of(lock: &'a Lock) -> Option<Self> {
        Some(Self {
            counters: Cow::Borrowed(lock.counters()?),
            internal_errors: None,
            locks_held: u64::from(lock.hold.is_some()),
            clients_waiting: u64::from(lock.connected),
        })
    }

    /// A copy that outlives the access to the lock manager.
    pub(crate) fn into_owned(self) -> Figures<'static> {
        Figures { counters: Cow::Owned(self.counters.into_owned()), ..self }
    }

    /// Removes the number of caught panics, which belong to no lock.
    pub(crate) fn leave_out_internal_errors(&mut self) {
        self.internal_errors = None;
    }

    /// Subtracts a part of the total.
    pub(crate) fn subtract(&mut self, part: &Figures<'_>) {
        self.counters.to_mut().subtract(&part.counters);
        self.locks_held = self.locks_held.saturating_sub(part.locks_held);
        self.clients_waiting = self.clients_waiting.saturating_sub(part.clients_waiting);
    }

    /// The values of the plain numbers, in the order of the command reference.
    pub(crate) fn values(&self) -> impl Iterator<Item = u64> + use<> {
        let now = [self.locks_held, self.clients_waiting];
        self.counters.values().into_iter().chain(self.internal_errors).chain(now)
    }

    /// The plain numbers, in the order of the command reference.
    pub(crate) fn numbers(&self) -> Vec<Number> {
        let counter = |name, help| Number { name, help, value: 0, is_gauge: false };
        let gauge = |name, help| Number { name, help, value: 0, is_gauge: true };
        let counters = Counters::NAMES.iter().map(|(name, help)| counter(*name, *help));
        let errors = self.internal_errors.map(|_| {
            counter("internal_errors", " Panics caught; each is also in the server log.")
        });
        let now = [
            gauge("locks_held", " Locks held now."),
            gauge("clients_waiting", " Clients waiting now."),
        ];
        let described = counters.chain(errors).chain(now);
        described
            .zip(self.values())
            .map(|(number, value)| Number { value, ..number })
            .collect()
    }

    /// The histograms.
    pub(crate) fn histograms(&self) -> [(&'static str, &Histogram); 2] {
        [("wait_ms", self.wait_ms()), ("hold_ms", self.hold_ms())]
    }

    /// The histogram of the waits that ended with a grant.
    pub(crate) fn wait_ms(&self) -> &Histogram {
        &self.counters.wait_ms
    }

    /// The histogram of the holds that ended.
    pub(crate) fn hold_ms(&self) -> &Histogram {
        &self.counters.hold_ms
    }
}

fn clients_waiting(manager: &LockManager) -> u64 {
    u64::try_from(manager.queues().clients()).unwrap_or(u64::MAX)
}

/// The name of a bucket: its upper bound, in ms.
pub(crate) fn bound_name(bound_ms: Option<u64>) -> String {
    bound_ms.map_or_else(|| "+Inf".to_owned(), |bound| bound.to_string())
}
