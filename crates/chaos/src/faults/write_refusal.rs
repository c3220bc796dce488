//! Common part of the faults in which the server refuses the writes of all clients: a
//! session ends in that period, and its lock must not be handed off before writes are
//! accepted again.

use std::thread;
use std::time::Duration;

use super::FaultContext;
use super::fault_client::Holder;
use crate::client::LONGEST_LEASE_MS;
use crate::clock::{MS, Nanos, now};
use crate::history::Event;

/// Maximum time until the server refuses writes, or accepts them again.
const SOON: Nanos = 20_000 * MS;

/// Makes the server refuse writes with this error code, and ends a session in that
/// period.
pub(super) fn run(
    context: &mut FaultContext,
    code: &str,
    begin: impl FnOnce(&mut FaultContext) -> Result<(), String>,
    end: impl FnOnce(&mut FaultContext) -> Result<(), String>,
) -> Result<(), String> {
    let holder = Holder::of_random_lock(context, LONGEST_LEASE_MS)?;
    context.expect_error(code, |context| {
        begin(context)?;
        await_refusal(context, code)?;
        end_session_meanwhile(context, code, holder)?;
        end(context)?;
        await_acceptance(context)
    })
}

/// Closes the holder's connection while writes are refused, and records that nothing may
/// be granted.
pub(super) fn end_session_meanwhile(
    context: &mut FaultContext,
    code: &str,
    holder: Option<Holder>,
) -> Result<(), String> {
    let from = now();
    context.sleep_between(6, 20);
    if let Some(holder) = holder {
        holder.client.close(context);
    }
    context.sleep_between(30, 150);
    let to = now();
    if !is_refused(context, code) {
        return Err(format!("writes are accepted again before the {code}ends"));
    }
    context.record_event(Event::WritesRefused { by: code.trim().to_owned(), from, to });
    Ok(())
}

pub(super) fn await_refusal(
    context: &mut FaultContext,
    code: &str,
) -> Result<(), String> {
    wait_until(format!("writes are not refused with {code}"), || {
        is_refused(context, code)
    })
}

pub(super) fn await_acceptance(context: &mut FaultContext) -> Result<(), String> {
    wait_until("writes are still refused".to_owned(), || write(context).is_none())
}

fn is_refused(context: &mut FaultContext, code: &str) -> bool {
    write(context).is_some_and(|error| error.starts_with(code))
}

/// The error of a write, if it is refused.
fn write(context: &mut FaultContext) -> Option<String> {
    let reply = context.send("SET probe x");
    reply.is_err().then(|| reply.err().to_owned())
}

/// Waits for a condition; `otherwise` is the error after a timeout.
pub(super) fn wait_until(
    otherwise: String,
    mut condition: impl FnMut() -> bool,
) -> Result<(), String> {
    let start = now();
    while !condition() {
        if now() - start > SOON {
            return Err(otherwise);
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
