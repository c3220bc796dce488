//! Random numbers that can be repeated: the same seed yields the same numbers.

use fastrand::Rng;

/// A generator seeded from `GPULOCK_SEED`, else at random. The seed is printed when the test
/// fails.
pub(crate) fn seeded_rng() -> Rng {
    let given = std::env::var("GPULOCK_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| u64::from(fastrand::u32(..)));
    eprintln!("to repeat: GPULOCK_SEED={seed}");
    Rng::with_seed(seed)
}

/// Picks an element at random.
pub(crate) trait Pick {
    fn pick<T: Clone>(&mut self, from: &[T]) -> T;
}

impl Pick for Rng {
    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.usize(..from.len())].clone()
    }
}
