//! The counters of a server or of one lock, as numbers.

use std::collections::BTreeMap;

use gpulock_testkit::{Client, Value, call};

/// Numbers by name; a histogram is `hold_ms.count`, `hold_ms.sum`, `hold_ms.5` …
pub(crate) type Figures = BTreeMap<String, i64>;

/// What STATS says.
#[track_caller]
pub(crate) fn stats(client: &mut Client) -> Figures {
    flatten(&call!(client, "GPULOCK.STATS"))
}

/// An answer of STATS, its maps within maps laid flat.
#[track_caller]
pub(crate) fn flatten(answer: &Value) -> Figures {
    let mut figures = Figures::new();
    for (name, value) in answer.map() {
        if let Value::Int(number) = value {
            figures.insert(name, number);
            continue;
        }
        for part in ["count", "sum"] {
            figures.insert(format!("{name}.{part}"), value.field(part).int());
        }
        for (bound, count) in value.field("buckets").map() {
            figures.insert(format!("{name}.{bound}"), count.int());
        }
    }
    figures
}
