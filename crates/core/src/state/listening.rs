//! Whether the server calls the module before each command, and how many commands it has heard of.
//! When to listen is decided in `rules/silence.rs`.

use crate::state::clock::Now;

/// More commands than this in a [`WINDOW_MS`]: the server is busy. Probing costs less than
/// listening then.
const BUSY_COMMANDS: u32 = 20;

/// How long commands are counted for, in ms.
const WINDOW_MS: u64 = 100;

/// How long a server counts as busy, in ms.
const BUSY_MS: u64 = 1_000;

/// The commands heard of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listening {
    is_on: bool,
    /// The number of commands in this window.
    commands: u32,
    /// When the window began, in ms since the epoch.
    window_ms: u64,
    /// Until when the server counts as busy, in ms since the epoch.
    busy_until_ms: u64,
}

impl Listening {
    /// Whether the server calls the module before each command.
    pub fn is_on(self) -> bool {
        self.is_on
    }

    /// Starts or stops.
    pub(crate) fn set(&mut self, is_on: bool) {
        self.is_on = is_on;
    }

    /// Counts a command.
    pub(crate) fn count_command(&mut self) {
        self.commands = self.commands.saturating_add(1);
    }

    /// Whether the server executes so many commands that listening to each costs too much.
    pub(crate) fn is_busy(&mut self, now: Now) -> bool {
        let is_busy = self.commands > BUSY_COMMANDS;
        if is_busy {
            self.busy_until_ms = now.ms().saturating_add(BUSY_MS);
        }
        if is_busy || now.ms().abs_diff(self.window_ms) >= WINDOW_MS {
            (self.commands, self.window_ms) = (0, now.ms());
        }
        // Further ahead, the clock was stepped back.
        let left_ms = self.busy_until_ms.saturating_sub(now.ms());
        (1..=BUSY_MS).contains(&left_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_busy_for_a_second_after_more_than_20_commands_in_100_ms() {
        for (each_ms, is_busy) in [(1, true), (4, true), (5, false), (50, false)] {
            let mut listening = Listening::default();
            let mut was_busy = false;
            let mut ms = 5_000_000;
            for _ in 0..200 {
                listening.count_command();
                ms += each_ms;
                was_busy |= listening.is_busy(Now::from_ms(ms));
            }
            assert_eq!(was_busy, is_busy, "a command each {each_ms} ms");
        }
        let mut listening = Listening::default();
        let at = |ms: u64| Now::from_ms(5_000_000 + ms);
        (0..21).for_each(|_| listening.count_command());
        assert!(listening.is_busy(at(0)));
        assert!(listening.is_busy(at(999)));
        assert!(!listening.is_busy(at(1_000)));
        (0..21).for_each(|_| listening.count_command());
        assert!(listening.is_busy(at(1_000)));
        assert!(!listening.is_busy(Now::from_ms(4_000_000)), "the clock is stepped back");
    }
}
