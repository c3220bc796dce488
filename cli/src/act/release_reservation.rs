//! `gpulock release` without a key: releases the locks of the reservation in the environment.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use crate::act::release::release;
use crate::act::reservation::Reservation;
use crate::connection::{Connection, is_connection_error};
use crate::exit;
use crate::locks::{Lock, still_held};
use crate::run::nested::OuterHold;
use crate::server::Address;
use crate::show::out;
use crate::text::Text;

/// Releases the locks that the reservation still holds, and prints the shell command that
/// removes its variables. Fails if it no longer held all of them.
///
/// # Errors
/// If the server does not reply, or replies with an error.
pub(crate) fn run(
    address: &Address,
    reservation: &Reservation,
    reason: Option<&Text>,
    is_json: bool,
) -> Result<ExitCode> {
    let OuterHold { owner, locks } = &reservation.hold;
    let address = match locks.first() {
        Some(lock) => &address.for_key(&lock.key.0),
        None => address,
    };
    let mut connection = address.connect()?;
    let held = held(&mut connection, owner, locks)?;
    let mut released = Vec::new();
    for lock in locks {
        // The owner is unique to the reservation. The token changes if the server is restarted.
        let owner = Text(owner.clone().into_bytes());
        let was_held = held.contains(lock)
            && release(&mut connection, &lock.key, &owner, None, reason)?;
        released.push((lock, was_held));
    }
    if is_json {
        let lock = |(lock, released): &(&Lock, bool)| json!({ "key": lock.key, "released": released });
        let locks: Vec<_> = released.iter().map(lock).collect();
        out::print_json(&json!({ "owner": owner, "locks": locks }))?;
    } else {
        out::print(&reservation.unset())?;
        report(owner, &released);
    }
    let all = released.iter().all(|(_, was_held)| *was_held);
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The locks that the owner still holds. RELEASE of others would count as an ownership
/// violation.
fn held(connection: &mut Connection, owner: &str, locks: &[Lock]) -> Result<Vec<Lock>> {
    match still_held(connection, owner, locks) {
        Ok(held) => Ok(held.into_iter().map(|held| held.lock).collect()),
        Err(error) if error.downcast_ref().is_some_and(is_connection_error) => Err(error),
        // Without permission for INSPECT.
        Err(_) => Ok(locks.to_vec()),
    }
}

/// On standard error: the shell evaluates standard output.
fn report(owner: &str, released: &[(&Lock, bool)]) {
    for (lock, was_held) in released {
        let key = &lock.key;
        exit::note(&match was_held {
            true => format!("{key} released"),
            false => format!("not released: {key} is no longer held by {owner}"),
        });
    }
}
