//! The session: the connection that the locks are tied to, and the thread that owns it. The
//! thread acquires the locks ([`super::acquisition`]), then checks them regularly
//! ([`super::check`]), and ties them to a new connection ([`super::tie`]) within the grace period
//! when the connection breaks, or when the server no longer knows the session.

use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::clock::{self, Moment};
use crate::connection::Connection;
use crate::locks::{Lock, LockRequest, Targets};
use crate::run::Event;
use crate::run::acquisition::{Acquired, Wait};
use crate::run::adopted::Adopted;
use crate::run::check::{Check, Known, State};
use crate::run::last_look::{self, LastLook, Looker};
use crate::run::nested::OuterHold;
use crate::run::stop_flag::StopFlag;
use crate::run::tie::TieError;
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
    adopted: Adopted,
    /// None: the GPUs need not be looked at.
    last_look: Option<LastLook>,
}

/// State of the session's thread.
pub(super) struct Worker {
    pub(super) address: Address,
    /// Lacks the GPUs that are skipped.
    pub(super) request: LockRequest,
    /// With all GPUs.
    pub(super) original: LockRequest,
    pub(super) events: Sender<Event>,
    pub(super) stop: StopFlag,
    pub(super) adopted: Adopted,
    /// The runs around this one, the innermost first.
    pub(super) outer: Vec<OuterHold>,
    looker: Option<Looker>,
}

