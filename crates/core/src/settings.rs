//! What the rules are set to: names, defaults and ranges of the configuration, once, for
//! `redis.conf`, module arguments and `CONFIG` alike. How a server is told of them is not
//! in here.

use crate::fault::Fault;
use crate::options::number;

/// The longest lease that can be configured: ten years, in milliseconds.
const TEN_YEARS_MS: u64 = 315_360_000_000;

/// The longest prefix of the event channel, in bytes.
pub const CHANNEL_PREFIX_MAX: usize = 256;

/// Which events are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Events {
    /// None.
    Off,
    /// The end of every hold.
    Release,
    /// Ends and grants.
    All,
}

impl Events {
    /// The names that the configuration knows, in the order of their values.
    pub const NAMES: [(&'static str, Events); 3] =
        [("off", Events::Off), ("release", Events::Release), ("all", Events::All)];
}

/// The settings in force.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Lease in ms when none is asked for; cut to `max_lease` when used.
    pub default_lease: u64,
    /// Longest lease in ms that may be asked for.
    pub max_lease: u64,
    /// Longest time in ms a lock may be held in all; 0: no limit.
    pub max_hold: u64,
    /// Time in ms after which a held lock is logged once; 0: never.
    pub warn_hold: u64,
    /// Most waiters of the whole server.
    pub max_waiters: u64,
    /// How long in ms the place of a UNIQUE waiter is kept while it is away.
    pub place_keep: u64,
    /// The number of locks that counters of their own are kept for.
    pub tracked_keys: u64,
    /// Entries of the log.
    pub log_len: u64,
    /// Which events are published.
    pub events: Events,
    /// What stands before the key in the name of an event's channel.
    pub channel_prefix: Vec<u8>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            default_lease: 600_000,
            max_lease: 86_400_000,
            max_hold: 0,
            warn_hold: 0,
            max_waiters: 10_000,
            place_keep: 10_000,
            tracked_keys: 1024,
            log_len: 128,
            events: Events::Release,
            channel_prefix: b"gpu_lock:".to_vec(),
        }
    }
}

/// A numeric setting: its name without the module's prefix, its range, its place.
#[derive(Debug)]
pub struct Number {
    /// As in `gpulock.<name>`.
    pub name: &'static str,
    /// Smallest value.
    pub min: u64,
    /// Largest value.
    pub max: u64,
    /// Reads it.
    pub get: fn(&Settings) -> u64,
    /// Where it is written.
    pub slot: fn(&mut Settings) -> &mut u64,
}

impl Number {
    /// Reads a value as the server reads numbers.
    ///
    /// # Errors
    /// When it is no integer, or out of the range.
    pub fn read(&self, digits: &[u8]) -> Result<u64, Fault> {
        number(digits, self.name, self.min, self.max)
    }
}

macro_rules! numbers {
    ($($name:literal $field:ident $min:literal ..= $max:expr),* $(,)?) => {
        /// Every numeric setting.
        pub const NUMBERS: &[Number] = &[$(Number {
            name: $name,
            min: $min,
            max: $max,
            get: |settings| settings.$field,
            slot: |settings| &mut settings.$field,
        }),*];
    };
}

numbers! {
    "default-lease" default_lease 1 ..= TEN_YEARS_MS,
    "max-lease" max_lease 1 ..= TEN_YEARS_MS,
    "max-hold" max_hold 0 ..= TEN_YEARS_MS,
    "warn-hold" warn_hold 0 ..= TEN_YEARS_MS,
    "max-waiters" max_waiters 0 ..= 1_000_000,
    "place-keep" place_keep 0 ..= 3_600_000,
    "tracked-keys" tracked_keys 0 ..= 100_000,
    "log-len" log_len 0 ..= 100_000,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_within_its_range() {
        let settings = Settings::default();
        for number in NUMBERS {
            let value = (number.get)(&settings);
            assert!((number.min..=number.max).contains(&value), "{}", number.name);
        }
    }
}
