//! The reply of `GPULOCK.STATS` as Rust types, and percentiles of its histograms.
//! docs/commands.md describes the counters.

use std::fmt;

use anyhow::{Context, Result};
use redis::{FromRedisValue, Value, cmd};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::connection::Connection;
use crate::human::Span;
use crate::replies::{Fields, query};

/// The counters of the server, or of one lock.
#[derive(Clone, Debug)]
pub(crate) struct Stats {
    /// In the server's order.
    pub(crate) counters: Vec<(String, u64)>,
    pub(crate) wait_ms: Histogram,
    pub(crate) hold_ms: Histogram,
}

/// A histogram of times.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub(crate) struct Histogram {
    pub(crate) count: u64,
    pub(crate) sum: u64,
    #[serde(serialize_with = "as_map")]
    buckets: Vec<Bucket>,
}

/// The number of values at or below a bound; of all values if there is no bound.
#[derive(Clone, Debug)]
struct Bucket {
    up_to_ms: Option<u64>,
    count: u64,
}

/// An estimate of a percentile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Estimate {
    /// At most this many milliseconds.
    AtMost(u64),
    /// More than this many milliseconds, the last bound.
    Over(u64),
}

/// The counters of the server, or of a lock; None if the server keeps none for this key.
pub(crate) fn stats(
    connection: &mut Connection,
    key: Option<&[u8]>,
) -> Result<Option<Stats>> {
    let mut stats = cmd("GPULOCK.STATS");
    if let Some(key) = key {
        stats.arg("KEY").arg(key);
    }
    match query(connection, &stats)? {
        Value::Nil => Ok(None),
        stats => Stats::read(stats).map(Some),
    }
}

impl Stats {
    /// A counter by its name; 0 if the server does not have it.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.counters.iter().find(|(other, _)| other == name).map_or(0, |(_, n)| *n)
    }

    fn read(stats: Value) -> Result<Self> {
        let histograms = ["wait_ms", "hold_ms"];
        let all: Vec<(String, Value)> = pairs(stats.clone())?;
        let counters = all
            .into_iter()
            .filter(|(name, _)| !histograms.contains(&name.as_str()))
            .map(|(name, value)| Ok((name, u64::from_redis_value(value)?)))
            .collect::<Result<_>>()?;
        let fields = Fields::of(stats)?;
        let [wait_ms, hold_ms] = histograms;
        Ok(Self {
            counters,
            wait_ms: Histogram::read(fields.get(wait_ms)?)?,
            hold_ms: Histogram::read(fields.get(hold_ms)?)?,
        })
    }
}

impl Histogram {
    fn read(histogram: Value) -> Result<Self> {
        let fields = Fields::of(histogram)?;
        let buckets: Vec<(String, u64)> = pairs(fields.get("buckets")?)?;
        Ok(Self {
            count: fields.get("count")?,
            sum: fields.get("sum")?,
            buckets: buckets.into_iter().map(Bucket::read).collect::<Result<_>>()?,
        })
    }

    /// An estimate of a percentile; None if there are no values.
    pub(crate) fn percentile(&self, percent: u64) -> Option<Estimate> {
        let rank = u128::from(self.count) * u128::from(percent);
        let reached = |bucket: &&Bucket| u128::from(bucket.count) * 100 >= rank;
        let bucket = self.buckets.iter().filter(|_| self.count > 0).find(reached)?;
        let last = || self.buckets.iter().rev().find_map(|bucket| bucket.up_to_ms);
        match bucket.up_to_ms {
            Some(ms) => Some(Estimate::AtMost(ms)),
            None => last().map(Estimate::Over),
        }
    }

    /// The mean in milliseconds; None if there are no values.
    pub(crate) const fn mean_ms(&self) -> Option<u64> {
        self.sum.checked_div(self.count)
    }

    /// The values added since an earlier reply; all of them if the histogram was reset.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let before = |bucket: &Bucket| {
            let same = |other: &&Bucket| other.up_to_ms == bucket.up_to_ms;
            earlier.buckets.iter().find(same).map_or(0, |bucket| bucket.count)
        };
        let less = |bucket: &Bucket| {
            let count = bucket.count.checked_sub(before(bucket))?;
            Some(Bucket { up_to_ms: bucket.up_to_ms, count })
        };
        let difference = || {
            Some(Self {
                count: self.count.checked_sub(earlier.count)?,
                sum: self.sum.checked_sub(earlier.sum)?,
                buckets: self.buckets.iter().map(less).collect::<Option<_>>()?,
            })
        };
        difference().unwrap_or_else(|| self.clone())
    }
}

