//! The arguments of ACQUIREANY.

use std::ops::Range;

use smallvec::SmallVec;

use crate::decimal::number;
use crate::error::CommandError;
use crate::request::Acquire;
use crate::request::options::{is, once, value};

/// The maximum number of keys of one call.
const KEYS_MAX: u64 = 1024;

/// The longest tag of NEAR, in bytes.
const TAG_MAX: usize = 64;

/// The keys of one call. Those of a small pool need no allocation.
pub type Keys<'a> = SmallVec<[&'a [u8]; 8]>;

/// `GPULOCK.ACQUIREANY numkeys key [key …] owner [COUNT n [GROUPS m numgroups size [size …]]]
/// [NEAR tag] [the options of ACQUIRE]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcquireAny<'a> {
    /// The keys, in order of preference. Whether they differ is checked when they are looked up.
    pub keys: Keys<'a>,
    /// The number of locks to acquire: in all, or of each of several groups.
    pub count: usize,
    /// The keys stand group after group.
    pub groups: Option<Groups>,
    /// Prefer locks whose last hold had this tag.
    pub near: Option<&'a [u8]>,
    /// The owner, and the options of ACQUIRE.
    pub how: Acquire<'a>,
}

/// `GROUPS m numgroups size [size …]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    /// The number of groups to acquire locks of.
    pub wanted: usize,
    /// The number of keys of each group. They add up to the number of keys of the call.
    pub sizes: SmallVec<[u16; 8]>,
}

impl<'a> AcquireAny<'a> {
    /// Parses the arguments, starting with `numkeys`.
    ///
    /// # Errors
    /// When the arguments are invalid.
    pub fn parse(mut args: impl Iterator<Item = &'a [u8]>) -> Result<Self, CommandError> {
        let numkeys = number_of_keys(value(&mut args)?)?;
        let keys: Keys<'_> = args.by_ref().take(numkeys).collect();
        if keys.len() < numkeys {
            return Err(CommandError::FewKeys);
        }
        let (mut count, mut groups, mut near) = (None, None, None);
        let count_max = u64::try_from(numkeys).unwrap_or(KEYS_MAX);
        let how = Acquire::parse_with(args, |word, args| {
            if is(word, "COUNT") {
                once(&mut count, number(value(args)?, "COUNT", 1, count_max)?)?;
            } else if is(word, "GROUPS") {
                once(&mut groups, Groups::parse(args, count_max)?)?;
            } else if is(word, "NEAR") {
                once(&mut near, tag_value(value(args)?)?)?;
            } else {
                return Ok(false);
            }
            Ok(true)
        })?;
        if groups.is_some() && count.is_none() {
            return Err(CommandError::Syntax);
        }
        let count = usize::try_from(count.unwrap_or(1)).unwrap_or(usize::MAX);
        if let Some(groups) = &groups {
            groups.check(numkeys, count)?;
        }
        Ok(Self { keys, count, groups, near, how })
    }
}

impl AcquireAny<'_> {
    /// The number of locks to acquire in all.
    pub fn wants(&self) -> usize {
        let groups = self.groups.as_ref().map_or(1, |groups| groups.wanted);
        self.count.saturating_mul(groups)
    }
}

impl Groups {
    fn parse<'a>(
        args: &mut impl Iterator<Item = &'a [u8]>,
        numkeys: u64,
    ) -> Result<Self, CommandError> {
        let wanted = value(args)?;
        let groups = number(value(args)?, "numgroups", 1, numkeys)?;
        let wanted = number(wanted, "GROUPS", 1, groups)?;
        let size = |_| {
            let size = number(value(args)?, "size", 1, numkeys)?;
            Ok(u16::try_from(size).unwrap_or(u16::MAX))
        };
        let sizes = (0..groups).map(size).collect::<Result<_, CommandError>>()?;
        Ok(Self { wanted: usize::try_from(wanted).unwrap_or(usize::MAX), sizes })
    }

    /// The indexes of the keys of each group.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        self.sizes.iter().scan(0, |end, size| {
            let start = *end;
            *end = usize::saturating_add(start, usize::from(*size));
            Some(start..*end)
        })
    }

    /// Checks that the sizes add up to the number of keys, and that enough groups are large enough
    /// for `count` locks.
    fn check(&self, numkeys: usize, count: usize) -> Result<(), CommandError> {
        let sizes = self.sizes.iter().map(|size| usize::from(*size));
        if sizes.clone().fold(0, usize::saturating_add) != numkeys {
            return Err(CommandError::GroupSizes);
        }
        match sizes.filter(|size| *size >= count).count() < self.wanted {
            true => Err(CommandError::SmallGroups),
            false => Ok(()),
        }
    }
}

