//! The counters with what is counted at this moment, as one table, for every format that
//! they are asked for in: `STATS`, `INFO`, `METRICS`.

use gpulock_core::counters::Counters;
use gpulock_core::histogram::Histogram;
use gpulock_core::lock::Lock;
use gpulock_core::{Keeper, Name};

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
    pub(crate) fn of_server(keeper: &Keeper) -> Self {
        Self {
            counters: keeper.counters().clone(),
            internal_errors: Some(keeper.internal_errors()),
            locks_held: keeper.table().held(),
            clients_waiting: u64::try_from(keeper.lines().clients()).unwrap_or(u64::MAX),
        }
    }

    /// Those of a lock; none when it has no counters of its own.
    pub(crate) fn of_lock(keeper: &Keeper, name: Name<'_>) -> Option<Self> {
        let lock = keeper.table().get(keeper.table().find(name)?)?;
        Self::of(lock)
    }

    /// Those of a lock; none when it has no counters of its own.
    pub(crate) fn of(lock: &Lock) -> Option<Self> {
        Some(Self {
            counters: Counters::clone(lock.counters.as_deref()?),
            internal_errors: None,
            locks_held: u64::from(lock.hold.is_some()),
            clients_waiting: u64::from(lock.present),
        })
    }

    /// Those of the server, less those of all locks that have their own.
    pub(crate) fn untracked(keeper: &Keeper) -> Self {
        let mut rest = Self { internal_errors: None, ..Self::of_server(keeper) };
        for lock in keeper.table().tracked() {
            if let Some(own) = Self::of(lock) {
                rest.counters = rest.counters.without(&own.counters);
                rest.locks_held = rest.locks_held.saturating_sub(own.locks_held);
                rest.clients_waiting =
                    rest.clients_waiting.saturating_sub(own.clients_waiting);
            }
        }
        rest
    }

    /// The plain numbers, in the order of the contract.
    pub(crate) fn numbers(&self) -> Vec<Number> {
        let counter = |name, help, value| Number { name, help, value, is_gauge: false };
        let gauge = |name, help, value| Number { name, help, value, is_gauge: true };
        let counters = self.counters.each().map(|(name, help, n)| counter(name, help, n));
        let errors = self.internal_errors.map(|errors| {
            counter(
                "internal_errors",
                " Panics caught, each also in the server's log.",
                errors,
            )
        });
        let now = [
            gauge("locks_held", " Locks held now.", self.locks_held),
            gauge("clients_waiting", " Clients waiting now.", self.clients_waiting),
        ];
        counters.chain(errors).chain(now).collect()
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
