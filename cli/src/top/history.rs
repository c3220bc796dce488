//! The last minutes: how many clients waited, and how long the waits took that ended.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::stats::{Histogram, Stats};

/// How far back it goes.
pub(crate) const WINDOW: Duration = Duration::from_secs(300);

/// One sample for each interval; none where a look failed.
#[derive(Debug)]
pub(crate) struct History {
    /// Looks that are nearer than this count as one: some come out of turn.
    apart: Duration,
    samples: VecDeque<(Instant, Option<Sample>)>,
}

#[derive(Debug)]
struct Sample {
    waiting: u64,
    wait_ms: Histogram,
}

impl History {
    /// Of looks that come at an interval.
    pub(crate) fn new(interval: Duration) -> Self {
        Self { apart: interval / 2, samples: VecDeque::new() }
    }

    /// Adds a look.
    pub(crate) fn seen(&mut self, stats: &Stats, now: Instant) {
        let waiting = stats.counter("clients_waiting");
        self.add(Some(Sample { waiting, wait_ms: stats.wait_ms.clone() }), now);
    }

    /// Adds a look that failed.
    pub(crate) fn unseen(&mut self, now: Instant) {
        self.add(None, now);
    }

    /// How many clients waited at the last looks, the newest last; none: nobody knows.
    pub(crate) fn waiting(&self, looks: usize) -> Vec<Option<u64>> {
        let newest = self.newest(looks);
        newest.map(|(_, seen)| seen.as_ref().map(|sample| sample.waiting)).collect()
    }

    /// How long ago the first of the last looks was.
    pub(crate) fn age(&self, looks: usize, now: Instant) -> Duration {
        let oldest = self.newest(looks).next();
        oldest.map_or(Duration::ZERO, |(at, _)| now.saturating_duration_since(*at))
    }

    /// The waits that ended in a grant since the first look that is kept.
    pub(crate) fn waits(&self) -> Histogram {
        let mut seen = self.samples.iter().filter_map(|(_, seen)| seen.as_ref());
        let first = seen.next();
        let last = seen.next_back().or(first);
        match (first, last) {
            (Some(first), Some(last)) => last.wait_ms.since(&first.wait_ms),
            _ => Histogram::default(),
        }
    }

    fn newest(
        &self,
        looks: usize,
    ) -> impl Iterator<Item = &(Instant, Option<Sample>)> + use<'_> {
        self.samples.iter().skip(self.samples.len().saturating_sub(looks))
    }

    fn add(&mut self, sample: Option<Sample>, now: Instant) {
        let age = |at: &Instant| now.saturating_duration_since(*at);
        match self.samples.back_mut() {
            Some((at, newest)) if age(at) < self.apart => *newest = sample,
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
    fn a_look_that_failed_leaves_a_gap() {
        let (mut history, now) = (History::new(SECOND), Instant::now());
        history.seen(&stats(3, 0), now);
        history.unseen(now + SECOND);
        history.seen(&stats(5, 0), now + 2 * SECOND);
        assert_eq!(history.waiting(9), [Some(3), None, Some(5)]);
        assert_eq!(history.waiting(2), [None, Some(5)]);
        let age = history.age(2, now + 2 * SECOND);
        assert_eq!(age, SECOND);
    }

    #[test]
    fn only_the_waits_of_the_window_count() {
        let (mut history, now) = (History::new(SECOND), Instant::now());
        history.seen(&stats(0, 100), now);
        assert_eq!(history.waits().count, 0);
        history.seen(&stats(0, 130), now + WINDOW);
        assert_eq!(history.waits().count, 30);
        history.seen(&stats(0, 131), now + WINDOW + SECOND);
        assert_eq!(history.waits().count, 1);
    }

    #[test]
    fn a_server_that_began_anew_counts_from_nothing() {
        let (mut history, now) = (History::new(SECOND), Instant::now());
        history.seen(&stats(0, 100), now);
        history.seen(&stats(0, 7), now + SECOND);
        assert_eq!(history.waits().count, 7);
    }

    #[test]
    fn looks_out_of_turn_are_no_samples_of_their_own() {
        let (mut history, now) = (History::new(SECOND), Instant::now());
        history.seen(&stats(1, 0), now);
        history.seen(&stats(2, 0), now + SECOND / 10);
        history.seen(&stats(3, 0), now + SECOND);
        assert_eq!(history.waiting(9), [Some(2), Some(3)]);
    }
}
