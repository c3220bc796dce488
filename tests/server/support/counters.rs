//! The counters of a server or of one lock, as numbers.

use std::collections::BTreeMap;

use gpulock_testkit::{Client, Value, call};

/// Numbers by name; a histogram is `hold_ms.count`, `hold_ms.sum`, `hold_ms.5` …
pub(crate) type Counters = BTreeMap<String, i64>;

/// The reply of STATS.
#[track_caller]
pub(crate) fn stats(client: &mut Client) -> Counters {
    flatten(&call!(client, "GPULOCK.STATS"))
}

/// A reply of STATS with its nested maps flattened.
#[track_caller]
pub(crate) fn flatten(reply: &Value) -> Counters {
    let mut counters = Counters::new();
    for (name, value) in reply.map() {
        if let Value::Int(number) = value {
            counters.insert(name, number);
            continue;
        }
        for part in ["count", "sum"] {
            counters.insert(format!("{name}.{part}"), value.field(part).int());
        }
        for (bound, count) in value.field("buckets").map() {
            counters.insert(format!("{name}.{bound}"), count.int());
        }
    }
    counters
}
