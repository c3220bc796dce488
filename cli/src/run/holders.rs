//! Which owners hold the locks that a run waits for, as text.

use std::time::Duration;

use anyhow::Result;
use humantime::format_duration;

use crate::connection::Connection;
use crate::locks::inspect_all;
use crate::replies::Inspected;
use crate::text::Text;

/// Maximum number of locks that are named individually.
pub(super) const MAX_SHOWN: usize = 4;

/// Maximum number of locks that are looked at to find those that are held.
const MAX_LOOKED_AT: usize = 32;

/// The first locks of these that are held or reserved: `gpu:0 is held by asr-7f3a for 3m 2s`.
/// None if there are no such locks.
///
/// # Errors
/// If the connection fails, or the user may not call INSPECT.
pub(super) fn describe(
    connection: &mut Connection,
    keys: &[Text],
) -> Result<Option<String>> {
    let keys = keys.get(..MAX_LOOKED_AT).unwrap_or(keys);
    let locks = inspect_all(connection, keys)?;
    let held = keys.iter().zip(locks).filter_map(|(key, lock)| Some((key, lock?)));
    let held = held.filter(|(_, lock)| {
        lock.owner.is_some() || lock.lease_ms.is_some() || lock.reserved_for.is_some()
    });
    let mut named: Vec<_> =
        held.map(|(key, lock)| format!("{key} is {}", holder(&lock))).collect();
    if named.len() > MAX_SHOWN {
        named.truncate(MAX_SHOWN);
        named.push("…".to_owned());
    }
    Ok(Some(named.join(", ")).filter(|text| !text.is_empty()))
}

/// `held by asr-7f3a for 3m 2s`.
pub(super) fn holder(lock: &Inspected) -> String {
    let since = lock.held_ms.map(|held| seconds(Duration::from_millis(held)));
    match (&lock.owner, since) {
        (Some(owner), Some(since)) => format!("held by {owner} for {since}"),
        (Some(owner), None) => format!("held by {owner}"),
        (None, _) => match &lock.reserved_for {
            Some(owner) => format!("reserved for {owner}"),
            None => "held".to_owned(),
        },
    }
}

/// Whole seconds: fractions would change faster than they can be read.
pub(super) fn seconds(time: Duration) -> String {
    format_duration(Duration::from_secs(time.as_secs())).to_string()
}
