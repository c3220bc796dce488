//! The session: the connection that the locks are tied to, and the thread that owns it. The
//! thread acquires the locks ([`super::acquisition`]), then checks them regularly, and
//! reconnects within the grace period when the connection breaks.

use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

use anyhow::{Context, Result};
use redis::RedisError;

use crate::clock::{self, Moment};
use crate::connection::{Connection, is_connection_error};
use crate::locks::Targets;
use crate::locks::{HeldLock, Lock, LockRequest, extend, still_held};
use crate::run::Event;
use crate::run::stop_flag::StopFlag;
use crate::run::wait_budget::WaitBudget;
use crate::server::Address;

/// How long the connection may be silent before a new one is tried.
const MAX_SILENCE: Duration = Duration::from_secs(5);

/// Pause between two attempts to reconnect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);

/// Timeout of [`Session::withdraw`].
const WITHDRAW_TIMEOUT: Duration = Duration::from_secs(1);

/// Handle of the session's thread.
#[derive(Debug)]
pub(crate) struct Session {
    thread: JoinHandle<()>,
    stop: StopFlag,
}

/// State of the session's thread.
pub(super) struct Worker {
    pub(super) address: Address,
    pub(super) request: LockRequest,
    pub(super) events: Sender<Event>,
    pub(super) stop: StopFlag,
}

/// The locks, with the tokens that distinguish this hold from a later one of the same owner.
struct Known {
    locks: Vec<Lock>,
    /// A call that could re-acquire the locks got no reply, and may still take effect.
    is_doubtful: bool,
}

/// Result of a check of the locks.
enum Check {
    /// They are held. Contains the shortest remaining lease, if the server reported it.
    Held(Option<Duration>),
    Lost,
}

/// Result of an attempt to reconnect.
enum Reconnected {
    Yes(Box<Connection>),
    NotYet,
    /// The locks were lost or released.
    Never,
}

/// Why the locks were not tied to a new connection.
enum RetieError {
    Lost,
    Failed(anyhow::Error),
}

impl Session {
    /// Starts the thread.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(crate) fn start(
        address: &Address,
        request: LockRequest,
        targets: Targets,
        budget: WaitBudget,
        events: Sender<Event>,
    ) -> Result<Self> {
        let stop = StopFlag::default();
        let worker =
            Worker { address: address.clone(), request, events, stop: stop.clone() };
        let thread = thread::Builder::new().name("session".to_owned());
        let thread = thread.spawn(move || worker.run(targets, budget));
        Ok(Self { thread: thread.context("failed to start a thread")?, stop })
    }

    /// The flag that makes the thread stop acquiring the locks.
    pub(crate) fn stop_flag(&self) -> &StopFlag {
        &self.stop
    }

    /// Ends the wait, and releases what was granted in the meantime. Gives up quickly if the
    /// server does not reply: the user is waiting, and the server ends the wait with the
    /// connection.
    ///
    /// # Errors
    /// If the server does not reply.
    pub(crate) fn withdraw(
        &self,
        address: &Address,
        request: &LockRequest,
    ) -> Result<()> {
        const ROUNDS: usize = 5;
        const PAUSE: Duration = Duration::from_millis(20);
        self.stop.set();
        let mut connection = address.connect_within(WITHDRAW_TIMEOUT)?;
        // The thread may send one more request after the flag is set.
        for _ in 0..ROUNDS {
            request.withdraw(&mut connection)?;
            if self.thread.is_finished() {
                break;
            }
            sleep(PAUSE);
        }
        Ok(())
    }
}

impl Worker {
    fn run(mut self, mut targets: Targets, budget: WaitBudget) {
        match self.acquire(&mut targets, budget) {
            Ok(Some((connection, (locks, at)))) => {
                self.request.keys = locks.iter().map(|lock| lock.key.clone()).collect();
                self.request.count = locks.len();
                self.request.groups = None;
                self.send(Event::Granted(locks.clone(), at));
                self.keep(connection, Known { locks, is_doubtful: false }, at);
            }
            Ok(None) => self.send(Event::TimedOut),
            Err(error) => self.send(Event::Failed(error)),
        }
    }