impl Bucket {
    fn read((bound, count): (String, u64)) -> Result<Self> {
        let up_to_ms = match &*bound {
            "+Inf" => None,
            ms => Some(
                ms.parse().with_context(|| format!("invalid reply: bucket {ms:?}"))?,
            ),
        };
        Ok(Self { up_to_ms, count })
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(ms) => write!(out, "\u{2264} {}", Span(*ms)),
            Self::Over(ms) => write!(out, "> {}", Span(*ms)),
        }
    }
}

impl Serialize for Stats {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(self.counters.len() + 2))?;
        for (name, value) in &self.counters {
            map.serialize_entry(name, value)?;
        }
        map.serialize_entry("wait_ms", &self.wait_ms)?;
        map.serialize_entry("hold_ms", &self.hold_ms)?;
        map.end()
    }
}

fn as_map<S: Serializer>(buckets: &[Bucket], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(buckets.iter().map(|bucket| {
        let bound = bucket.up_to_ms.map_or("+Inf".to_owned(), |ms| ms.to_string());
        (bound, bucket.count)
    }))
}

/// A map in a reply, in its order.
fn pairs<T: FromRedisValue>(map: Value) -> Result<Vec<(String, T)>> {
    Vec::from_redis_value(map).context("invalid reply: expected a map")
}

#[cfg(test)]
impl Histogram {
    /// A histogram with these numbers of values in each bucket; the last bound is `+Inf`.
    pub(crate) fn of(values: &[(u64, u64)], beyond: u64) -> Self {
        let mut buckets = Vec::new();
        let mut count = 0;
        for (bound, values) in values {
            count += values;
            buckets.push(Bucket { up_to_ms: Some(*bound), count });
        }
        count += beyond;
        buckets.push(Bucket { up_to_ms: None, count });
        let sum = values.iter().map(|(bound, values)| bound * values).sum();
        Self { count, sum, buckets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_bound_of_its_bucket() {
        let histogram = Histogram::of(&[(1, 50), (2, 40), (5, 9)], 1);
        assert_eq!(histogram.percentile(50), Some(Estimate::AtMost(1)));
        assert_eq!(histogram.percentile(51), Some(Estimate::AtMost(2)));
        assert_eq!(histogram.percentile(90), Some(Estimate::AtMost(2)));
        assert_eq!(histogram.percentile(99), Some(Estimate::AtMost(5)));
        assert_eq!(histogram.percentile(100), Some(Estimate::Over(5)));
    }

    #[test]
    fn an_empty_histogram_has_no_percentile_and_no_mean() {
        let nothing = Histogram::of(&[(1, 0), (2, 0)], 0);
        assert_eq!(nothing.percentile(50), None);
        assert_eq!(nothing.mean_ms(), None);
    }

    #[test]
    fn since_counts_new_values_and_all_after_a_reset() {
        let earlier = Histogram::of(&[(1, 100), (2, 0)], 0);
        let later = Histogram::of(&[(1, 101), (2, 9)], 0);
        let since = later.since(&earlier);
        assert_eq!(since.count, 10);
        assert_eq!(since.percentile(10), Some(Estimate::AtMost(1)));
        assert_eq!(since.percentile(50), Some(Estimate::AtMost(2)));
        assert_eq!(earlier.since(&later).count, 100);
    }

    #[test]
    fn both_protocols_are_parsed_alike_and_keep_the_order() {
        let text = |text: &str| Value::BulkString(text.into());
        let flat = |pairs: Vec<(Value, Value)>| {
            Value::Array(pairs.into_iter().flat_map(|(a, b)| [a, b]).collect())
        };
        let read = |map: &dyn Fn(Vec<(Value, Value)>) -> Value| {
            let buckets =
                map(vec![(text("1"), Value::Int(2)), (text("+Inf"), Value::Int(3))]);
            let histogram = map(vec![
                (text("count"), Value::Int(3)),
                (text("sum"), Value::Int(9)),
                (text("buckets"), buckets),
            ]);
            let stats = map(vec![
                (text("releases"), Value::Int(7)),
                (text("acquired"), Value::Int(8)),
                (text("wait_ms"), histogram.clone()),
                (text("hold_ms"), histogram),
            ]);
            serde_json::to_string(&Stats::read(stats).unwrap()).unwrap()
        };
        let histogram = r#"{"count":3,"sum":9,"buckets":{"1":2,"+Inf":3}}"#;
        let expected = format!(
            r#"{{"releases":7,"acquired":8,"wait_ms":{histogram},"hold_ms":{histogram}}}"#
        );
        assert_eq!(read(&flat), expected);
        assert_eq!(read(&Value::Map), expected);
    }
}
