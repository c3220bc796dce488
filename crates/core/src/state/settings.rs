//! The settings: their names, defaults and ranges, for `redis.conf`, module arguments and `CONFIG`.
//! The module registers them with the server.

use crate::decimal::signed_number;
use crate::error::CommandError;

/// The longest lease that can be configured: ten years, in milliseconds.
const TEN_YEARS_MS: i64 = 315_360_000_000;

/// The longest channel prefix, in bytes.
pub const CHANNEL_PREFIX_MAX: usize = 256;

/// The longest time for which a position is kept, in ms.
pub const KEEP_MAX_MS: u64 = 3_600_000;

/// The lowest PRIORITY.
pub const PRIORITY_MIN: i64 = -100;
/// The highest PRIORITY, unless `max-priority` is lower.
pub const PRIORITY_MAX: i64 = 100;

/// The name of the setting that selects the published events.
pub const EVENTS: &str = "events";
/// The name of the setting with the prefix of event channels.
pub const CHANNEL_PREFIX: &str = "channel-prefix";

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
    /// Their names in the configuration, in the order of their values.
    pub const NAMES: [(&'static str, Events); 3] =
        [("off", Events::Off), ("release", Events::Release), ("all", Events::All)];
}

/// The settings in force.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The lease in ms of a call without EX or PX, up to `max_lease`.
    pub default_lease: u64,
    /// The longest lease that a call may request, in ms.
    pub max_lease: u64,
    /// The longest total hold, in ms; 0: no limit.
    pub max_hold: u64,
    /// The hold after which a lock is logged once, in ms; 0: never.
    pub warn_hold: u64,
    /// The largest number of waiting clients of the whole server, and of clients and kept positions
    /// together.
    pub max_waiters: u64,
    /// The number of grants in a round: by how many grants one step of PRIORITY, or one place of a
    /// SHARE, moves a call in its queue.
    pub round: u64,
    /// The highest PRIORITY that a call may request.
    pub max_priority: i64,
    /// The largest number of locks whose last tag is remembered.
    pub remembered_tags: u64,
    /// How long the position of a UNIQUE waiter is kept while it is away, in ms, without KEEP.
    pub place_keep: u64,
    /// The largest number of locks with their own counters.
    pub tracked_keys: u64,
    /// The largest number of log entries.
    pub log_len: u64,
    /// Which events are published.
    pub events: Events,
    /// The prefix of the channel of an event; the key follows it.
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
            round: 16,
            max_priority: PRIORITY_MAX,
            remembered_tags: 10_000,
            place_keep: 10_000,
            tracked_keys: 1024,
            log_len: 128,
            events: Events::Release,
            channel_prefix: b"gpu_lock:".to_vec(),
        }
    }
}

/// A numeric setting.
#[derive(Debug)]
pub struct Number {
    /// Its name without the prefix `gpulock.`.
    pub name: &'static str,
    /// The smallest value.
    pub min: i64,
    /// The largest value.
    pub max: i64,
    /// Its value.
    pub get: fn(&Settings) -> i64,
    /// Sets it to a value in its range.
    pub set: fn(&mut Settings, i64),
}

/// The type of a numeric setting.
trait Field: Sized {
    fn to_number(&self) -> i64;
    fn of_number(number: i64) -> Self;
}

impl Field for u64 {
    fn to_number(&self) -> i64 {
        i64::try_from(*self).unwrap_or(i64::MAX)
    }

    fn of_number(number: i64) -> Self {
        u64::try_from(number).unwrap_or(0)
    }
}

impl Field for i64 {
    fn to_number(&self) -> i64 {
        *self
    }

    fn of_number(number: i64) -> Self {
        number
    }
}

impl Number {
    /// Parses a value.
    ///
    /// # Errors
    /// When it is not an integer, or out of range.
    pub fn read(&self, digits: &[u8]) -> Result<i64, CommandError> {
        signed_number(digits, self.name, self.min, self.max)
    }
}

macro_rules! numbers {
    ($($name:literal $field:ident $min:expr, $max:expr),* $(,)?) => {
        /// Every numeric setting.
        pub const NUMBERS: &[Number] = &[$(Number {
            name: $name,
            min: $min,
            max: $max,
            get: |settings| settings.$field.to_number(),
            set: |settings, number| settings.$field = Field::of_number(number),
        }),*];
    };
}

numbers! {
    "default-lease" default_lease 1, TEN_YEARS_MS,
    "max-lease" max_lease 1, TEN_YEARS_MS,
    "max-hold" max_hold 0, TEN_YEARS_MS,
    "warn-hold" warn_hold 0, TEN_YEARS_MS,
    "max-waiters" max_waiters 0, 1_000_000,
    "round" round 1, 1_000_000,
    "max-priority" max_priority PRIORITY_MIN, PRIORITY_MAX,
    "remembered-tags" remembered_tags 0, 1_000_000,
    "place-keep" place_keep 0, 3_600_000,
    "tracked-keys" tracked_keys 0, 100_000,
    "log-len" log_len 0, 100_000,
}

impl Settings {
    /// Sets one setting by its name in module arguments or `redis.conf`, in any case.
    ///
    /// # Errors
    /// When the setting is unknown, or the value invalid.
    pub fn set(&mut self, name: &[u8], value: &[u8]) -> Result<(), String> {
        let original = || String::from_utf8_lossy(name).into_owned();
        let name = name.to_ascii_lowercase();
        let name = name.strip_prefix(b"gpulock.").unwrap_or(&name);
        let is_named = |number: &&Number| number.name.as_bytes() == name;
        if let Some(number) = NUMBERS.iter().find(is_named) {
            let value = number.read(value).map_err(|_| {
                let Number { min, max, .. } = number;
                format!("{} must be an integer from {min} to {max}", original())
            })?;
            (number.set)(self, value);
        } else if name == EVENTS.as_bytes() {
            let is_named =
                |(name, _): &&(&str, Events)| value.eq_ignore_ascii_case(name.as_bytes());
            let events = Events::NAMES.iter().find(is_named);
            let events = events
                .ok_or_else(|| format!("{} must be off, release or all", original()));
            self.events = events?.1;
        } else if name == CHANNEL_PREFIX.as_bytes() {
            if value.contains(&0) {
                return Err(format!("{} must not contain a NUL byte", original()));
            }
            self.channel_prefix = check_channel_prefix(value)?.to_vec();
        } else {
            return Err(format!("unknown setting {}", original()));
        }
        Ok(())
    }
}

/// Checks the length of a channel prefix.
///
/// # Errors
/// When it is too long.
pub fn check_channel_prefix(value: &[u8]) -> Result<&[u8], String> {
    if value.len() > CHANNEL_PREFIX_MAX {
        return Err(format!(
            "{CHANNEL_PREFIX} must be at most {CHANNEL_PREFIX_MAX} bytes long"
        ));
    }
    Ok(value)
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
