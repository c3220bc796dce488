//! Time: one reading of the wall clock for each command or event, passed in as an argument. The
//! core never reads a clock.

/// A reading of the server's wall clock, which leases depend on.
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

    /// Milliseconds from `past_ms` until now; 0 if the clock has been set back since.
    pub const fn ms_since(self, past_ms: u64) -> u64 {
        self.ms().saturating_sub(past_ms)
    }
}
