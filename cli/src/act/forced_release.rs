//! A forced release, at once or after a notice, optionally only of a certain hold.

use std::time::Duration;

use anyhow::Result;
use redis::cmd;

use crate::clock;
use crate::connection::Connection;
use crate::replies::{Inspected, query};
use crate::text::Text;

/// What the lock's hold must match. None matches anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) owner: Option<Text>,
    pub(crate) token: Option<u64>,
}

impl Expected {
    /// Matches only the hold that INSPECT returned.
    pub(crate) fn exactly(lock: &Inspected) -> Self {
        Self { owner: lock.owner.clone(), token: lock.token }
    }

    pub(crate) fn matches(&self, lock: &Inspected) -> bool {
        let owner = self.owner.is_none() || self.owner == lock.owner;
        let token = self.token.is_none() || self.token == lock.token;
        owner && token
    }
}

/// Releases the lock by force, or gives its holder notice that the hold ends after `notice`.
/// Returns the owner; None if there is no such hold.
///
/// # Errors
/// If the server does not reply, or replies with an error.
pub(crate) fn force_release(
    connection: &mut Connection,
    key: &Text,
    expected: &Expected,
    notice: Option<Duration>,
    reason: Option<&Text>,
) -> Result<Option<Text>> {
    let mut command = cmd("GPULOCK.FORCERELEASE");
    command.arg(&key.0);
    if let Some(owner) = &expected.owner {
        command.arg("OWNER").arg(&owner.0);
    }
    if let Some(token) = expected.token {
        command.arg("TOKEN").arg(token);
    }
    if let Some(notice) = notice {
        command.arg("AFTER").arg(clock::millis(notice));
    }
    if let Some(reason) = reason {
        command.arg("REASON").arg(&reason.0);
    }
    query(connection, &command)
}
