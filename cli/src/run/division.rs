//! Runs that divide the same GPUs differently: the keys that they use do not exclude each other.

use anyhow::{Result, bail};

use crate::connection::Connection;
use crate::human;
use crate::locks::{Lock, Targets, first_held, release};
use crate::run::session::Worker;

impl Worker {
    /// Releases the locks and fails if a run that divides the same GPUs differently uses one of
    /// them, as far as the keys reveal that. A run with slots and one without notice each other:
    /// both check after the grant, so at least one of two does. A run with fewer slots notices
    /// one with more slots only in those beyond its own number, and the latter notices nothing.
    ///
    /// # Errors
    /// If there is such a run. A `RedisError`: the check failed.
    pub(super) fn check_division(
        &self,
        connection: &mut Connection,
        targets: &Targets,
        locks: &[Lock],
    ) -> Result<()> {
        let foreign = targets.foreign_keys(locks);
        if foreign.is_empty() {
            return Ok(());
        }
        let Some((key, owner)) = first_held(connection, &foreign)? else { return Ok(()) };
        // Otherwise they end with the session.
        let _released =
            release(connection, &self.request.owner, locks, "divided differently");
        let owner = human::or_unknown(owner);
        bail!(
            "{key} is held by {owner}: all runs must divide the GPUs of a pool into the same \
             number of slots (--pool NAME/N)"
        );
    }
}
