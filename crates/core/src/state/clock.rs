//! Time as the rules see it: one reading of the wall clock for each event, passed in.
//! Nothing here reads a clock.

/// A reading of the wall clock. Leases are kept by the server's wall clock, so ours is
/// the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    micros: u64,
}

impl Now {
    /// The time `micros` microseconds after the Unix epoch.
    pub const fn from_micros(micros: u64) -> Self {
        Self { micros }
    }

    /// The time `ms` milliseconds after the Unix epoch.
    pub const fn from_ms(ms: u64) -> Self {
        Self { micros: ms.saturating_mul(1000) }
    }

    /// Microseconds since the Unix epoch.
    pub const fn micros(self) -> u64 {
        self.micros
    }

    /// Whole milliseconds since the Unix epoch.
    pub const fn ms(self) -> u64 {
        self.micros / 1000
    }

    /// Milliseconds from `past_ms` until now; 0 when the clock was stepped back since.
    pub const fn ms_since(self, past_ms: u64) -> u64 {
        self.ms().saturating_sub(past_ms)
    }
}
