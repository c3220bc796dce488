//! The turn of a waiter: what orders a queue. How it is computed is in `rules/turn`.

/// The turn of a waiter. The lowest one is served first. It is fixed when the call joins its queues,
/// and is the same in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Turn {
    /// The number of grants after which it is served: an estimate, which PRIORITY and SHARE move.
    pub number: i64,
    /// The order of arrival, among equal numbers. Never used twice by different calls.
    pub arrival: u64,
}

impl Turn {
    /// Before all others.
    pub(crate) const FIRST: Self = Self { number: i64::MIN, arrival: 0 };

    /// After all others.
    pub(crate) const LAST: Self = Self { number: i64::MAX, arrival: u64::MAX };
}
