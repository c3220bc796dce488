//! Histograms of durations in milliseconds, with the bounds 1, 2, 5, 10, …

/// The upper bounds of the buckets, in ms. One more bucket has the values above the last bound.
pub const BOUNDS_MS: [u64; 21] = [
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000,
    100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000,
];

/// The count, the sum and the distribution of values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    count: u64,
    sum: u64,
    /// The number of values in each bucket, not cumulative. Values above the last bound are only in
    /// `count`.
    buckets: [u64; BOUNDS_MS.len()],
}

impl Histogram {
    /// Counts a value.
    pub fn record(&mut self, ms: u64) {
        self.count = self.count.saturating_add(1);
        self.sum = self.sum.saturating_add(ms);
        let bucket = BOUNDS_MS.iter().position(|&bound| ms <= bound);
        if let Some(count) = bucket.and_then(|index| self.buckets.get_mut(index)) {
            *count = count.saturating_add(1);
        }
    }

    /// The number of values.
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

    /// Adds the values of a part.
    pub(crate) fn add(&mut self, part: &Histogram) {
        self.count = self.count.saturating_add(part.count);
        self.sum = self.sum.saturating_add(part.sum);
        for (total, part) in self.buckets.iter_mut().zip(&part.buckets) {
            *total = total.saturating_add(*part);
        }
    }

    /// Subtracts a part of the total.
    pub fn subtract(&mut self, part: &Histogram) {
        self.count = self.count.saturating_sub(part.count);
        self.sum = self.sum.saturating_sub(part.sum);
        for (total, part) in self.buckets.iter_mut().zip(&part.buckets) {
            *total = total.saturating_sub(*part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_inclusive_and_larger_values_are_only_in_inf() {
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
