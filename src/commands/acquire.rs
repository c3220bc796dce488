//! `GPULOCK.ACQUIRE`: takes a lock, waits in line for it, or renews the hold of a UNIQUE
//! owner.

use gpulock_core::acquire::Acquired;
use gpulock_core::wait::Wanted;
use gpulock_core::{Fault, request};

use super::wait::{asker, wait_or_refuse};
use crate::server::call::Call;
use crate::server::commands::{
    Argument, BLOCK, Command, Keys, LEASE, MAY_WRITE, SESSION, Spec, UNIQUE,
};
use crate::server::state::{now, with_keeper};
use crate::{broken, hand_off, look};

pub(crate) struct Acquire;

impl Command for Acquire {
    const SPEC: Spec = Spec {
        name: c"GPULOCK.ACQUIRE",
        flags: c"write fast blocking",
        acl: c"write fast blocking",
        arity: -3,
        keys: Keys::First(MAY_WRITE),
        summary: c"Takes a lock, waiting in line for it if asked to, and returns its fencing token.",
        complexity: c"O(1), and O(log N) with N the clients that wait",
        tips: None,
        arguments: &[
            Argument::KEY,
            Argument::text(c"owner"),
            LEASE,
            BLOCK,
            UNIQUE,
            SESSION,
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
        let asker = asker(call, &ask);
        let mut key = call.open()?;
        let seen = broken::seen(look::shown(&key, name));
        match with_keeper(|keeper| keeper.acquire(name, &ask, &seen, asker, now()))? {
            Acquired::Granted { token, until_ms } => {
                key.set(call.argument(1)?, until_ms);
                call.reply().number(broken::token(token));
            }
            Acquired::Renewed { token, until_ms } => {
                key.expire(until_ms);
                call.reply().number(token);
            }
            Acquired::Contested { next } => {
                hand_off::fill_in_command(call.context(), key, next);
                let (db, keys) = (name.db, &[name.key]);
                let wanted = Wanted { db, keys, count: 1, of_set: false, free: &[] };
                wait_or_refuse(call, wanted, &ask, asker)?;
            }
        }
        Ok(())
    }
}
