//! What a run waits for: who holds it, since when, and the place in line. Asked on a
//! connection of its own, while another one waits.

use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::Result;
use humantime::format_duration;

use crate::clock;
use crate::connection::Connection;
use crate::exit::sentence;
use crate::replies::{self, Inspected, Waiter};
use crate::run::locks::Wish;
use crate::run::say::Voice;
use crate::server::Address;
use crate::text::Text;

/// How often the line is drawn anew.
const TICK: Duration = Duration::from_secs(1);

/// So many locks are told apart.
const SHOWN: usize = 4;

/// Reports on a wait until `voice` wants no more of it. The wait itself goes on should there
/// be no thread for it.
pub(crate) fn start(address: &Address, wish: &Wish, voice: &Voice) {
    let (address, wish, voice) = (address.clone(), wish.clone(), voice.clone());
    let start = clock::now();
    let reporter = thread::Builder::new().name("progress".to_owned());
    let _silent = reporter.spawn(move || {
        let mut connection = None;
        loop {
            let what = what_is_known(&address, &mut connection, &wish);
            let waited = seconds(clock::now().saturating_sub(start));
            let what = what.unwrap_or_else(|error| sentence(&error));
            let line = format!("waiting {waited} for {}: {what}", asked_for(&wish));
            if !voice.report(&line) {
                return;
            }
            sleep(TICK);
        }
    });
}

fn asked_for(wish: &Wish) -> String {
    match &wish.keys[..] {
        [key] => key.to_string(),
        keys => format!("{} of {} locks", wish.count, keys.len()),
    }
}

fn what_is_known(
    address: &Address,
    connection: &mut Option<Connection>,
    wish: &Wish,
) -> Result<String> {
    let mut asked = match connection.take() {
        Some(connected) => connected,
        None => address.connect()?,
    };
    let mut known = Vec::new();
    for key in wish.keys.iter().take(SHOWN) {
        known.push((key, replies::inspect(&mut asked, &key.0)?));
    }
    *connection = Some(asked);
    let known: Vec<_> =
        known.into_iter().filter_map(|(key, lock)| Some((key, lock?))).collect();
    Ok(told(wish, &known))
}

/// The place in line, and who holds what: `place 2 in line; gpu:0: asr-7f3a for 3m 2s`.
fn told(wish: &Wish, locks: &[(&Text, Inspected)]) -> String {
    let place = locks.iter().filter_map(|(_, lock)| place(wish, lock)).min();
    let place = place.map_or("not in line yet".to_owned(), |before| {
        format!("place {} in line", before.saturating_add(1))
    });
    let holders = locks.iter().map(|(key, lock)| match wish.keys.len() {
        1 => holder(lock),
        _ => format!("{key}: {}", holder(lock)),
    });
    let holders = holders.collect::<Vec<_>>().join(", ");
    if holders.is_empty() { place } else { format!("{place}; {holders}") }
}

/// How many wait before this owner. Places that are kept for others are passed over.
fn place(wish: &Wish, lock: &Inspected) -> Option<usize> {
    let ours = |waiter: &Waiter| waiter.owner.0 == wish.owner.as_bytes();
    let ahead = lock.waiters.iter().take(lock.waiters.iter().position(ours)?);
    Some(ahead.filter(|waiter| waiter.client.is_some()).count())
}

fn holder(lock: &Inspected) -> String {
    let since = lock.held_ms.map(|held| seconds(Duration::from_millis(held)));
    match (&lock.owner, since) {
        (Some(owner), Some(since)) => format!("held by {owner} for {since}"),
        (Some(owner), None) => format!("held by {owner}"),
        (None, _) => match &lock.reserved_for {
            Some(owner) => format!("set aside for {owner}"),
            None => "held".to_owned(),
        },
    }
}

/// Without what changes before it is read.
fn seconds(time: Duration) -> String {
    format_duration(Duration::from_secs(time.as_secs())).to_string()
}
