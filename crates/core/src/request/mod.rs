//! Requests: the parsed arguments of each command. Parsing has no effect and looks nothing up.
//! The arguments start after the key, or after the command's name if it has no key in front.

mod acquire;
mod acquire_any;
pub(crate) mod options;

pub use acquire::Acquire;
pub use acquire_any::{AcquireAny, Groups, Keys, number_of_keys};

use crate::decimal::number;
use crate::error::CommandError;
use crate::report::glob::PATTERN_MAX;
use crate::request::options::{is, once, value};
use crate::state::key_state::is_valid_owner;
use crate::state::log::{Text, truncate};
use crate::state::token;

/// The longest REASON, in bytes.
const REASON_MAX: usize = 64;

/// The longest wait, lease and count: 2^53-1, so that clients that use doubles lose no digits.
const NUMBER_MAX: u64 = token::MAX;

/// The largest COUNT of METRICS.
const METRICS_COUNT_MAX: u64 = 1024;

/// The default COUNT of METRICS: a portion of 0.1 to 0.2 ms.
const METRICS_COUNT_DEFAULT: usize = 64;

/// `GPULOCK.RELEASE key owner [TOKEN n] [REASON text]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release<'a> {
    /// The owner.
    pub owner: &'a [u8],
    /// The token that the hold must have.
    pub token: Option<u64>,
    /// The reason, for the log and the event.
    pub reason: Text,
}

/// `GPULOCK.EXTEND key owner [EX s | PX ms] [TOKEN n]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extend<'a> {
    /// The owner.
    pub owner: &'a [u8],
    /// The new lease, in ms; none: the default.
    pub lease_ms: Option<u64>,
    /// The token that the hold must have.
    pub token: Option<u64>,
}

/// `GPULOCK.FORCERELEASE key [OWNER owner] [TOKEN n] [AFTER ms] [REASON text]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForceRelease<'a> {
    /// Release the lock only if this owner holds it.
    pub owner: Option<&'a [u8]>,
    /// Release the lock only if the hold has this token.
    pub token: Option<u64>,
    /// Give the holder notice: the hold ends in at most this time, in ms; none: it ends now.
    pub after_ms: Option<u64>,
    /// The reason, for the log and the event.
    pub reason: Text,
}

/// `GPULOCK.LIST [MATCH pattern] [LIMIT n]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List<'a> {
    /// List only keys that match this pattern.
    pub pattern: Option<&'a [u8]>,
    /// The maximum number of locks to list.
    pub limit: u64,
    /// List a portion of the locks, in no order, and begin here; 0: at the beginning.
    pub cursor: Option<u64>,
}

/// `GPULOCK.STATS [KEY key]`: the key, if given.
pub type Stats<'a> = Option<&'a [u8]>;

/// `GPULOCK.LOG [count [OFFSET n] | RESET]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// Return entries.
    Show {
        /// The maximum number; none: as many as one call may return.
        count: Option<u64>,
        /// The number of newer entries to skip.
        offset: u64,
    },
    /// Delete all entries.
    Reset,
}

/// `GPULOCK.METRICS [CURSOR cursor [COUNT n]]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metrics {
    /// Return everything in one text.
    Whole,
    /// Return a part of a walk over the locks.
    Portion {
        /// Where the portion begins; 0: a new walk.
        cursor: u64,
        /// The maximum number of locks with series of their own.
        count: usize,
    },
}

impl<'a> Release<'a> {
    /// Parses the arguments.
    ///
    /// # Errors
    /// When the arguments are invalid.
    pub fn parse(mut args: impl Iterator<Item = &'a [u8]>) -> Result<Self, CommandError> {
        let owner = owner(&mut args)?;
        let (mut token, mut reason) = (None, None);
        while let Some(word) = args.next() {
            if is(word, "TOKEN") {
                once(&mut token, token_value(&mut args)?)?;
            } else if is(word, "REASON") {
                once(&mut reason, reason_value(&mut args)?)?;
            } else {
                return Err(CommandError::Syntax);
            }
        }
        Ok(Self { owner, token, reason: reason.unwrap_or(Text::Borrowed(b"normal")) })
    }
}

impl<'a> Extend<'a> {
    /// Parses the arguments.
    ///
    /// # Errors
    /// When the arguments are invalid.
    pub fn parse(mut args: impl Iterator<Item = &'a [u8]>) -> Result<Self, CommandError> {
        let owner = owner(&mut args)?;
        let (mut lease_ms, mut token) = (None, None);
        while let Some(word) = args.next() {
            if let Some(ms) = lease_option(word, &mut args)? {
                once(&mut lease_ms, ms)?;
            } else if is(word, "TOKEN") {
                once(&mut token, token_value(&mut args)?)?;
            } else {
                return Err(CommandError::Syntax);
            }
        }
        Ok(Self { owner, lease_ms, token })
    }
}