/// Result of an attempt to reconnect.
enum Reconnected {
    Yes(Box<Connection>),
    NotYet,
    /// The locks were lost or released.
    Never,
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
        let (stop, adopted) = (StopFlag::default(), Adopted::default());
        let (last_look, looker) = targets.checks_memory().then(last_look::pair).unzip();
        let worker = Worker {
            address: address.clone(),
            original: request.clone(),
            request,
            events,
            stop: stop.clone(),
            adopted: adopted.clone(),
            outer: OuterHold::all_of_environment(),
            looker,
        };
        let thread = thread::Builder::new().name("session".to_owned());
        let thread = thread.spawn(move || worker.run(targets, budget));
        let thread = thread.context("failed to start a thread")?;
        Ok(Self { thread, stop, adopted, last_look })
    }

    /// The flag that makes the thread stop acquiring the locks.
    pub(crate) fn stop_flag(&self) -> &StopFlag {
        &self.stop
    }

    /// The flag that makes the thread tie the locks to a connection again.
    pub(crate) fn adopted(&self) -> &Adopted {
        &self.adopted
    }

    /// Whether the granted GPUs are still usable. If not, the thread has released their locks,
    /// and acquires others.
    ///
    /// # Errors
    /// If the driver hangs.
    pub(crate) fn finds_usable_gpus(&self) -> Result<bool> {
        self.last_look.as_ref().map_or(Ok(true), LastLook::finds_usable)
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
        let mut wait = Wait::default();
        let (connection, locks, at) = loop {
            let acquired = self.acquire(&mut targets, budget, &mut wait);
            let (mut connection, (locks, at)) = match acquired {
                Ok(Acquired::Granted(connection, grant)) => (connection, grant),
                Ok(Acquired::NotInTime(holders)) => {
                    return self.send(Event::TimedOut(holders));
                }
                Ok(Acquired::HeldByOuterRun) => return self.send(Event::HeldByOuterRun),
                Ok(Acquired::Stopped) => return,
                Err(error) => return self.send(Event::Failed(error)),
            };
            self.send(Event::Granted(locks.clone(), at));
            if !self.request.is_tied {
                return;
            }
            if self.look_again(&mut connection, &locks, &mut targets) {
                break (connection, locks, at);
            }
        };
        self.request.keys = locks.iter().map(|lock| lock.key.clone()).collect();
        self.request.count = locks.len();
        self.request.groups = None;
        self.keep(connection, Known::granted(locks), at);
    }

    /// Looks at the granted GPUs again when the command is about to be started. False: they are
    /// no longer usable, and their locks are released.
    fn look_again(
        &self,
        connection: &mut Connection,
        locks: &[Lock],
        targets: &mut Targets,
    ) -> bool {
        let Some(looker) = &self.looker else { return true };
        if !looker.is_asked() {
            return true;
        }
        let unusable = targets.skip_unusable(locks);
        let is_usable = unusable.is_empty();
        // Before the call to the server, which may take longer than the asker waits.
        looker.answer(is_usable);
        if !is_usable {
            // After an error, the locks end with the session.
            let _released = self.release_unusable(connection, locks, unusable);
        }
        is_usable
    }

    /// Checks the locks until they are lost or released. Ties them to a new connection when the
    /// connection breaks or is silent for too long, and when they are no longer tied to it.
    fn keep(&self, mut connection: Connection, mut known: Known, granted: Moment) {
        let (mut last_reply, mut broken) = (granted, false);
        loop {
            let interval = self.check_interval();
            sleep(if broken { interval.min(RECONNECT_PAUSE) } else { interval });
            let sent = clock::now();
            if !broken {
                match self.check(&mut connection, &known) {
                    Ok(Check::Held(state)) => {
                        last_reply = sent;
                        if !self.report(sent, state, &mut known) {
                            continue;
                        }
                    }
                    Ok(Check::Elsewhere) => {}
                    Ok(Check::Lost) => return self.send(Event::Lost),
                    Err(error) if error.is_timeout() => {
                        // The connection may still work.
                        if sent.saturating_sub(last_reply) < MAX_SILENCE {
                            continue;
                        }
                    }
                    Err(_) => {
                        broken = true;
                        self.send(Event::SessionBroken);
                    }
                }
            }
            match self.reconnect(&mut known) {
                Reconnected::Yes(new) => {
                    (connection, last_reply, broken) = (*new, sent, false)
                }
                // The locks may be tied to the new connection, which has ended.
                Reconnected::NotYet => broken |= known.is_doubtful,
                Reconnected::Never => return,
            }
        }
    }

    /// Reports the result of a check that was sent at `sent`. Returns whether the locks must be
    /// tied to a connection again.
    fn report(&self, sent: Moment, state: State, known: &mut Known) -> bool {
        // First, because it explains the shorter lease.
        if let Some(notice) = &state.notice
            && let Some(end) = known.new_notice(sent, notice)
        {
            self.send(Event::Revoked(end, notice.reason.clone()));
        }
        self.send(session_event(sent, &state, self.request.grace));
        state.is_untied
    }

    fn reconnect(&self, known: &mut Known) -> Reconnected {
        let Some(_not_stopped) = self.stop.delay() else { return Reconnected::Never };
        let was_adopted = self.adopted.take();
        let sent = clock::now();
        match self.tie(known) {
            Ok(connection) => {
                self.send(Event::Renewed(sent));
                self.send(Event::SessionAlive(sent, None));
                Reconnected::Yes(Box::new(connection))
            }
            Err(TieError::Lost) => {
                self.send(Event::Lost);
                Reconnected::Never
            }
            Err(TieError::Failed(why)) => {
                if was_adopted {
                    self.adopted.set();
                }
                self.send(Event::ServerError(why));
                Reconnected::NotYet
            }
        }
    }

    /// Short enough to notice a broken connection early in the grace period.
    pub(super) fn check_interval(&self) -> Duration {
        const MIN: Duration = Duration::from_millis(100);
        const MAX: Duration = Duration::from_secs(1);
        (self.request.grace / 10).clamp(MIN, MAX)
    }

    /// Short enough for several attempts within the grace period.
    pub(super) fn reconnect_timeout(&self) -> Duration {
        self.check_interval().saturating_mul(4)
    }

    pub(super) fn send(&self, event: Event) {
        // The receiver is gone when the run is over.
        let _gone = self.events.send(event);
    }
}

/// What a check that was sent at `sent` reveals about the session. A lock without a session that
/// ends within a grace period ends like one whose connection broke: this leaves the next tie its
/// time, before the command is terminated.
fn session_event(sent: Moment, state: &State, grace: Duration) -> Event {
    let ends_soon = state.lease_left.is_some_and(|left| left <= grace);
    match state.is_untied && ends_soon {
        true => Event::SessionBroken,
        false => Event::SessionAlive(sent, state.lease_left),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_in_its_grace_period_is_a_broken_session() {
        let event = |left, is_untied| {
            let left = Some(Duration::from_secs(left));
            let state = State { lease_left: left, is_untied, notice: None };
            session_event(Moment::ZERO, &state, Duration::from_secs(5))
        };
        assert!(matches!(event(4, true), Event::SessionBroken));
        // Adopted by the server, which keeps the lease.
        assert!(matches!(event(25, true), Event::SessionAlive(_, Some(_))));
        assert!(matches!(event(4, false), Event::SessionAlive(_, Some(_))));
    }
}
