//! Acquires the locks on the session's connection: a wait in slices, with retries after errors
//! that pass, and with a check of the granted GPUs.

use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use redis::{RedisError, RedisResult};

use crate::clock::{self, Moment};
use crate::connection::{Connection, is_connection_error};
use crate::exit;
use crate::locks::{Lock, Targets, extend, release};
use crate::replies::server_error;
use crate::run::Event;
use crate::run::holders;
use crate::run::session::Worker;
use crate::run::wait_budget::WaitBudget;

/// How long one ACQUIREANY call waits: shorter than the idle timeout of common proxies.
const SLICE: Duration = Duration::from_secs(20);

/// The same while GPUs are skipped: their memory is checked again between slices.
const SHORT_SLICE: Duration = Duration::from_secs(5);

/// How long a reply may take, in addition to the wait.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause before a retry after a connection error.
const PAUSE: Duration = Duration::from_millis(200);

/// Pause before a retry after an error reply.
const LONG_PAUSE: Duration = Duration::from_secs(1);

/// Granted locks. At the given moment their leases had not begun, or were renewed.
pub(super) type Grant = (Vec<Lock>, Moment);

/// How long the calls after the end of a wait may take.
const GIVE_UP_TIMEOUT: Duration = Duration::from_secs(1);

/// How an acquisition ends.
pub(super) enum Acquired {
    /// The locks are tied to this connection.
    Granted(Connection, Grant),
    /// The locks were not granted in time. Contains who holds them, if that is known.
    NotInTime(Option<String>),
    /// The run that started this one holds the locks.
    HeldByOuterRun,
    /// A signal stopped the wait.
    Stopped,
}

/// State of the wait, which goes on if the granted GPUs turn out to be unusable.
#[derive(Debug, Default)]
pub(super) struct Wait {
    /// A call waited or failed with an error that passes: the module and the permissions are
    /// there.
    has_begun: bool,
    /// The last error that was reported.
    reported: Option<String>,
}

