//! The name of a pool, and into how many slots the pool divides each GPU: `gpus`, `gpus/8`.

use std::ops::RangeInclusive;

use anyhow::{Context, Result, ensure};

/// How many slots a GPU may have. A GPU without slots is a single lock.
pub(crate) const SLOTS: RangeInclusive<u16> = 2..=64;

/// The maximum length of a name in bytes: GPULOCK_KEYS may have 1024 keys with the name, and the
/// kernel limits a variable to 128 KiB.
const MAX_LENGTH: usize = 48;

/// The name of a pool with its division.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PoolName {
    pub(super) name: String,
    /// None: the GPUs are not divided.
    pub(super) slots: Option<u16>,
}

/// Parses `NAME` or `NAME/N`.
///
/// # Errors
/// If the name cannot be part of a key, or the number of slots is out of range.
pub(super) fn pool_name(text: &str) -> Result<PoolName> {
    let (name, slots) = match text.split_once('/') {
        None => (text, None),
        Some((name, slots)) => (name, Some(self::slots(slots)?)),
    };
    ensure!(
        (1..=MAX_LENGTH).contains(&name.len()),
        "the name must have 1 to {MAX_LENGTH} bytes"
    );
    // Braces would change the hash tag of the keys, and a comma would split GPULOCK_KEYS.
    let is_valid =
        |character: char| !character.is_control() && !"{},".contains(character);
    ensure!(
        name.chars().all(is_valid),
        "the name must not contain braces, commas or control characters"
    );
    Ok(PoolName { name: name.to_owned(), slots })
}

fn slots(text: &str) -> Result<u16> {
    let slots = text.parse().ok().filter(|slots| SLOTS.contains(slots));
    slots.with_context(|| {
        let (min, max) = (SLOTS.start(), SLOTS.end());
        format!("expected NAME or NAME/N, with N slots for each GPU: {min} to {max}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_divide_the_gpus() -> Result<()> {
        let named = |name: &str, slots| PoolName { name: name.to_owned(), slots };
        assert_eq!(pool_name("gpus")?, named("gpus", None));
        assert_eq!(pool_name("my gpus/8")?, named("my gpus", Some(8)));
        assert_eq!(pool_name("\u{6771}/64")?, named("\u{6771}", Some(64)));
        Ok(())
    }

    #[test]
    fn names_that_break_keys_and_other_divisions_are_refused() {
        let long = "a".repeat(MAX_LENGTH + 1);
        for name in [
            &*long, "", "/8", "a{b", "a}", "a,b", "a\n", "a/", "a/0", "a/1", "a/65",
            "a/8/2", "a/-2", "a/eight",
        ] {
            assert!(pool_name(name).is_err(), "{name}");
        }
    }
}
