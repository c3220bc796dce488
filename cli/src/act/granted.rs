//! Locks that were granted for a reservation: prints the variables that describe them, or
//! releases them.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::mpsc::Receiver;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::act::reservation;
use crate::clock::{self, Moment};
use crate::human;
use crate::locks::{Lock, LockRequest, Variables, release, still_held};
use crate::run::environment::{self, Environment};
use crate::run::stderr::Stderr;
use crate::run::{Event, signals};
use crate::server::Address;

/// A hold that is this much shorter than requested is reported.
const TOLERANCE: Duration = Duration::from_secs(1);

/// Locks that were granted and are not published yet.
pub(super) struct Granted<'a> {
    pub(super) address: &'a Address,
    pub(super) request: &'a LockRequest,
    pub(super) locks: Vec<Lock>,
    /// Describes the locks in the environment.
    pub(super) variables: Variables,
    /// The locks are held until this moment, at least.
    pub(super) until: Moment,
}

impl Granted<'_> {
    /// Prints the variables: as a JSON object, or as shell commands. If that fails or a
    /// terminating signal has come, releases the locks. Returns the signal.
    ///
    /// # Errors
    /// If the locks were lost, or the variables cannot be printed.
    pub(super) fn publish(
        mut self,
        is_json: bool,
        stderr: &Stderr,
        events: &Receiver<Event>,
    ) -> Result<Option<Signal>> {
        let published = self.check_and_print(is_json, stderr, events);
        if !matches!(published, Ok(None)) {
            self.release()?;
        }
        published
    }

    fn check_and_print(
        &mut self,
        is_json: bool,
        stderr: &Stderr,
        events: &Receiver<Event>,
    ) -> Result<Option<Signal>> {
        let shortened = self.check_lease()?;
        let left = self.until.saturating_sub(clock::now());
        ensure!(!left.is_zero(), "the reservation has already ended");
        let until = now().saturating_add(left);
        let signal = events.try_iter().find_map(|event| match event {
            Event::Signal(signal) => Some(signal).filter(|it| signals::terminates(*it)),
            _ => None,
        });
        if signal.is_some() {
            return Ok(signal);
        }
        self.print(is_json, until).context("failed to print the variables")?;
        if let Some(lease) = shortened {
            let lease = human::Span(clock::millis(lease));
            stderr.info(&format!("the server shortens the reservation to {lease}"));
        }
        let keys: Vec<_> = self.locks.iter().map(|lock| lock.key.to_string()).collect();
        let until = human::local_time(clock::millis(until));
        stderr.info(&format!("reserved {} until {until}", keys.join(", ")));
        Ok(None)
    }

    /// Learns the actual end from the server: after a wait the moment of the grant is unknown,
    /// and the server may have shortened the lease. Returns the remaining lease if it has.
    fn check_lease(&mut self) -> Result<Option<Duration>> {
        let sent = clock::now();
        let owner = &self.request.owner;
        let held = self
            .address
            .connect()
            .and_then(|mut connection| still_held(&mut connection, owner, &self.locks));
        // Without permission for INSPECT, the requested lease counts.
        let Ok(held) = held else { return Ok(None) };
        if held.len() < self.locks.len() {
            bail!("the locks were lost before they were reserved");
        }
        let lease = held.iter().filter_map(|held| held.lease_left).min();
        let Some(lease) = lease else { return Ok(None) };
        self.until = sent.saturating_add(lease);
        let is_short = lease.saturating_add(TOLERANCE) < self.request.lease;
        Ok(is_short.then_some(lease))
    }

    fn print(&self, is_json: bool, until: Duration) -> Result<()> {
        let locks = environment::of(&self.request.owner, &self.locks, &self.variables);
        let environment = reservation::environment(locks, until);
        let text = match is_json {
            true => self.json(&environment, until)?,
            false => reservation::exports(&environment)?,
        };
        let mut out = io::stdout().lock();
        out.write_all(&text)?;
        Ok(out.flush()?)
    }

    fn json(&self, environment: &Environment, until: Duration) -> Result<Vec<u8>> {
        let lock = |lock: &Lock| json!({ "key": lock.key, "token": lock.token });
        let mut variables = BTreeMap::new();
        for (name, value) in environment {
            let text = value.as_ref().map(|value| {
                value.to_str().with_context(|| format!("{name} is not UTF-8"))
            });
            variables.insert(name, text.transpose()?);
        }
        let document = json!({
            "owner": self.request.owner,
            "locks": self.locks.iter().map(lock).collect::<Vec<_>>(),
            "until_unix_ms": clock::millis(until),
            "environment": variables,
        });
        let mut text = serde_json::to_vec_pretty(&document)?;
        text.push(b'\n');
        Ok(text)
    }

    fn release(&self) -> Result<()> {
        let mut connection = self.address.connect()?;
        let (owner, locks) = (&self.request.owner, &self.locks);
        release(&mut connection, owner, locks, "not reserved")
            .context("failed to release the locks; they are held until --for is over")
    }
}

/// The current Unix time.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
