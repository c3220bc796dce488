//! Renewal of the leases: a thread with its own connection, so that nothing else delays it.

use std::sync::mpsc::Sender;
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::clock::{self, Moment};
use crate::connection::Connection;
use crate::locks::{Lock, extend};
use crate::run::Event;
use crate::run::adopted::Adopted;
use crate::run::stop_flag::StopFlag;
use crate::server::Address;

/// Maximum time for connecting, and for each reply.
const MAX_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum pause before a failed renewal is retried.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// State of the thread.
struct Renewer {
    address: Address,
    owner: String,
    locks: Vec<Lock>,
    lease: Duration,
    connection: Option<Connection>,
    adopted: Adopted,
}

/// Renews the locks after each third of the lease, counted from the last renewal, until the
/// flag is set or the locks are lost.
///
/// # Errors
/// If no thread can be started.
pub(crate) fn start(
    address: &Address,
    owner: &str,
    locks: &[Lock],
    lease: Duration,
    last: Moment,
    (stop, adopted, events): (StopFlag, Adopted, Sender<Event>),
) -> Result<()> {
    let (address, owner, locks) = (address.clone(), owner.to_owned(), locks.to_vec());
    let mut renewer = Renewer { address, owner, locks, lease, connection: None, adopted };
    let thread = thread::Builder::new().name("renewal".to_owned());
    thread
        .spawn(move || renewer.renew_until_stopped(&stop, last, &events))
        .context("failed to start a thread")?;
    Ok(())
}

impl Renewer {
    fn renew_until_stopped(
        &mut self,
        stop: &StopFlag,
        mut last: Moment,
        events: &Sender<Event>,
    ) {
        loop {
            let due = last.saturating_add(self.lease / 3);
            sleep(due.saturating_sub(clock::now()));
            if stop.is_set() {
                return;
            }
            let sent = clock::now();
            let event = match self.renew() {
                Ok(Some(locks)) => {
                    last = sent;
                    self.remember(locks);
                    Event::Renewed(sent)
                }
                Ok(None) => Event::Lost,
                Err(error) => {
                    self.connection = None;
                    sleep((self.lease / 20).min(MAX_PAUSE));
                    Event::ServerError(error)
                }
            };
            let is_lost = matches!(event, Event::Lost);
            if events.send(event).is_err() || is_lost {
                return;
            }
        }
    }

    /// Keeps the tokens. Other ones mean that the server has adopted the locks, and that they are
    /// no longer tied to the session's connection.
    fn remember(&mut self, locks: Vec<Lock>) {
        if locks != self.locks {
            self.locks = locks;
            self.adopted.set();
        }
    }

    fn renew(&mut self) -> Result<Option<Vec<Lock>>> {
        if self.connection.is_none() {
            let timeout = (self.lease / 6).min(MAX_TIMEOUT);
            self.connection = Some(self.address.connect_within(timeout)?);
        }
        let connection = self.connection.as_mut().context("no connection")?;
        Ok(extend(connection, &self.owner, &self.locks, self.lease)?)
    }
}
