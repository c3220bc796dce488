//! Renewal of the leases: a thread on a connection of its own, so that nothing that is
//! waited for elsewhere delays it.

use std::sync::mpsc::Sender;
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::clock::{self, Moment};
use crate::connection::Connection;
use crate::run::Event;
use crate::run::locks::{Lock, extend};
use crate::run::over::Over;
use crate::server::Address;

/// How long a connection or an answer may take at most.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long to pause at most before a renewal that failed is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// What the thread works with.
struct Renewer {
    address: Address,
    owner: String,
    locks: Vec<Lock>,
    lease: Duration,
    connection: Option<Connection>,
}

/// Renews the locks at each third of the lease, counted from the last renewal, until all is
/// over.
///
/// # Errors
/// When no thread can be started.
pub(crate) fn start(
    address: &Address,
    owner: &str,
    locks: &[Lock],
    lease: Duration,
    last: Moment,
    (over, events): (Over, Sender<Event>),
) -> Result<()> {
    let (address, owner, locks) = (address.clone(), owner.to_owned(), locks.to_vec());
    let mut renewer = Renewer { address, owner, locks, lease, connection: None };
    let thread = thread::Builder::new().name("renewal".to_owned());
    thread
        .spawn(move || renewer.renew_until(&over, last, &events))
        .context("no thread")?;
    Ok(())
}

impl Renewer {
    fn renew_until(&mut self, over: &Over, mut last: Moment, events: &Sender<Event>) {
        loop {
            let due = last.saturating_add(self.lease / 3);
            sleep(due.saturating_sub(clock::now()));
            if over.is_said() {
                return;
            }
            let sent = clock::now();
            let event = match self.renew() {
                Ok(Some(_)) => {
                    last = sent;
                    Event::Renewed(sent)
                }
                Ok(None) => Event::Lost,
                Err(error) => {
                    self.connection = None;
                    sleep((self.lease / 20).min(PAUSE));
                    Event::Trouble(error)
                }
            };
            let is_lost = matches!(event, Event::Lost);
            if events.send(event).is_err() || is_lost {
                return;
            }
        }
    }

    fn renew(&mut self) -> Result<Option<Vec<Lock>>> {
        if self.connection.is_none() {
            let patience = (self.lease / 6).min(PATIENCE);
            self.connection = Some(self.address.connect_within(patience)?);
        }
        let connection = self.connection.as_mut().context("no connection")?;
        Ok(extend(connection, &self.owner, &self.locks, self.lease)?)
    }
}
