//! The thread that asks the server: a look at each interval, and at once after an order.
//! It tells what it hears and what went wrong, and connects again for as long as it lives.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::act::take::{Guard, take};
use crate::connection::Connection;
use crate::exit;
use crate::replies::{self, Inspected, Listed};
use crate::server::Address;
use crate::stats::{Stats, stats};
use crate::text::Text;

/// How many locks are asked for. More than anybody reads, and little enough for a second.
pub(crate) const LIMIT: usize = 10_000;

/// What the thread is told.
#[derive(Debug)]
pub(crate) enum Order {
    /// The lock that is inspected with each look from now on.
    Watch(Option<Text>),
    /// To take a lock away.
    Take(Victim),
}

/// The hold that somebody saw, and wants ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Victim {
    pub(crate) key: Text,
    pub(crate) guard: Guard,
}

/// What the thread tells.
#[derive(Debug)]
pub(crate) enum News {
    /// A look succeeded.
    Seen(Box<Look>),
    /// A look failed, and why in a few words.
    Unseen(String),
    /// What became of an order to take a lock: from whom, or why from nobody.
    Took(Victim, Result<Text, String>),
}

/// What the server answered in one go.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    pub(crate) locks: Vec<Listed>,
    pub(crate) stats: Stats,
    /// The watched lock; none when it is neither held nor waited for.
    pub(crate) watched: Option<(Text, Option<Inspected>)>,
}

/// Looks once.
///
/// # Errors
/// When the server does not answer, or refuses.
pub(crate) fn look(connection: &mut Connection, watched: Option<&Text>) -> Result<Look> {
    let locks = replies::list(connection, "*", LIMIT)?;
    let stats = stats(connection, None)?.context("the server has no counters")?;
    let watched = match watched {
        Some(key) => Some((key.clone(), replies::inspect(connection, &key.0)?)),
        None => None,
    };
    Ok(Look { locks, stats, watched })
}

/// Starts the thread. It ends when its orders or its news have nobody at the other end.
pub(crate) fn start(
    address: Address,
    connection: Connection,
    interval: Duration,
) -> (Sender<Order>, Receiver<News>) {
    let (orders, ordered) = mpsc::channel();
    let (told, news) = mpsc::channel();
    let link = Link { address, connection: Some(connection) };
    thread::spawn(move || ask(link, interval, &ordered, &told));
    (orders, news)
}

fn ask(
    mut link: Link,
    interval: Duration,
    ordered: &Receiver<Order>,
    told: &Sender<News>,
) {
    let mut watched = None;
    loop {
        match ordered.recv_timeout(interval) {
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
            Ok(Order::Watch(key)) => watched = key,
            Ok(Order::Take(victim)) => {
                let outcome = link.with(|connection| attempt(connection, &victim));
                let outcome = outcome.unwrap_or_else(|error| Err(exit::sentence(&error)));
                if told.send(News::Took(victim, outcome)).is_err() {
                    return;
                }
            }
        }
        let news = match link.with(|connection| look(connection, watched.as_ref())) {
            Ok(look) => News::Seen(Box::new(look)),
            Err(error) => News::Unseen(error.to_string()),
        };
        if told.send(news).is_err() {
            return;
        }
    }
}

fn attempt(connection: &mut Connection, victim: &Victim) -> Result<Result<Text, String>> {
    let taken = take(connection, &victim.key, &victim.guard, None)?;
    Ok(taken.ok_or_else(|| "it is no longer held so".to_owned()))
}

/// A connection that is made again after it failed.
struct Link {
    address: Address,
    connection: Option<Connection>,
}

impl Link {
    fn with<T>(&mut self, talk: impl FnOnce(&mut Connection) -> Result<T>) -> Result<T> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.address.connect()?,
        };
        let answer = talk(&mut connection)?;
        self.connection = Some(connection);
        Ok(answer)
    }
}
