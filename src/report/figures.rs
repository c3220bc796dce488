//! The counters with what is counted at this moment, as one table, for every format that
//! they are asked for in: `STATS`, `INFO`, `METRICS`.

use gpulock_core::state::counters::Counters;
use gpulock_core::state::histogram::Histogram;
use gpulock_core::state::lock::Lock;
use gpulock_core::{LockManager, Name};

use crate::redis::panic_boundary::internal_errors;

/// A number of the table.
pub(crate) struct Number {
    /// As the contract names it.
    pub(crate) name: &'static str,
    /// What it counts.
    pub(crate) help: &'static str,
    /// Its value.
    pub(crate) value: u64,
    /// It tells how many there are now, and so may fall.
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
    /// Those of the whole server.
    pub(crate) fn of_server(manager: &LockManager) -> Self {
        Self {
            counters: manager.counters().clone(),
            internal_errors: Some(internal_errors()),
            locks_held: manager.table().held(),
            clients_waiting: u64::try_from(manager.queues().clients())
                .unwrap_or(u64::MAX),
        }
    }

    /// Those of a lock; none when it has no counters of its own.
    pub(crate) fn of_lock(manager: &LockManager, name: Name<'_>) -> Option<Self> {
        let lock = manager.table().get(manager.table().find(name)?)?;
        Self::of(lock)
    }

    /// Those of a lock; none when it has no counters of its own.
    pub(crate) fn of(lock: &Lock) -> Option<Self> {
        Some(Self {
            counters: lock.counters()?.clone(),
            internal_errors: None,
            locks_held: u64::from(lock.hold.is_some()),
            clients_waiting: u64::from(lock.connected),
        })
    }

    /// The number of lines that they take in METRICS.
    pub(crate) fn lines(&self) -> usize {
        let of_histogram =
            |histogram: &Histogram| histogram.cumulative().count().saturating_add(2);
        let histograms = self.histograms().map(|(_, histogram)| of_histogram(histogram));
        histograms.into_iter().fold(self.values().count(), usize::saturating_add)
    }

    /// Panics caught belong to no lock.
    pub(crate) fn leave_out_internal_errors(&mut self) {
        self.internal_errors = None;
    }

    /// Takes a part out of a total.
    pub(crate) fn subtract(&mut self, write: &Self) {
        self.counters.subtract(&write.counters);
        self.locks_held = self.locks_held.saturating_sub(write.locks_held);
        self.clients_waiting = self.clients_waiting.saturating_sub(write.clients_waiting);
    }

    /// The values of the plain numbers, in the order of the contract.
    pub(crate) fn values(&self) -> impl Iterator<Item = u64> + use<> {
        let now = [self.locks_held, self.clients_waiting];
        self.counters.values().into_iter().chain(self.internal_errors).chain(now)
    }

    /// The plain numbers, in the order of the contract.
    pub(crate) fn numbers(&self) -> Vec<Number> {
        let counter = |name, help| Number { name, help, value: 0, is_gauge: false };
        let gauge = |name, help| Number { name, help, value: 0, is_gauge: true };
        let counters = Counters::NAMES.iter().map(|(name, help)| counter(*name, *help));
        let errors = self.internal_errors.map(|_| {
            counter("internal_errors", " Panics caught, each also in the server's log.")
        });
        let now = [
            gauge("locks_held", " Locks held now."),
            gauge("clients_waiting", " Clients waiting now."),
        ];
        let described = counters.chain(errors).chain(now);
        described.zip(self.values()).map(|(it, value)| Number { value, ..it }).collect()
    }

    /// The histograms.
    pub(crate) fn histograms(&self) -> [(&'static str, &Histogram); 2] {
        [("wait_ms", &self.counters.wait_ms), ("hold_ms", &self.counters.hold_ms)]
    }
}

/// A bucket's upper bound, in words.
pub(crate) fn bound_name(bound_ms: Option<u64>) -> String {
    bound_ms.map_or_else(|| "+Inf".to_owned(), |bound| bound.to_string())
}
