//! Which rule is broken on purpose, in a build for tests alone (feature `break-rules`): what
//! is to find a broken rule (`crates/chaos`) must be seen to find it. Nothing else is here,
//! and nothing of it is in a build without the feature.

use std::sync::LazyLock;

static BROKEN: LazyLock<String> =
    LazyLock::new(|| std::env::var("GPULOCK_BROKEN").unwrap_or_default());

/// Whether this is the one that `GPULOCK_BROKEN` names.
pub fn is(rule: &str) -> bool {
    *BROKEN == rule
}
