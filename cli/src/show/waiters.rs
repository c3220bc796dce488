//! The line of a lock as a table; `gpulock inspect` and `gpulock line` show it.

use crate::human::{self, Span};
use crate::replies::{Inspected, Waiter};
use crate::show::out;

/// Who waits, in the order of their turn.
pub(crate) fn lines(lock: &Inspected) -> String {
    let mut table =
        out::table(&["PLACE", "OWNER", "CLIENT", "WAITED FOR", "WANTS", "SET ASIDE"]);
    for (place, waiter) in (1..).zip(&lock.waiters) {
        table.add_row([
            format!("{place}"),
            waiter.owner.to_string(),
            client(waiter),
            Span(waiter.waited_ms).to_string(),
            format!("{} of {}", waiter.wants, waiter.of),
            reserved(waiter),
        ]);
    }
    let untold = lock.waiting.saturating_sub(lock.waiters.len() as u64);
    match untold {
        0 => out::lines(table),
        more => format!("{}\n(and {more} more)", out::lines(table)),
    }
}

fn client(waiter: &Waiter) -> String {
    waiter.client.map_or("away, place kept".to_owned(), |id| id.to_string())
}

fn reserved(waiter: &Waiter) -> String {
    let keys: Vec<_> = waiter.reserved.iter().map(ToString::to_string).collect();
    human::or_unknown((!keys.is_empty()).then(|| keys.join(" ")))
}
