//! A client with a kept position calls again over a connection with subscriptions. Where
//! the server cannot block such a client, the call fails, but the client must keep its
//! position.

use gpulock_testkit::Value;

use super::fault_client::{FaultClient, Holder};
use super::{Fault, FaultContext};
use crate::client::LONGEST_LEASE_MS;
use crate::history::{AcquireOptions, Lock, Owner, Reply, Request};

pub(super) struct Subscribed;

impl Fault for Subscribed {
    fn name(&self) -> &'static str {
        "subscribed"
    }

    fn weight(&self) -> u64 {
        5
    }

    fn inject(&self, context: &mut FaultContext) -> Result<bool, String> {
        context.expect_ok("CONFIG SET gpulock.place-keep 10000")?;
        context.expect_ok("CONFIG SET gpulock.max-waiters 10000")?;
        let Some(holder) = Holder::of_random_lock(context, LONGEST_LEASE_MS)? else {
            return Ok(false);
        };
        let (lock, owner) = (holder.lock, context.new_owner());
        let options = AcquireOptions {
            block_ms: Some(1),
            unique: true,
            ..AcquireOptions::with_lease(50)
        };
        let slice = || Request::Acquire { lock, owner, options };
        let mut first = FaultClient::connect(context, lock.0)?;
        let mut last = first.call(context, slice());
        let had_position = last == Reply::Null && has_position(context, lock, owner)?;
        first.close(context);
        let mut second = FaultClient::subscribed(context, lock.0)?;
        if had_position {
            last = second.call(context, slice());
        }
        let still_has_position = has_position(context, lock, owner)?;
        // Otherwise the waiter may have been granted the lock.
        let is_certain = had_position && holder.still_holds(context)?;
        if let Reply::Token(_) = last {
            second.call(context, Request::Release { lock, owner, token: None });
        }
        second.close(context);
        holder.release(context);
        match is_certain && !still_has_position {
            true => Err(format!("{owner} lost its position for {lock}: {last:?}")),
            false => Ok(is_certain),
        }
    }
}

/// Whether an owner has a position in the queue, connected or kept.
fn has_position(
    context: &mut FaultContext,
    lock: Lock,
    owner: Owner,
) -> Result<bool, String> {
    context.expect_ok(&format!("SELECT {}", lock.0))?;
    let inspection = context.send(&format!("GPULOCK.INSPECT {}", lock.key()));
    if inspection.is_null() {
        return Ok(false);
    }
    let Value::Array(positions) = inspection.field("waiters") else {
        return Err(format!("no waiters: {inspection:?}"));
    };
    Ok(positions.iter().any(|position| position.field("owner") == *owner.to_string()))
}
