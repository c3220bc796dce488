//! The thread that queries the server: at each interval, and immediately after a request. It
//! reports results and errors, and reconnects after errors.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::act::forced_release::{Expected, force_release};
use crate::connection::Connection;
use crate::exit;
use crate::replies::{self, Inspected, Listed};
use crate::server::Address;
use crate::stats::{Stats, stats};
use crate::text::Text;

/// Maximum number of locks to fetch: more than a user reads, and few enough for one call of LIST.
pub(crate) const LIMIT: usize = 1_000;

/// What the thread is asked to do.
#[derive(Debug)]
pub(crate) enum Request {
    /// Include the details of this lock in each snapshot from now on.
    Inspect(Option<Text>),
    /// Release a lock by force.
    ForceRelease(ShownHold),
}

/// A hold that the user saw and wants to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShownHold {
    pub(crate) key: Text,
    pub(crate) expected: Expected,
}

/// What the thread reports.
#[derive(Debug)]
pub(crate) enum Update {
    Snapshot(Box<Snapshot>),
    /// Why there is no snapshot.
    Failed(String),
    /// The result of a forced release: the former owner, or why nothing was released.
    ForceReleased(ShownHold, Result<Text, String>),
}

/// The state of the server.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) locks: Vec<Listed>,
    pub(crate) stats: Stats,
    /// The details of the requested lock; None inside if it is neither held nor waited for.
    pub(crate) inspected: Option<(Text, Option<Inspected>)>,
}

/// Queries the server once.
///
/// # Errors
/// If the server does not reply, or replies with an error.
pub(crate) fn snapshot(
    connection: &mut Connection,
    inspect: Option<&Text>,
) -> Result<Snapshot> {
    let locks = replies::list(connection, "*", LIMIT)?;
    let stats = stats(connection, None)?.context("the server has no counters")?;
    let inspected = match inspect {
        Some(key) => Some((key.clone(), replies::inspect(connection, &key.0)?)),
        None => None,
    };
    Ok(Snapshot { locks, stats, inspected })
}

/// Starts the thread. It ends when the other end of one of its channels is dropped.
pub(crate) fn start(
    address: Address,
    connection: Connection,
    interval: Duration,
) -> (Sender<Request>, Receiver<Update>) {
    let (requests, received) = mpsc::channel();
    let (sender, updates) = mpsc::channel();
    let link = Link { address, connection: Some(connection) };
    thread::spawn(move || poll(link, interval, &received, &sender));
    (requests, updates)
}

fn poll(
    mut link: Link,
    interval: Duration,
    requests: &Receiver<Request>,
    updates: &Sender<Update>,
) {
    let mut inspect = None;
    loop {
        match requests.recv_timeout(interval) {
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
            Ok(Request::Inspect(key)) => inspect = key,
            Ok(Request::ForceRelease(hold)) => {
                let result = link.with(|connection| release(connection, &hold));
                let result = result.unwrap_or_else(|error| Err(exit::message(&error)));
                if updates.send(Update::ForceReleased(hold, result)).is_err() {
                    return;
                }
            }
        }
        let update = match link.with(|connection| snapshot(connection, inspect.as_ref()))
        {
            Ok(snapshot) => Update::Snapshot(Box::new(snapshot)),
            Err(error) => Update::Failed(error.to_string()),
        };
        if updates.send(update).is_err() {
            return;
        }
    }
}

fn release(
    connection: &mut Connection,
    hold: &ShownHold,
) -> Result<Result<Text, String>> {
    let former = force_release(connection, &hold.key, &hold.expected, None, None)?;
    Ok(former.ok_or_else(|| "this hold has ended".to_owned()))
}

/// A connection that is reopened after an error.
struct Link {
    address: Address,
    connection: Option<Connection>,
}

impl Link {
    fn with<T>(&mut self, query: impl FnOnce(&mut Connection) -> Result<T>) -> Result<T> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.address.connect()?,
        };
        let reply = query(&mut connection)?;
        self.connection = Some(connection);
        Ok(reply)
    }
}