/// Parses the `numkeys` of ACQUIREANY.
///
/// # Errors
/// When it is not an integer, or out of range.
pub fn number_of_keys(digits: &[u8]) -> Result<usize, CommandError> {
    let keys = number(digits, "numkeys", 1, KEYS_MAX)?;
    Ok(usize::try_from(keys).unwrap_or(usize::MAX))
}

fn tag_value(tag: &[u8]) -> Result<&[u8], CommandError> {
    match tag.len() {
        1..=TAG_MAX => Ok(tag),
        _ => Err(CommandError::Tag),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::tests::args;

    fn parse(line: &str) -> Result<AcquireAny<'_>, CommandError> {
        AcquireAny::parse(args(line))
    }

    #[test]
    fn groups_are_parsed_with_their_sizes() {
        let call =
            parse("5 a b c d e me NEAR llama COUNT 2 GROUPS 2 2 3 2 UNIQUE").unwrap();
        let groups = call.groups.unwrap();
        assert_eq!((call.count, groups.wanted, &groups.sizes[..]), (2, 2, &[3, 2][..]));
        assert_eq!((call.near, call.how.unique), (Some(&b"llama"[..]), true));
    }

    #[test]
    #[rustfmt::skip]
    fn invalid_groups_are_rejected() {
        let number = |what, min, max| CommandError::Number { what, min, max };
        for (line, error) in [
            ("2 a b me GROUPS 1 1 2", CommandError::Syntax),
            ("2 a b me COUNT 1 GROUPS", CommandError::Syntax),
            ("2 a b me COUNT 1 GROUPS 1", CommandError::Syntax),
            ("2 a b me COUNT 1 GROUPS 1 2 1", CommandError::Syntax),
            ("2 a b me COUNT 1 GROUPS 1 1 2 GROUPS 1 1 2", CommandError::Syntax),
            ("2 a b me COUNT 1 GROUPS 0 1 2", number("GROUPS", 1, 1)),
            ("2 a b me COUNT 1 GROUPS 3 2 1 1", number("GROUPS", 1, 2)),
            ("2 a b me COUNT 1 GROUPS 1 0", number("numgroups", 1, 2)),
            ("2 a b me COUNT 1 GROUPS 1 3 1 1 1", number("numgroups", 1, 2)),
            ("2 a b me COUNT 1 GROUPS 1 2 2 0", number("size", 1, 2)),
            ("2 a b me COUNT 1 GROUPS 1 2 1 UNIQUE", number("size", 1, 2)),
            ("2 a b me COUNT 1 GROUPS 1 2 2 2", CommandError::GroupSizes),
            ("3 a b c me COUNT 1 GROUPS 1 2 1 1", CommandError::GroupSizes),
            ("3 a b c me COUNT 2 GROUPS 2 2 2 1", CommandError::SmallGroups),
            ("3 a b c me COUNT 3 GROUPS 1 2 2 1", CommandError::SmallGroups),
        ] {
            assert_eq!(parse(line), Err(error), "{line}");
        }
    }

    #[test]
    fn a_tag_has_1_to_64_bytes() {
        for (length, is_valid) in [(0, false), (1, true), (64, true), (65, false)] {
            let tag = vec![b't'; length];
            let words = [b"1", &b"a"[..], b"me", b"NEAR", &tag];
            let parsed = AcquireAny::parse(words.into_iter());
            assert_eq!(parsed.is_ok(), is_valid, "{length}");
            assert!(is_valid || parsed == Err(CommandError::Tag));
        }
    }
}
