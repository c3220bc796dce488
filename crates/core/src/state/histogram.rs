//! Histograms of times in milliseconds, with the bounds of the contract: 1, 2, 5, 10, …

/// Upper bounds of the buckets, in ms; one more bucket takes what is above the last.
pub const BOUNDS_MS: [u64; 21] = [
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000,
    100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000,
];

/// How often, how much in all, and how the values spread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    count: u64,
    sum: u64,
    /// Values of each bucket alone; what is above the last bound is only in `count`.
    buckets: [u64; BOUNDS_MS.len()],
}

impl Histogram {
    /// Counts a value.
    pub fn record(&mut self, ms: u64) {
        self.count = self.count.saturating_add(1);
        self.sum = self.sum.saturating_add(ms);
        let bucket = BOUNDS_MS.iter().position(|&bound| ms <= bound);
        if let Some(slot) = bucket.and_then(|index| self.buckets.get_mut(index)) {
            *slot = slot.saturating_add(1);
        }
    }

    /// How many values.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The sum of all values, in ms.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// Each bound with the number of values at or below it; the last (`None`) is +Inf.
    pub fn cumulative(&self) -> impl Iterator<Item = (Option<u64>, u64)> + '_ {
        let below =
            BOUNDS_MS.iter().zip(&self.buckets).scan(0u64, |total, (bound, n)| {
                *total = total.saturating_add(*n);
                Some((Some(*bound), *total))
            });
        below.chain(std::iter::once((None, self.count)))
    }

    /// Takes a part out of a total.
    pub fn subtract(&mut self, write: &Histogram) {
        self.count = self.count.saturating_sub(write.count);
        self.sum = self.sum.saturating_sub(write.sum);
        for (mine, theirs) in self.buckets.iter_mut().zip(&write.buckets) {
            *mine = mine.saturating_sub(*theirs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_is_in_its_bucket_and_what_is_above_all_only_in_inf() {
        let mut histogram = Histogram::default();
        for ms in [0, 1, 2, 3, 5_000_000, 5_000_001] {
            histogram.record(ms);
        }
        let counts: Vec<_> = histogram.cumulative().collect();
        assert_eq!(counts[..3], [(Some(1), 2), (Some(2), 3), (Some(5), 4)]);
        assert_eq!(counts[20], (Some(5_000_000), 5));
        assert_eq!(counts[21], (None, 6));
        assert_eq!((histogram.count(), histogram.sum()), (6, 10_000_007));
    }
}