    /// Checks the locks until they are lost or released. Reconnects when the connection breaks
    /// or is silent for too long.
    fn keep(&self, mut connection: Connection, mut known: Known, granted: Moment) {
        let (mut last_reply, mut broken) = (granted, false);
        loop {
            let interval = self.check_interval();
            sleep(if broken { interval.min(RECONNECT_PAUSE) } else { interval });
            let sent = clock::now();
            if !broken {
                match self.check(&mut connection, &known) {
                    Ok(Check::Held(lease_left)) => {
                        last_reply = sent;
                        self.send(Event::SessionAlive(sent, lease_left));
                    }
                    Ok(Check::Lost) => return self.send(Event::Lost),
                    Err(error) => broken = !is_timeout(&error),
                }
                if broken {
                    self.send(Event::SessionBroken);
                } else if sent.saturating_sub(last_reply) < MAX_SILENCE {
                    continue;
                }
            }
            match self.reconnect(&mut known) {
                Reconnected::Yes(new) => {
                    (connection, last_reply, broken) = (*new, sent, false)
                }
                Reconnected::NotYet => {}
                Reconnected::Never => return,
            }
        }
    }

    /// Checks that the server still reports the locks as ours, with the same tokens: those
    /// change with a restart of the server, which breaks the connection. An error reply (no
    /// permission for INSPECT) still proves that the connection works.
    fn check(&self, connection: &mut Connection, known: &Known) -> Result<Check> {
        connection.with_timeout(self.check_interval());
        match still_held(connection, &self.request.owner, &known.locks) {
            Ok(held) if held.len() < known.locks.len() => Ok(Check::Lost),
            Ok(held) if held.iter().any(HeldLock::has_other_token) => Ok(Check::Lost),
            Ok(held) => {
                Ok(Check::Held(held.iter().filter_map(|held| held.lease_left).min()))
            }
            Err(error) if error.downcast_ref().is_some_and(is_connection_error) => {
                Err(error)
            }
            Err(_) => Ok(Check::Held(None)),
        }
    }

    fn reconnect(&self, known: &mut Known) -> Reconnected {
        let Some(_not_stopped) = self.stop.delay() else { return Reconnected::Never };
        let sent = clock::now();
        match self.retie(known) {
            Ok(connection) => {
                self.send(Event::Renewed(sent));
                self.send(Event::SessionAlive(sent, None));
                Reconnected::Yes(Box::new(connection))
            }
            Err(RetieError::Lost) => {
                self.send(Event::Lost);
                Reconnected::Never
            }
            Err(RetieError::Failed(why)) => {
                self.send(Event::ServerError(why));
                Reconnected::NotYet
            }
        }
    }

    /// Renews the locks, which grants nothing, then ties them to a new connection, which may
    /// grant them again. The locks count as lost if the second call returns other tokens than
    /// the first: that is a new grant. The first call may return new tokens (the server was
    /// restarted), unless an earlier tie got no reply: that one may have been the new grant.
    fn retie(&self, known: &mut Known) -> Result<Connection, RetieError> {
        let mut connection = self.address.connect_within(self.reconnect_timeout())?;
        let LockRequest { owner, lease, .. } = &self.request;
        let renewed = extend(&mut connection, owner, &known.locks, *lease)?;
        let renewed = renewed.ok_or(RetieError::Lost)?;
        if known.is_doubtful && renewed != known.locks {
            return Err(RetieError::Lost);
        }
        known.locks = renewed;
        let tied = self.request.acquire(&mut connection, None);
        known.is_doubtful |= tied.as_ref().is_err_and(is_connection_error);
        match tied? {
            Some(tied) if tied == known.locks => {
                known.is_doubtful = false;
                Ok(connection)
            }
            _ => Err(RetieError::Lost),
        }
    }

    /// Short enough to notice a broken connection early in the grace period.
    fn check_interval(&self) -> Duration {
        const MIN: Duration = Duration::from_millis(100);
        const MAX: Duration = Duration::from_secs(1);
        (self.request.grace / 10).clamp(MIN, MAX)
    }

    /// Short enough for several attempts within the grace period.
    fn reconnect_timeout(&self) -> Duration {
        self.check_interval().saturating_mul(4)
    }

    pub(super) fn send(&self, event: Event) {
        // The receiver is gone when the run is over.
        let _gone = self.events.send(event);
    }
}

impl From<RedisError> for RetieError {
    fn from(error: RedisError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<anyhow::Error> for RetieError {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

/// Whether the reply timed out; the connection may still work.
fn is_timeout(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(RedisError::is_timeout)
}
