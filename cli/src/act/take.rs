//! Taking a lock away, from a certain hold where one is named. Who asks for it, and
//! whether they were asked twice, stands with the callers.

use anyhow::Result;
use redis::cmd;

use crate::connection::Connection;
use crate::replies::{Inspected, ask};
use crate::text::Text;

/// From whom: only what it names has to match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Guard {
    pub(crate) owner: Option<Text>,
    pub(crate) token: Option<u64>,
}

impl Guard {
    /// The very hold that a look has shown.
    pub(crate) fn of(lock: &Inspected) -> Self {
        Self { owner: lock.owner.clone(), token: lock.token }
    }

    /// Whether that is a hold which this guard means.
    pub(crate) fn admits(&self, lock: &Inspected) -> bool {
        let owner = self.owner.is_none() || self.owner == lock.owner;
        let token = self.token.is_none() || self.token == lock.token;
        owner && token
    }
}

/// Takes the lock, and answers from whom; none when nothing was taken.
///
/// # Errors
/// When the server does not answer, or refuses.
pub(crate) fn take(
    connection: &mut Connection,
    key: &Text,
    guard: &Guard,
    reason: Option<&Text>,
) -> Result<Option<Text>> {
    let mut command = cmd("GPULOCK.FORCERELEASE");
    command.arg(&key.0);
    if let Some(owner) = &guard.owner {
        command.arg("OWNER").arg(&owner.0);
    }
    if let Some(token) = guard.token {
        command.arg("TOKEN").arg(token);
    }
    if let Some(reason) = reason {
        command.arg("REASON").arg(&reason.0);
    }
    ask(connection, &command)
}