impl<'a> ForceRelease<'a> {
    /// Parses the arguments.
    ///
    /// # Errors
    /// When the arguments are invalid.
    pub fn parse(mut args: impl Iterator<Item = &'a [u8]>) -> Result<Self, CommandError> {
        let (mut only_owner, mut token, mut after_ms, mut reason) =
            (None, None, None, None);
        while let Some(word) = args.next() {
            if is(word, "OWNER") {
                once(&mut only_owner, owner(&mut args)?)?;
            } else if is(word, "TOKEN") {
                once(&mut token, token_value(&mut args)?)?;
            } else if is(word, "AFTER") {
                let ms = number(value(&mut args)?, "AFTER", 1, NUMBER_MAX)?;
                once(&mut after_ms, ms)?;
            } else if is(word, "REASON") {
                once(&mut reason, reason_value(&mut args)?)?;
            } else {
                return Err(CommandError::Syntax);
            }
        }
        let reason = reason.unwrap_or(Text::Borrowed(b"forced"));
        Ok(Self { owner: only_owner, token, after_ms, reason })
    }
}

impl<'a> List<'a> {
    /// The default LIMIT.
    const DEFAULT_LIMIT: u64 = 1000;

    /// Parses the arguments.
    ///
    /// # Errors
    /// When the arguments are invalid.
    pub fn parse(mut args: impl Iterator<Item = &'a [u8]>) -> Result<Self, CommandError> {
        let (mut pattern, mut limit, mut cursor) = (None, None, None);
        while let Some(word) = args.next() {
            if is(word, "MATCH") {
                let text = value(&mut args)?;
                if text.len() > PATTERN_MAX {
                    return Err(CommandError::Pattern);
                }
                once(&mut pattern, text)?;
            } else if is(word, "LIMIT") {
                let n = number(value(&mut args)?, "LIMIT", 0, NUMBER_MAX)?;
                once(&mut limit, n)?;
            } else if is(word, "CURSOR") {
                once(&mut cursor, number(value(&mut args)?, "CURSOR", 0, NUMBER_MAX)?)?;
            } else {
                return Err(CommandError::Syntax);
            }
        }
        // A portion without locks would not get any further.
        if cursor.is_some() && limit == Some(0) {
            return Err(CommandError::Number {
                what: "LIMIT",
                min: 1,
                max: NUMBER_MAX.cast_signed(),
            });
        }
        Ok(Self { pattern, limit: limit.unwrap_or(Self::DEFAULT_LIMIT), cursor })
    }
}

/// Parses the arguments of STATS.
///
/// # Errors
/// When the arguments are invalid.
pub fn stats<'a>(
    mut args: impl Iterator<Item = &'a [u8]>,
) -> Result<Stats<'a>, CommandError> {
    match (args.next(), args.next(), args.next()) {
        (None, _, _) => Ok(None),
        (Some(word), Some(key), None) if is(word, "KEY") => Ok(Some(key)),
        _ => Err(CommandError::Syntax),
    }
}

/// Parses the arguments of METRICS.
///
/// # Errors
/// When the arguments are invalid.
pub fn metrics<'a>(
    mut args: impl Iterator<Item = &'a [u8]>,
) -> Result<Metrics, CommandError> {
    let (mut cursor, mut count) = (None, None);
    while let Some(word) = args.next() {
        if is(word, "CURSOR") {
            once(&mut cursor, number(value(&mut args)?, "CURSOR", 0, NUMBER_MAX)?)?;
        } else if is(word, "COUNT") {
            let n = number(value(&mut args)?, "COUNT", 1, METRICS_COUNT_MAX)?;
            once(&mut count, n)?;
        } else {
            return Err(CommandError::Syntax);
        }
    }
    let count = count.map(|count| usize::try_from(count).unwrap_or(usize::MAX));
    match (cursor, count) {
        (None, None) => Ok(Metrics::Whole),
        (None, Some(_)) => Err(CommandError::Syntax),
        (Some(cursor), count) => {
            let count = count.unwrap_or(METRICS_COUNT_DEFAULT);
            Ok(Metrics::Portion { cursor, count })
        }
    }
}

