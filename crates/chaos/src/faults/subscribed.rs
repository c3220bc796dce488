//! A client that keeps its place in a line asks again over a connection with subscriptions.
//! Where the server cannot block such a client, it gets an error; it keeps its place all the
//! same.

use gpulock_testkit::Value;

use super::own_client::{Holder, OwnClient};
use super::{Fault, Site};
use crate::client::LONGEST_LEASE_MS;
use crate::history::{Answer, Ask, How, Lock, Owner};

pub(super) struct Subscribed;

impl Fault for Subscribed {
    fn name(&self) -> &'static str {
        "subscribed"
    }

    fn weight(&self) -> u64 {
        5
    }

    fn strike(&self, site: &mut Site) -> Result<bool, String> {
        site.must("CONFIG SET gpulock.place-keep 10000")?;
        let Some(holder) = Holder::of_some_lock(site, LONGEST_LEASE_MS)? else {
            return Ok(false);
        };
        let (lock, owner) = (holder.lock, site.outsider());
        let how = How { lease_ms: 50, block_ms: Some(1), unique: true, grace_ms: None };
        let slice = || Ask::Acquire { lock, owner, how };
        let mut first = OwnClient::connect(site, lock.0)?;
        let mut last = first.call(site, slice());
        let had_place = last == Answer::Null && has_place(site, lock, owner)?;
        first.close(site);
        let mut second = OwnClient::subscribed(site, lock.0)?;
        if had_place {
            last = second.call(site, slice());
        }
        let still_has = has_place(site, lock, owner)?;
        // Otherwise the place may have been served.
        let is_sure = had_place && holder.still_holds(site)?;
        if let Answer::Token(_) = last {
            second.call(site, Ask::Release { lock, owner, token: None });
        }
        second.close(site);
        holder.release(site);
        match is_sure && !still_has {
            true => Err(format!("{owner} lost its place for {lock}: {last:?}")),
            false => Ok(is_sure),
        }
    }
}

/// Whether an owner has a place in a line, be it waiting or away.
fn has_place(site: &mut Site, lock: Lock, owner: Owner) -> Result<bool, String> {
    site.must(&format!("SELECT {}", lock.0))?;
    let shown = site.say(&format!("GPULOCK.INSPECT {}", lock.key()));
    if shown.is_null() {
        return Ok(false);
    }
    let Value::Array(places) = shown.field("waiters") else {
        return Err(format!("no waiters: {shown:?}"));
    };
    Ok(places.iter().any(|place| place.field("owner") == *owner.to_string()))
}
