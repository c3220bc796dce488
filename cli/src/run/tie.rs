//! Ties the locks to a new connection: after the connection broke, and after the server lost
//! its memory of the session in a restart or a role change.

use redis::RedisError;

use crate::clock;
use crate::connection::{Connection, is_connection_error};
use crate::locks::{HeldLock, Lock, LockRequest, extend, still_held};
use crate::run::Event;
use crate::run::check::Known;
use crate::run::session::Worker;

/// Why the locks were not tied to a new connection.
pub(super) enum TieError {
    Lost,
    Failed(anyhow::Error),
}

impl Worker {
    /// Renews the locks, which grants nothing, then ties them to a new connection, which may
    /// grant them again. That would be a new hold: another owner may have had the lock before.
    ///
    /// So the locks count as lost if the second call returns another token than the first,
    /// unless INSPECT shows that the server adopted exactly the hold with this token: then the
    /// key was ours when the second call was executed, and the role changed between the two.
    ///
    /// The first call may return another token than the known one. The server has adopted the
    /// lock then, because nothing but a tie can grant it to this owner, and no tie has been
    /// executed since the token was known. If an earlier tie got no reply, that is not certain:
    /// the locks count as lost.
    ///
    /// # Errors
    /// If the locks are lost, or a call fails.
    pub(super) fn tie(&self, known: &mut Known) -> Result<Connection, TieError> {
        let mut connection = self.address.connect_within(self.reconnect_timeout())?;
        let LockRequest { owner, lease, .. } = &self.request;
        let sent = clock::now();
        let renewed = extend(&mut connection, owner, &known.locks, *lease)?;
        let renewed = renewed.ok_or(TieError::Lost)?;
        if known.is_doubtful && renewed != known.locks {
            return Err(TieError::Lost);
        }
        known.locks = renewed;
        let tied = self.request.acquire(&mut connection, None);
        if tied.as_ref().is_err_and(is_connection_error) {
            known.is_doubtful = true;
            // The locks may be tied to this connection, which ends now. They were held when the
            // first call was sent, so the grace period has begun after that.
            self.send(Event::SessionAlive(sent, None));
            self.send(Event::SessionBroken);
        }
        let tied = tied?.ok_or(TieError::Lost)?;
        let mut others =
            tied.iter().filter(|lock| !known.locks.contains(lock)).peekable();
        if others.peek().is_some() && !self.are_adopted(&mut connection, others) {
            return Err(TieError::Lost);
        }
        known.locks = tied;
        known.is_doubtful = false;
        Ok(connection)
    }

    /// Whether the server reports these locks as adopted holds with exactly these tokens.
    fn are_adopted<'a>(
        &self,
        connection: &mut Connection,
        locks: impl Iterator<Item = &'a Lock>,
    ) -> bool {
        let locks: Vec<Lock> = locks.cloned().collect();
        let held = still_held(connection, &self.request.owner, &locks);
        held.is_ok_and(|held| {
            held.len() == locks.len() && held.iter().all(HeldLock::is_adopted_as_known)
        })
    }
}

impl From<RedisError> for TieError {
    fn from(error: RedisError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<anyhow::Error> for TieError {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}
