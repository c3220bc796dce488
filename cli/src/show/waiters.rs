//! The wait queue of a lock as a table, for `gpulock inspect` and `gpulock queue`.

use crate::human::{self, Span};
use crate::replies::{Inspected, Waiter};
use crate::show::out;

/// The waiters in queue order.
pub(crate) fn table(lock: &Inspected) -> String {
    let mut table =
        out::table(&["POSITION", "OWNER", "CLIENT", "WAITED FOR", "WANTS", "RESERVED"]);
    for (position, waiter) in (1_usize..).zip(&lock.waiters) {
        table.add_row([
            position.to_string(),
            waiter.owner.to_string(),
            client(waiter),
            Span(waiter.waited_ms).to_string(),
            format!("{} of {}", waiter.wants, waiter.of),
            reserved(waiter),
        ]);
    }
    // Kept positions do not count as waiting.
    let shown = lock.waiters.iter().filter(|waiter| waiter.client.is_some()).count();
    let not_shown = lock.waiting.saturating_sub(shown as u64);
    match not_shown {
        0 => out::lines(table),
        more => format!("{}\n(and {more} more)", out::lines(table)),
    }
}

fn client(waiter: &Waiter) -> String {
    waiter.client.map_or("disconnected".to_owned(), |id| id.to_string())
}

fn reserved(waiter: &Waiter) -> String {
    let Some(keys) = &waiter.reserved else { return "(not listed)".to_owned() };
    let keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
    human::or_unknown((!keys.is_empty()).then(|| keys.join(" ")))
}
