//! Another client extends the lease of a lock just before its end, while the server is
//! too busy to notice until the old lease is over. The hold keeps its token and its
//! session. A `SET` with the same owner would be another hold, so it is not used.

use super::fault_client::Holder;
use super::write_refusal::wait_until;
use super::{Fault, FaultContext};
use crate::clock::now;
use crate::history::Event;

/// The lease, and how long the server is busy after the change, in ms.
const LEASE_MS: u64 = 60;
const BUSY_MS: u64 = 80;

/// The new lease in ms, if there is one.
const LONGER_MS: u64 = 400;

pub(super) struct LeaseChanged {
    name: &'static str,
    /// Run on `KEYS[1]` if `ARGV[1]` owns it.
    command: &'static str,
    arguments: &'static str,
    lease_ms: Option<u64>,
}

/// All variants.
pub(super) static ALL: [LeaseChanged; 2] = [
    LeaseChanged {
        name: "late-pexpire",
        command: "PEXPIRE",
        arguments: "KEYS[1], 400",
        lease_ms: Some(LONGER_MS),
    },
    LeaseChanged {
        name: "late-persist",
        command: "PERSIST",
        arguments: "KEYS[1]",
        lease_ms: None,
    },
];

impl Fault for LeaseChanged {
    fn name(&self) -> &'static str {
        self.name
    }

    fn weight(&self) -> u64 {
        5
    }

    fn inject(&self, context: &mut FaultContext) -> Result<bool, String> {
        let Some(mut holder) = Holder::of_random_lock(context, LEASE_MS)? else {
            return Ok(false);
        };
        let (lock, owner) = (holder.lock, holder.owner);
        context.expect_ok(&format!("SELECT {}", lock.0))?;
        let code = format!(
            "if redis.call('{}', KEYS[1]) ~= ARGV[1] then return 0 end
             return redis.call('{}', {})",
            context.command_name("GET"),
            context.command_name(self.command),
            self.arguments
        );
        let from = now();
        let (key, name, busy) =
            (lock.key(), owner.to_string(), format!("0.{BUSY_MS:03}"));
        let change_lease = ["EVAL", &code, "1", &key, &name];
        let replies = context.send_pipeline(&[&change_lease, &["DEBUG", "SLEEP", &busy]]);
        if replies[0] != 1 {
            holder.release(context);
            return match &replies[0] {
                reply if reply.is_err() => Err(format!("{code}: {reply:?}")),
                _ => Ok(false),
            };
        }
        let (lease_ms, to) = (self.lease_ms, now());
        context.record_event(Event::LeaseChanged { lock, owner, lease_ms, from, to });
        match context.rng.u64(0..=3) {
            0 => {
                holder.extend(context, LONGER_MS);
                holder.release(context);
            }
            1 => {
                holder.renew(context, LONGER_MS);
                // The checker assumes that a session may have ended some milliseconds
                // before its connection closed.
                context.sleep_between(5, 10);
                holder.release(context);
            }
            _ => ends_with_its_session(context, holder)?,
        }
        Ok(true)
    }
}

fn ends_with_its_session(
    context: &mut FaultContext,
    holder: Holder,
) -> Result<(), String> {
    let Holder { client, lock, owner, .. } = holder;
    client.close(context);
    let inspect = format!("GPULOCK.INSPECT {}", lock.key());
    wait_until(format!("{lock} of {owner} did not end with its session"), || {
        let reply = context.send(&inspect);
        reply.is_null() || reply.field("owner") != *owner.to_string()
    })
}
