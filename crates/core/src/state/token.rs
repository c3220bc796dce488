//! Fencing tokens: numbers that increase with every grant of the server, over all locks, so that a
//! store can reject a writer whose lock has been granted to another owner since.

use crate::state::clock::Now;

/// The largest token: above it a double, and so JSON, Lua and JavaScript, cannot represent every
/// integer. Microseconds since 1970 reach it in the year 2255.
pub const MAX: u64 = (1 << 53) - 1;

/// How far ahead of the clock the tokens start, in microseconds. A server that was up for less
/// time, granted many locks and restarts with its clock behind must not start below the tokens that
/// it has granted.
const HEAD_START_US: u64 = 10_000_000;

/// The source of tokens. They need no storage: each is at least the time in microseconds, so they
/// increase over a restart as long as the clock does.
#[derive(Clone, Debug)]
pub struct Tokens {
    last: u64,
}

impl Tokens {
    /// The tokens of a server that starts to grant at `now`.
    pub fn new(now: Now) -> Self {
        let mut tokens = Self { last: 0 };
        tokens.begin(now);
        tokens
    }

    /// Moves ahead of the clock, and never below a granted token: at load, and when a replica
    /// becomes a primary.
    pub fn begin(&mut self, now: Now) {
        self.last = self.last.max(now.micros().saturating_add(HEAD_START_US));
    }

    /// The token of the next grant.
    pub fn next(&mut self, now: Now) -> u64 {
        #[cfg(feature = "break-rules")]
        if crate::broken::is("token-twice") && crate::broken::is_time() {
            return self.last;
        }
        self.last = self.last.saturating_add(1).max(now.micros()).min(MAX);
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_start_ten_seconds_ahead_and_increase_by_one_until_the_clock_catches_up() {
        let mut tokens = Tokens::new(Now::from_micros(1_000));
        assert_eq!(tokens.next(Now::from_micros(1_000)), 10_001_001);
        assert_eq!(tokens.next(Now::from_micros(1_000)), 10_001_002);
        assert_eq!(tokens.next(Now::from_micros(20_000_000)), 20_000_000);
    }

    #[test]
    fn tokens_increase_when_the_clock_is_set_back() {
        let mut tokens = Tokens::new(Now::from_micros(50_000_000));
        let before = tokens.next(Now::from_micros(90_000_000));
        assert_eq!(tokens.next(Now::from_micros(1)), before + 1);
        tokens.begin(Now::from_micros(1));
        assert_eq!(tokens.next(Now::from_micros(1)), before + 2);
    }
}
