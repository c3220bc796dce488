//! The counters and the current numbers of locks and waiting clients, as one table for all formats:
//! `STATS`, `INFO` and `METRICS`.

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
pub(crate) struct Figures {
    counters: Counters,
    internal_errors: Option<u64>,
    locks_held: u64,
    clients_waiting: u64,
}

impl Figures {
    /// The figures of the server.
    pub(crate) fn of_server(manager: &LockManager) -> Self {
        Self {
            counters: manager.counters().clone(),
            internal_errors: Some(internal_errors()),
            locks_held: manager.table().held(),
            clients_waiting: u64::try_from(manager.queues().clients())
                .unwrap_or(u64::MAX),
        }
    }

    /// The figures of the lock with this name; none when it has no counters.
    pub(crate) fn of_lock(manager: &LockManager, name: Name<'_>) -> Option<Self> {
        let lock = manager.table().get(manager.table().find(name)?)?;
        Self::of(lock)
    }

    /// The figures of a lock; none when it has no counters.
    pub(crate) fn of(lock: &Lock) -> Option<Self> {
        Some(Self {
            counters: lock.counters()?.clone(),
            internal_errors: None,
            locks_held: u64::from(lock.hold.is_some()),
            clients_waiting: u64::from(lock.connected),
        })
    }

    /// The number of lines in METRICS, without comments.
    pub(crate) fn lines(&self) -> usize {
        let of_histogram =
            |histogram: &Histogram| histogram.cumulative().count().saturating_add(2);
        let histograms = self.histograms().map(|(_, histogram)| of_histogram(histogram));
        histograms.into_iter().fold(self.values().count(), usize::saturating_add)
    }

    /// Removes the number of caught panics, which belong to no lock.
    pub(crate) fn leave_out_internal_errors(&mut self) {
        self.internal_errors = None;
    }

    /// Subtracts a part of the total.
    pub(crate) fn subtract(&mut self, part: &Self) {
        self.counters.subtract(&part.counters);
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
        [("wait_ms", &self.counters.wait_ms), ("hold_ms", &self.counters.hold_ms)]
    }
}

/// The name of a bucket: its upper bound, in ms.
pub(crate) fn bound_name(bound_ms: Option<u64>) -> String {
    bound_ms.map_or_else(|| "+Inf".to_owned(), |bound| bound.to_string())
}
