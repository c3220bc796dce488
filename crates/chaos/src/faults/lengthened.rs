//! Other clients lengthen the lease of a lock right before its end, while the server has no
//! time to look before the old end is over. The hold goes on with its token and its session.
//! A `SET` by an equal name is another hold then, and so is not among the ways.

use super::own_client::Holder;
use super::refusal::wait_until;
use super::{Fault, Site};
use crate::clock::now;
use crate::history::Event;

/// The lease, and how long the server is busy once it is lengthened, in ms.
const LEASE_MS: u64 = 60;
const BUSY_MS: u64 = 80;

/// The new lease, in ms, where there is one.
const LONGER_MS: u64 = 400;

pub(super) struct Lengthened {
    name: &'static str,
    /// What is done to `KEYS[1]` if `ARGV[1]` owns it.
    command: &'static str,
    arguments: &'static str,
    lease_ms: Option<u64>,
}

/// Each of the ways.
pub(super) static ALL: [Lengthened; 2] = [
    Lengthened {
        name: "late-pexpire",
        command: "PEXPIRE",
        arguments: "KEYS[1], 400",
        lease_ms: Some(LONGER_MS),
    },
    Lengthened {
        name: "late-persist",
        command: "PERSIST",
        arguments: "KEYS[1]",
        lease_ms: None,
    },
];

impl Fault for Lengthened {
    fn name(&self) -> &'static str {
        self.name
    }

    fn weight(&self) -> u64 {
        5
    }

    fn strike(&self, site: &mut Site) -> Result<bool, String> {
        let Some(mut holder) = Holder::of_some_lock(site, LEASE_MS)? else {
            return Ok(false);
        };
        let (lock, owner) = (holder.lock, holder.owner);
        site.must(&format!("SELECT {}", lock.0))?;
        let code = format!(
            "if redis.call('{}', KEYS[1]) ~= ARGV[1] then return 0 end
             return redis.call('{}', {})",
            site.command("GET"),
            site.command(self.command),
            self.arguments
        );
        let from = now();
        let (key, name, busy) =
            (lock.key(), owner.to_string(), format!("0.{BUSY_MS:03}"));
        let lengthen = ["EVAL", &code, "1", &key, &name];
        let replies = site.say_at_once(&[&lengthen, &["DEBUG", "SLEEP", &busy]]);
        if replies[0] != 1 {
            holder.release(site);
            return match &replies[0] {
                answer if answer.is_err() => Err(format!("{code}: {answer:?}")),
                _ => Ok(false),
            };
        }
        let (lease_ms, to) = (self.lease_ms, now());
        site.excuse(Event::Lengthened { lock, owner, lease_ms, from, to });
        match site.dice.between(0, 3) {
            0 => {
                holder.extend(site, LONGER_MS);
                holder.release(site);
            }
            1 => {
                holder.renew(site, LONGER_MS);
                // The checker takes a session that ends right now for one that ended some
                // milliseconds ago.
                site.last(5, 10);
                holder.release(site);
            }
            _ => ends_with_its_session(site, holder)?,
        }
        Ok(true)
    }
}

fn ends_with_its_session(site: &mut Site, holder: Holder) -> Result<(), String> {
    let Holder { client, lock, owner, .. } = holder;
    client.close(site);
    let inspect = format!("GPULOCK.INSPECT {}", lock.key());
    wait_until(format!("{lock} of {owner} did not end with its session"), || {
        let answer = site.say(&inspect);
        answer.is_null() || answer.field("owner") != *owner.to_string()
    })
}
