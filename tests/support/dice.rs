//! Random numbers that can be had again: the same seed, the same numbers (splitmix64).

pub(crate) struct Dice(u64);

impl Dice {
    /// Numbers from `GPULOCK_SEED`, else from the clock; the seed is shown when the test
    /// fails.
    pub(crate) fn new() -> Self {
        let given = std::env::var("GPULOCK_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let since = std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970");
            u64::from(since.subsec_nanos())
        });
        eprintln!("to repeat: GPULOCK_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).expect("below a usize")
    }

    /// One of several.
    pub(crate) fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}