/// Parses the arguments of LOG.
///
/// # Errors
/// When the arguments are invalid.
pub fn log<'a>(mut args: impl Iterator<Item = &'a [u8]>) -> Result<Log, CommandError> {
    let Some(first) = args.next() else {
        return Ok(Log::Show { count: None, offset: 0 });
    };
    let second = args.next();
    if is(first, "RESET") {
        return if second.is_none() { Ok(Log::Reset) } else { Err(CommandError::Syntax) };
    }
    let count = Some(number(first, "count", 0, NUMBER_MAX)?);
    let offset = match second {
        None => 0,
        Some(word) if is(word, "OFFSET") => {
            number(value(&mut args)?, "OFFSET", 0, NUMBER_MAX)?
        }
        Some(_) => return Err(CommandError::Syntax),
    };
    match args.next() {
        None => Ok(Log::Show { count, offset }),
        Some(_) => Err(CommandError::Syntax),
    }
}

fn owner<'a>(
    args: &mut impl Iterator<Item = &'a [u8]>,
) -> Result<&'a [u8], CommandError> {
    let owner = value(args)?;
    if is_valid_owner(owner) { Ok(owner) } else { Err(CommandError::Owner) }
}

/// The lease in ms when `word` is EX or PX.
fn lease_option<'a>(
    word: &[u8],
    args: &mut impl Iterator<Item = &'a [u8]>,
) -> Result<Option<u64>, CommandError> {
    const SECONDS_MAX: u64 = NUMBER_MAX / 1000;
    if is(word, "EX") {
        let seconds = number(value(args)?, "EX", 1, SECONDS_MAX)?;
        Ok(Some(seconds.saturating_mul(1000)))
    } else if is(word, "PX") {
        Ok(Some(number(value(args)?, "PX", 1, NUMBER_MAX)?))
    } else {
        Ok(None)
    }
}

fn token_value<'a>(
    args: &mut impl Iterator<Item = &'a [u8]>,
) -> Result<u64, CommandError> {
    number(value(args)?, "TOKEN", 1, token::MAX)
}

fn reason_value<'a>(
    args: &mut impl Iterator<Item = &'a [u8]>,
) -> Result<Text, CommandError> {
    let reason = value(args)?;
    if reason.len() > REASON_MAX {
        return Err(CommandError::Reason);
    }
    Ok(Text::Owned(truncate(reason).into_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn args(line: &str) -> impl Iterator<Item = &[u8]> {
        line.split(' ').filter(|word| !word.is_empty()).map(str::as_bytes)
    }

    #[test]
    fn options_are_accepted_in_any_order_and_case() {
        let release = Release::parse(args("me reason done token 7")).unwrap();
        assert_eq!((release.token, &release.reason[..]), (Some(7), &b"done"[..]));
    }

    #[test]
    fn a_notice_is_a_positive_number_of_milliseconds() {
        let after_ms = |line| ForceRelease::parse(args(line)).map(|it| it.after_ms);
        assert_eq!(after_ms(""), Ok(None));
        assert_eq!(after_ms("after 1"), Ok(Some(1)));
        assert_eq!(after_ms("AFTER 9007199254740991"), Ok(Some(NUMBER_MAX)));
        for value in ["0", "-1", "9007199254740992", "x", "1.5"] {
            let line = format!("AFTER {value}");
            let parsed = ForceRelease::parse(args(&line));
            assert!(
                matches!(parsed, Err(CommandError::Number { what: "AFTER", .. })),
                "{value}"
            );
        }
        for line in ["AFTER", "AFTER 1 AFTER 1"] {
            assert_eq!(after_ms(line), Err(CommandError::Syntax), "{line}");
        }
    }

    #[test]
    fn invalid_arguments_are_rejected() {
        assert_eq!(stats(args("KEY")), Err(CommandError::Syntax));
        assert_eq!(log(args("1 2")), Err(CommandError::Syntax));
        assert_eq!(metrics(args("COUNT 1")), Err(CommandError::Syntax));
        assert_eq!(metrics(args("CURSOR 0 CURSOR 0")), Err(CommandError::Syntax));
        assert!(matches!(log(args("all")), Err(CommandError::Number { .. })));
    }

    #[test]
    fn the_longest_pattern_is_1024_bytes() {
        let words = |n| [b"MATCH".to_vec(), vec![b'*'; n]];
        let (fits, long) = (words(1024), words(1025));
        assert!(List::parse(fits.iter().map(Vec::as_slice)).is_ok());
        assert_eq!(
            List::parse(long.iter().map(Vec::as_slice)),
            Err(CommandError::Pattern)
        );
    }

    #[test]
    fn the_longest_reason_is_64_bytes() {
        let words = |n| vec![b"me".to_vec(), b"REASON".to_vec(), vec![b'r'; n]];
        let (fits, long) = (words(64), words(65));
        assert!(Release::parse(fits.iter().map(Vec::as_slice)).is_ok());
        assert_eq!(
            Release::parse(long.iter().map(Vec::as_slice)),
            Err(CommandError::Reason)
        );
    }
}
