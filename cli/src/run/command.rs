//! The command under its locks: starts it, supervises it, and releases the locks afterwards.

use std::sync::mpsc::{Receiver, Sender};
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;

use crate::clock::{self, Moment};
use crate::exit;
use crate::gpus::Gpu;
use crate::locks::{self, Lock, LockRequest, Variables};
use crate::replies::server_error;
use crate::run::check::is_elsewhere;
use crate::run::deadlines::LastContact;
use crate::run::ending::Ending;
use crate::run::environment::{self, Environment};
use crate::run::event_log::EventLog;
use crate::run::session::Session;
use crate::run::stderr::Stderr;
use crate::run::supervisor::{REVOKED, Supervisor};
use crate::run::watchdog::Watchdog;
use crate::run::{Args, Event, LOST, NOT_ACQUIRED, child, foreign_use, on_lost, renewal};
use crate::server::Address;
use crate::text::Text;

/// The reason in the release event of locks that are still held when another one was lost.
const OTHER_LOST: &str = "another lock was lost";

/// What does not change while the command runs.
pub(super) struct CommandRun<'a> {
    pub(super) address: &'a Address,
    pub(super) args: &'a Args,
    pub(super) request: LockRequest,
    pub(super) session: Session,
    pub(super) stderr: &'a Stderr,
    pub(super) log: &'a EventLog,
}

/// The granted locks.
pub(super) struct Granted {
    pub(super) locks: Vec<Lock>,
    /// A moment at which the leases had not begun, or were renewed.
    pub(super) at: Moment,
    /// Describes the locks to the command.
    pub(super) variables: Variables,
    /// The keys of the pool, with their GPUs.
    pub(super) gpus: Vec<(Text, Gpu)>,
}

/// Whether the command was started.
enum Started {
    Yes(Box<Supervisor>),
    /// The locks may be lost already, for example because this process was stopped after they
    /// were granted.
    Lost,
    /// The GPUs have too little free memory again. Their locks are released.
    NotUsable,
}

impl CommandRun<'_> {
    /// Runs the command to its end, and releases the locks. Returns how `gpulock` ends; None: the
    /// GPUs are no longer usable, and the session acquires others.
    ///
    /// # Errors
    /// If the command cannot be started.
    pub(super) fn run(
        &self,
        granted: &Granted,
        sender: &Sender<Event>,
        events: &Receiver<Event>,
    ) -> Result<Option<Ending>> {
        let env =
            environment::of(&self.request.owner, &granted.locks, &granted.variables);
        let Granted { locks, at, gpus, .. } = granted;
        let contact = LastContact::new(*at, self.request.lease, self.request.grace);
        let supervisor = match self.start(contact, locks, &env, sender) {
            Ok(Started::Yes(supervisor)) => {
                foreign_use::watch(locks, gpus, sender.clone());
                *supervisor
            }
            Ok(Started::Lost) => {
                self.release_remaining(locks, OTHER_LOST);
                self.stderr.info("the locks were lost before the command was started");
                return Ok(Some(Ending::Status(NOT_ACQUIRED)));
            }
            Ok(Started::NotUsable) => return Ok(None),
            Err(error) => {
                self.release(locks, "not started");
                return Err(error);
            }
        };
        let end = supervisor.run(events);
        self.log.set_command_status(end.status);
        let Some(lost) = end.lost else {
            self.release(locks, &release_reason(end.status));
            return Ok(Some(end.ending()));
        };
        let reason = if lost == REVOKED { REVOKED } else { OTHER_LOST };
        self.release_remaining(locks, reason);
        Ok(Some(self.run_on_lost(env, &lost, events)))
    }

    /// Runs `--on-lost`, if there is one.
    fn run_on_lost(
        &self,
        env: Environment,
        why: &str,
        events: &Receiver<Event>,
    ) -> Ending {
        let lost = Ending::Status(LOST);
        let Some(command) = &self.args.on_lost else { return lost };
        match on_lost::run(command, env, why, events) {
            Ok(interrupt) => interrupt.map_or(lost, Ending::Interrupted),
            Err(error) => {
                let why = exit::message(&error);
                self.stderr.error(&format!("failed to run --on-lost: {why}"));
                lost
            }
        }
    }

    /// Starts the watchdog, the renewal, and then the command.
    fn start(
        &self,
        contact: LastContact,
        locks: &[Lock],
        env: &Environment,
        sender: &Sender<Event>,
    ) -> Result<Started> {
        let LockRequest { owner, lease, .. } = &self.request;
        let deadlines = contact.deadlines();
        let watchdog = Watchdog::start(owner, deadlines.watchdog)?;
        let is_usable = self.session.finds_usable_gpus();
        if !matches!(is_usable, Ok(true)) {
            watchdog.dismiss();
            return is_usable.map(|_| Started::NotUsable);
        }
        let (stop, adopted) = (self.session.stop_flag(), self.session.adopted());
        let control = (stop.clone(), adopted.clone(), sender.clone());
        renewal::start(self.address, owner, locks, *lease, contact.renewed, control)?;
        if clock::now() >= deadlines.term {
            watchdog.dismiss();
            return Ok(Started::Lost);
        }
        let group = child::start(&self.args.command, env, deadlines.term)?;
        let (stderr, log) = (self.stderr.clone(), self.log.clone());
        let supervisor = Supervisor::of(group, watchdog, contact, stderr, log);
        Ok(Started::Yes(Box::new(supervisor)))
    }

    /// Releases the locks that are still held after one was lost.
    fn release_remaining(&self, locks: &[Lock], reason: &str) {
        const TIMEOUT: Duration = Duration::from_secs(1);
        self.session.stop_flag().set();
        let release = |mut connection| {
            let owner = &self.request.owner;
            let held = locks::still_held(&mut connection, owner, locks)?;
            let held: Vec<Lock> = held.into_iter().map(|held| held.lock).collect();
            // RELEASE of a lost lock would count as an ownership violation.
            Ok(locks::release(&mut connection, owner, &held, reason)?)
        };
        // The locks may be lost because the server is unreachable.
        let _unreachable = self.address.connect_within(TIMEOUT).and_then(release);
    }

    /// Releases the locks. During a role change no server may accept that: retries for as long
    /// as a broken connection may last.
    fn release(&self, locks: &[Lock], reason: &str) {
        const PAUSE: Duration = Duration::from_millis(200);
        self.session.stop_flag().set();
        let give_up_at = clock::now().saturating_add(self.request.grace);
        loop {
            let Err(error) = self.try_release(locks, reason) else { return };
            if clock::now() < give_up_at && error.downcast_ref().is_some_and(is_elsewhere)
            {
                sleep(PAUSE);
                continue;
            }
            let error = match error.downcast() {
                Ok(error) => server_error(error),
                Err(error) => error,
            };
            let why = exit::message(&error);
            return self.stderr.error(&format!(
                "failed to release the locks: {why}; they end with the session or the lease"
            ));
        }
    }

    fn try_release(&self, locks: &[Lock], reason: &str) -> Result<()> {
        let mut connection = self.address.connect()?;
        Ok(locks::release(&mut connection, &self.request.owner, locks, reason)?)
    }
}

/// The reason in the release event: `normal`, as without a reason, or the exit status.
fn release_reason(status: u8) -> String {
    match status {
        0 => "normal".to_owned(),
        status => format!("exit {status}"),
    }
}
