//! Fencing tokens: numbers that rise with every grant of the server, over all locks, so
//! that a store can turn away a writer whose lock has passed on to another.

use crate::clock::Now;

/// The largest token: above it a double, and so JSON, Lua and JavaScript, would no
/// longer tell neighbours apart. Microseconds since 1970 reach it in the year 2255.
pub const MAX: u64 = (1 << 53) - 1;

/// How far ahead of the clock the tokens begin, in microseconds: a process that was up
/// for less, granted many locks and came back with its clock behind must not begin
/// below what it handed out.
const HEAD_START_US: u64 = 10_000_000;

/// Where the tokens come from. They need no storage: each is at least the time in
/// microseconds, so they rise over a restart as long as the clock does.
#[derive(Clone, Debug)]
pub struct Tokens {
    last: u64,
}

impl Tokens {
    /// Tokens of a server that begins to grant at `now`.
    pub fn new(now: Now) -> Self {
        let mut tokens = Self { last: 0 };
        tokens.begin(now);
        tokens
    }

    /// Begins anew ahead of the clock, and never behind what was given: at load, and when
    /// a replica becomes the primary.
    pub fn begin(&mut self, now: Now) {
        self.last = self.last.max(now.micros().saturating_add(HEAD_START_US));
    }

    /// The token of the next grant.
    pub fn next(&mut self, now: Now) -> u64 {
        self.last = self.last.saturating_add(1).max(now.micros()).min(MAX);
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_begin_ten_seconds_ahead_and_rise_by_one_until_the_clock_is_there() {
        let mut tokens = Tokens::new(Now::from_micros(1_000));
        assert_eq!(tokens.next(Now::from_micros(1_000)), 10_001_001);
        assert_eq!(tokens.next(Now::from_micros(1_000)), 10_001_002);
        assert_eq!(tokens.next(Now::from_micros(20_000_000)), 20_000_000);
    }

    #[test]
    fn tokens_rise_when_the_clock_steps_back() {
        let mut tokens = Tokens::new(Now::from_micros(50_000_000));
        let before = tokens.next(Now::from_micros(90_000_000));
        assert_eq!(tokens.next(Now::from_micros(1)), before + 1);
        tokens.begin(Now::from_micros(1));
        assert_eq!(tokens.next(Now::from_micros(1)), before + 2);
    }
}
