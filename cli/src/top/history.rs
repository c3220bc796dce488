//! The last minutes: the number of waiting clients, and the length of completed waits.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::stats::{Histogram, Stats};

/// The length of the history.
pub(crate) const WINDOW: Duration = Duration::from_secs(300);

/// One sample for each interval; None for a failed query.
#[derive(Debug)]
pub(crate) struct History {
    /// Samples closer than this count as one: a request causes additional queries.
    min_distance: Duration,
    samples: VecDeque<(Instant, Option<Sample>)>,
}

#[derive(Debug)]
struct Sample {
    waiting: u64,
    wait_ms: Histogram,
}

impl History {
    /// A history of snapshots at this interval.
    pub(crate) fn new(interval: Duration) -> Self {
        Self { min_distance: interval / 2, samples: VecDeque::new() }
    }

    /// Adds a snapshot.
    pub(crate) fn add_snapshot(&mut self, stats: &Stats, now: Instant) {
        let waiting = stats.counter("clients_waiting");
        self.add(Some(Sample { waiting, wait_ms: stats.wait_ms.clone() }), now);
    }

    /// Adds a failed query.
    pub(crate) fn add_failure(&mut self, now: Instant) {
        self.add(None, now);
    }

    /// The number of waiting clients in the last samples, newest last; None if unknown.
    pub(crate) fn waiting(&self, samples: usize) -> Vec<Option<u64>> {
        let newest = self.newest(samples);
        newest.map(|(_, sample)| sample.as_ref().map(|sample| sample.waiting)).collect()
    }

    /// The age of the oldest of the last samples.
    pub(crate) fn age(&self, samples: usize, now: Instant) -> Duration {
        let oldest = self.newest(samples).next();
        oldest.map_or(Duration::ZERO, |(at, _)| now.saturating_duration_since(*at))
    }

    /// The waits that ended in a grant since the first sample.
    pub(crate) fn waits(&self) -> Histogram {
        let mut known = self.samples.iter().filter_map(|(_, sample)| sample.as_ref());
        let first = known.next();
        let last = known.next_back().or(first);
        match (first, last) {
            (Some(first), Some(last)) => last.wait_ms.since(&first.wait_ms),
            _ => Histogram::default(),
        }
    }

    fn newest(
        &self,
        count: usize,
    ) -> impl Iterator<Item = &(Instant, Option<Sample>)> + use<'_> {
        self.samples.iter().skip(self.samples.len().saturating_sub(count))
    }

    fn add(&mut self, sample: Option<Sample>, now: Instant) {
        let age = |at: &Instant| now.saturating_duration_since(*at);
        match self.samples.back_mut() {
            Some((at, newest)) if age(at) < self.min_distance => *newest = sample,
            _ => self.samples.push_back((now, sample)),
        }
        while self.samples.front().is_some_and(|(at, _)| age(at) > WINDOW) {
            self.samples.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn stats(waiting: u64, waits: u64) -> Stats {
        Stats {
            counters: vec![("clients_waiting".to_owned(), waiting)],
            wait_ms: Histogram::of(&[(10, waits)], 0),
            hold_ms: Histogram::default(),
        }
    }

    #[test]
    fn a_failed_query_leaves_a_gap() {
        let (mut history, now) = (History::new(SECOND), Instant::now());
        history.add_snapshot(&stats(3, 0), now);
        history.add_failure(now + SECOND);
        history.add_snapshot(&stats(5, 0), now + 2 * SECOND);
        assert_eq!(history.waiting(9), [Some(3), None, Some(5)]);
        assert_eq!(history.waiting(2), [None, Some(5)]);
        let age = history.age(2, now + 2 * SECOND);
        assert_eq!(age, SECOND);
    }

    #[test]
    fn only_waits_within_the_window_count() {
        let (mut history, now) = (History::new(SECOND), Instant::now());
        history.add_snapshot(&stats(0, 100), now);
        assert_eq!(history.waits().count, 0);
        history.add_snapshot(&stats(0, 130), now + WINDOW);
        assert_eq!(history.waits().count, 30);
        history.add_snapshot(&stats(0, 131), now + WINDOW + SECOND);
        assert_eq!(history.waits().count, 1);
    }

    #[test]
    fn a_restarted_server_counts_from_zero() {
        let (mut history, now) = (History::new(SECOND), Instant::now());
        history.add_snapshot(&stats(0, 100), now);
        history.add_snapshot(&stats(0, 7), now + SECOND);
        assert_eq!(history.waits().count, 7);
    }

    #[test]
    fn samples_within_half_an_interval_count_as_one() {
        let (mut history, now) = (History::new(SECOND), Instant::now());
        history.add_snapshot(&stats(1, 0), now);
        history.add_snapshot(&stats(2, 0), now + SECOND / 10);
        history.add_snapshot(&stats(3, 0), now + SECOND);
        assert_eq!(history.waiting(9), [Some(2), Some(3)]);
    }
}
