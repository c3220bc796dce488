//! Random decisions. All generators are seeded, so a seed reproduces them.

use fastrand::Rng;

/// True with a probability of `percent` in a hundred.
pub(crate) fn chance(rng: &mut Rng, percent: u64) -> bool {
    rng.u64(..100) < percent
}
