//! The rule that is broken on purpose, only in a test build (feature `break-rules`): the checker of
//! `crates/chaos` must be seen to detect a broken rule.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

static BROKEN: LazyLock<String> =
    LazyLock::new(|| std::env::var("GPULOCK_BROKEN").unwrap_or_default());

static CALLS: AtomicU64 = AtomicU64::new(0);

/// How many times a rule is kept before it is broken.
const OFTEN: u64 = 50;

/// Whether `rule` is the one that `GPULOCK_BROKEN` names.
pub fn is(rule: &str) -> bool {
    *BROKEN == rule
}

/// Whether it is time to break it.
pub fn is_time() -> bool {
    CALLS.fetch_add(1, Ordering::Relaxed) % OFTEN == OFTEN - 1
}
