//! The arguments of ACQUIRE, which ACQUIREANY shares.

use crate::decimal::{number, signed_number};
use crate::error::CommandError;
use crate::request::options::{flag, is, once, value};
use crate::request::{NUMBER_MAX, lease_option, owner};
use crate::state::settings::{KEEP_MAX_MS, PRIORITY_MAX, PRIORITY_MIN};

/// The longest SHARE, in bytes.
const SHARE_MAX: usize = 256;

/// `GPULOCK.ACQUIRE key owner [EX s | PX ms] [BLOCK ms] [UNIQUE [KEEP ms]] [SESSION [GRACE ms]]
/// [PRIORITY n] [SHARE name]`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acquire<'a> {
    /// The owner.
    pub owner: &'a [u8],
    /// The requested lease, in ms; none: the default.
    pub lease_ms: Option<u64>,
    /// The owner's name identifies a single holder.
    pub unique: bool,
    /// How long the position is kept while the client is away, in ms; none: `place-keep`.
    pub keep_ms: Option<u64>,
    /// The wait timeout, in ms; 0: wait indefinitely; none: do not wait.
    pub block_ms: Option<u64>,
    /// Ties the lock to the connection, with this grace period in ms.
    pub session_grace_ms: Option<u64>,
    /// Moves the call ahead of others in its queues, or back if negative.
    pub priority: i64,
    /// The name of the share: calls of one share take turns with those of others.
    pub share: Option<&'a [u8]>,
}

impl<'a> Acquire<'a> {
    /// Parses the arguments.
    ///
    /// # Errors
    /// When the arguments are invalid.
    pub fn parse(args: impl Iterator<Item = &'a [u8]>) -> Result<Self, CommandError> {
        Self::parse_with(args, |_, _| Ok(false))
    }

    /// Parses the arguments of a command with additional options. `other` is called first for
    /// each word: it consumes the option's values and returns true if the word is one of those.
    pub(super) fn parse_with<I: Iterator<Item = &'a [u8]>>(
        mut args: I,
        mut other: impl FnMut(&[u8], &mut I) -> Result<bool, CommandError>,
    ) -> Result<Self, CommandError> {
        let owner = owner(&mut args)?;
        let (mut lease_ms, mut block_ms) = (None, None);
        let (mut unique, mut keep_ms) = (false, None);
        let (mut session, mut grace_ms) = (false, None);
        let (mut priority, mut share) = (None, None);
        while let Some(word) = args.next() {
            if other(word, &mut args)? {
            } else if let Some(ms) = lease_option(word, &mut args)? {
                once(&mut lease_ms, ms)?;
            } else if is(word, "BLOCK") {
                once(&mut block_ms, number(value(&mut args)?, "BLOCK", 0, NUMBER_MAX)?)?;
            } else if is(word, "UNIQUE") {
                flag(&mut unique)?;
            } else if is(word, "KEEP") {
                once(&mut keep_ms, number(value(&mut args)?, "KEEP", 0, KEEP_MAX_MS)?)?;
            } else if is(word, "SESSION") {
                flag(&mut session)?;
            } else if is(word, "GRACE") {
                once(&mut grace_ms, number(value(&mut args)?, "GRACE", 0, NUMBER_MAX)?)?;
            } else if is(word, "PRIORITY") {
                once(&mut priority, priority_value(value(&mut args)?)?)?;
            } else if is(word, "SHARE") {
                once(&mut share, share_value(value(&mut args)?)?)?;
            } else {
                return Err(CommandError::Syntax);
            }
        }
        let lacks_session = grace_ms.is_some() && !session;
        let lacks_unique = keep_ms.is_some() && !unique;
        if lacks_session || lacks_unique {
            return Err(CommandError::Syntax);
        }
        let session_grace_ms = session.then(|| grace_ms.unwrap_or(0));
        let priority = priority.unwrap_or(0);
        Ok(Self {
            owner,
            lease_ms,
            unique,
            keep_ms,
            block_ms,
            session_grace_ms,
            priority,
            share,
        })
    }
}

fn priority_value(digits: &[u8]) -> Result<i64, CommandError> {
    signed_number(digits, "PRIORITY", PRIORITY_MIN, PRIORITY_MAX)
}

fn share_value(share: &[u8]) -> Result<&[u8], CommandError> {
    match share.len() {
        1..=SHARE_MAX => Ok(share),
        _ => Err(CommandError::Share),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::tests::args;

    #[test]
    fn options_are_accepted_in_any_order_and_case() {
        let expected = Acquire {
            owner: b"me",
            lease_ms: Some(5_000),
            unique: true,
            ..Acquire::default()
        };
        for line in ["me EX 5 UNIQUE", "me unique px 5000"] {
            assert_eq!(Acquire::parse(args(line)), Ok(expected), "{line}");
        }
        let waits = Acquire::parse(args("me session BLOCK 9 grace 7")).unwrap();
        assert_eq!((waits.block_ms, waits.session_grace_ms), (Some(9), Some(7)));
        let turn =
            Acquire::parse(args("me share team keep 0 priority -5 unique")).unwrap();
        assert_eq!(
            (turn.share, turn.keep_ms, turn.priority),
            (Some(&b"team"[..]), Some(0), -5)
        );
    }

    #[test]
    #[rustfmt::skip]
    fn invalid_arguments_are_rejected() {
        for line in [
            "me EX", "me EX 1 PX 1", "me EX 1 EX 1", "me UNIQUE UNIQUE", "me XX", "me 5",
            "me GRACE 5", "me EX 1 TOKEN 1", "me KEEP 5", "me KEEP", "me SHARE", "me PRIORITY",
            "me SHARE a SHARE b", "me PRIORITY 1 PRIORITY 1", "me UNIQUE KEEP 1 KEEP 1",
        ] {
            assert_eq!(Acquire::parse(args(line)), Err(CommandError::Syntax), "{line}");
        }
        for line in [
            "me EX 0", "me PX -1", "me EX 1.5", "me PX x", "me BLOCK -1", "me PRIORITY 101",
            "me PRIORITY -101", "me PRIORITY 1.5", "me PRIORITY +1", "me UNIQUE KEEP -1",
            "me UNIQUE KEEP 3600001",
        ] {
            let error = Acquire::parse(args(line)).unwrap_err();
            assert!(matches!(error, CommandError::Number { .. }), "{line}: {error}");
        }
        assert_eq!(Acquire::parse([&b""[..]].into_iter()), Err(CommandError::Owner));
        assert_eq!(Acquire::parse([&[b'o'; 1025][..]].into_iter()), Err(CommandError::Owner));
        assert_eq!(Acquire::parse(args("")), Err(CommandError::Syntax));
    }

    #[test]
    fn a_share_has_1_to_256_bytes() {
        for (length, is_valid) in [(0, false), (1, true), (256, true), (257, false)] {
            let share = vec![b's'; length];
            let words = [b"me", &b"SHARE"[..], &share];
            let parsed = Acquire::parse(words.into_iter());
            assert_eq!(parsed.is_ok(), is_valid, "{length}");
            assert!(is_valid || parsed == Err(CommandError::Share));
        }
    }
}