impl Worker {
    /// Retries until the locks are granted, on a new connection after each error.
    pub(super) fn acquire(
        &mut self,
        targets: &mut Targets,
        budget: WaitBudget,
        wait: &mut Wait,
    ) -> Result<Acquired> {
        let mut connection = self.first_connection(budget, wait)?;
        if self.is_nested(&mut connection, budget) {
            return Ok(Acquired::HeldByOuterRun);
        }
        while !self.stop.is_set() {
            let slice = match self.acquire_slice(&mut connection, targets, budget) {
                Ok(Some(grant)) => {
                    match self.check_division(&mut connection, targets, &grant.0) {
                        Ok(()) => {
                            wait.has_begun = true;
                            return Ok(Acquired::Granted(connection, grant));
                        }
                        // The next attempt includes the granted locks, or they end with the
                        // session.
                        Err(error) => Err(error.downcast::<RedisError>()?),
                    }
                }
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            match slice {
                Ok(()) if budget.is_spent() => {
                    return Ok(self.give_up(&mut connection, budget));
                }
                Ok(()) => wait.has_begun = true,
                Err(error) if !is_temporary(&error, wait.has_begun) => {
                    return Err(server_error(error));
                }
                // With --no-wait the error is the result.
                Err(error) if budget.is_spent() && !wait.has_begun => {
                    return Err(server_error(error));
                }
                Err(_) if budget.is_spent() => return Ok(Acquired::NotInTime(None)),
                Err(error) => {
                    wait.has_begun = true;
                    let pause = self.pause_after(error, wait);
                    sleep(budget.slice(pause).unwrap_or_default());
                    match self.address.connect() {
                        Ok(new) => connection = new,
                        // The server is there, but rejects the connection.
                        Err(error) if !error.is::<RedisError>() => {
                            self.report_once(exit::message(&error), wait);
                        }
                        Err(_) => {}
                    }
                }
            }
        }
        Ok(Acquired::Stopped)
    }

    /// Retries if an earlier call on another connection has succeeded.
    fn first_connection(&self, budget: WaitBudget, wait: &Wait) -> Result<Connection> {
        loop {
            let connection = self.address.connect();
            let is_retried = connection.is_err() && wait.has_begun;
            if !is_retried || budget.is_spent() || self.stop.is_set() {
                return connection;
            }
            sleep(budget.slice(PAUSE).unwrap_or_default());
        }
    }

    /// Gives up the position, which the last call has kept in case that another one follows, and
    /// finds the holders of the locks. The wait has ended, whether these calls succeed or not.
    fn give_up(&self, connection: &mut Connection, budget: WaitBudget) -> Acquired {
        connection.with_timeout(GIVE_UP_TIMEOUT);
        let holders = holders::describe(connection, &self.original.keys);
        // Without a wait there is no position.
        if !matches!(budget, WaitBudget::NoWait) {
            let _kept_for_a_while = self.original.withdraw(connection);
        }
        Acquired::NotInTime(holders.unwrap_or_default())
    }

    /// The pause after a temporary error. Reports each error reply once.
    fn pause_after(&self, error: RedisError, wait: &mut Wait) -> Duration {
        if is_connection_error(&error) {
            return PAUSE;
        }
        self.report_once(server_error(error).to_string(), wait);
        LONG_PAUSE
    }

    fn report_once(&self, why: String, wait: &mut Wait) {
        if wait.reported.as_ref() != Some(&why) {
            self.send(Event::Note(format!("{why}; retrying")));
            wait.reported = Some(why);
        }
    }

    /// Waits for one slice. If a granted GPU is unusable, releases the locks and tries again
    /// with the others.
    fn acquire_slice(
        &mut self,
        connection: &mut Connection,
        targets: &mut Targets,
        budget: WaitBudget,
    ) -> RedisResult<Option<Grant>> {
        let are_enough = targets.limit_to_usable(&mut self.request);
        let slice = budget.slice(match targets.has_skipped() {
            true => SHORT_SLICE,
            false => SLICE,
        });
        if !are_enough {
            sleep(slice.unwrap_or_default().min(PAUSE));
            return Ok(None);
        }
        let sent = clock::now();
        let timeout = slice.unwrap_or_default().saturating_add(REPLY_TIMEOUT);
        let granted = self.request.acquire(connection.with_timeout(timeout), slice)?;
        let Some(mut locks) = granted else { return Ok(None) };
        connection.with_timeout(REPLY_TIMEOUT);
        let unusable = targets.skip_unusable(&locks);
        if unusable.is_empty() {
            let surplus = targets.split_off_surplus(&mut locks);
            release(connection, &self.request.owner, &surplus, "not needed")?;
            return self.confirm(connection, locks, sent);
        }
        self.release_unusable(connection, &locks, unusable)?;
        self.acquire_slice(connection, targets, budget)
    }

    /// Releases locks because some of their GPUs are unusable, and reports the reasons.
    pub(super) fn release_unusable(
        &self,
        connection: &mut Connection,
        locks: &[Lock],
        reasons: Vec<String>,
    ) -> RedisResult<()> {
        release(connection, &self.request.owner, locks, "unusable GPU")?;
        reasons.into_iter().for_each(|why| self.send(Event::Note(why)));
        Ok(())
    }

    /// Returns the grant with a moment before its lease began. After a wait, or a slow check of
    /// the GPUs, that moment may be long past: a lease that is renewed anyway is renewed first.
    /// None: it has expired.
    fn confirm(
        &self,
        connection: &mut Connection,
        locks: Vec<Lock>,
        sent: Moment,
    ) -> RedisResult<Option<Grant>> {
        let now = clock::now();
        let is_recent = now.saturating_sub(sent) < self.request.lease / 10;
        if is_recent || !self.request.is_tied {
            return Ok(Some((locks, sent)));
        }
        let locks = extend(connection, &self.request.owner, &locks, self.request.lease)?;
        Ok(locks.map(|locks| (locks, now)))
    }
}

/// Whether a retry can succeed. READONLY counts only for a server that was a primary before:
/// it may become one again.
fn is_temporary(error: &RedisError, was_primary: bool) -> bool {
    const CODES: [&str; 10] = [
        "BUSY",
        "CLUSTERDOWN",
        "LOADING",
        "MASTERDOWN",
        "MAXWAITERS",
        "MISCONF",
        "NOREPLICAS",
        "OOM",
        "TRYAGAIN",
        "UNBLOCKED",
    ];
    let code = error.code().unwrap_or_default();
    is_connection_error(error)
        || CODES.contains(&code)
        || was_primary && code == "READONLY"
}
