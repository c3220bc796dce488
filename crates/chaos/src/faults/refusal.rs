//! What every fault has in common in which the server refuses the writes of all clients: a
//! session ends meanwhile, and its lock must not pass on before writes are accepted again.

use std::thread;
use std::time::Duration;

use super::Site;
use super::own_client::Holder;
use crate::client::LONGEST_LEASE_MS;
use crate::clock::{MS, Nanos, now};
use crate::history::Event;

/// How long the server may take to refuse writes, or to accept them again.
const SOON: Nanos = 20_000 * MS;

/// Has the server refuse writes with this code, and ends a session meanwhile.
pub(super) fn play(
    site: &mut Site,
    code: &str,
    begin: impl FnOnce(&mut Site) -> Result<(), String>,
    end: impl FnOnce(&mut Site) -> Result<(), String>,
) -> Result<(), String> {
    let holder = Holder::of_some_lock(site, LONGEST_LEASE_MS)?;
    site.refuse(code, |site| {
        begin(site)?;
        await_refusal(site, code)?;
        end_session_meanwhile(site, code, holder)?;
        end(site)?;
        await_acceptance(site)
    })
}

/// Closes the holder's connection while writes are refused, and writes down that no lock may
/// pass on.
pub(super) fn end_session_meanwhile(
    site: &mut Site,
    code: &str,
    holder: Option<Holder>,
) -> Result<(), String> {
    let from = now();
    site.last(6, 20);
    if let Some(holder) = holder {
        holder.client.close(site);
    }
    site.last(30, 150);
    let to = now();
    if !is_refused(site, code) {
        return Err(format!("writes are accepted again before the {code}ends"));
    }
    site.excuse(Event::WritesRefused { by: code.trim().to_owned(), from, to });
    Ok(())
}

pub(super) fn await_refusal(site: &mut Site, code: &str) -> Result<(), String> {
    wait_until(format!("no write is refused with {code}"), || is_refused(site, code))
}

pub(super) fn await_acceptance(site: &mut Site) -> Result<(), String> {
    wait_until("writes are still refused".to_owned(), || write(site).is_none())
}

fn is_refused(site: &mut Site, code: &str) -> bool {
    write(site).is_some_and(|error| error.starts_with(code))
}

/// The error of a write, if it is refused.
fn write(site: &mut Site) -> Option<String> {
    let answer = site.say("SET probe x");
    answer.is_err().then(|| answer.err().to_owned())
}

/// Waits for a condition; `otherwise` is what is wrong when it does not come true.
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
