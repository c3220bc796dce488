//! `GPULOCK.ACQUIRE`: takes a lock, or renews the hold of a UNIQUE owner.

use gpulock_core::acquire::Acquired;
use gpulock_core::{Fault, request};

use crate::server::call::Call;
use crate::server::commands::{Argument, Command, Keys, LEASE, MAY_WRITE, Spec};
use crate::server::state::{now, with_keeper};

pub(crate) struct Acquire;

impl Command for Acquire {
    const SPEC: Spec = Spec {
        name: c"GPULOCK.ACQUIRE",
        flags: c"write fast",
        acl: c"write fast",
        arity: -3,
        keys: Keys::First(MAY_WRITE),
        summary: c"Takes a lock and returns its fencing token, or null when it is held.",
        complexity: c"O(1)",
        tips: None,
        arguments: &[
            Argument::KEY,
            Argument::text(c"owner"),
            LEASE,
            Argument::word(c"unique", c"UNIQUE").optional(),
        ],
    };

    fn run(call: Call<'_>) -> Result<(), Fault> {
        with_keeper(|keeper| keeper.may_write())?;
        let name = call.lock()?;
        let asked = request::Acquire::parse(call.arguments_from(1));
        let ask = match asked {
            Ok(ask) => ask,
            Err(fault) => {
                with_keeper(|keeper| keeper.acquire_failed(name));
                return Err(fault);
            }
        };
        let room = !call.context().flags().is_out_of_memory();
        let mut key = call.open()?;
        let seen = key.look();
        match with_keeper(|keeper| keeper.acquire(name, &ask, &seen, room, now()))? {
            Acquired::Granted { token, until_ms } => {
                key.set(call.argument(1)?, until_ms);
                call.reply().number(token);
            }
            Acquired::Renewed { token, until_ms } => {
                key.expire(until_ms);
                call.reply().number(token);
            }
            Acquired::Refused => call.reply().null(),
        }
        Ok(())
    }
}
