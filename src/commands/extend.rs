//! `GPULOCK.EXTEND`: sets the lease of a held lock anew, if the caller holds it.

use gpulock_core::extend::Extended;
use gpulock_core::{Fault, request};

use crate::look;
use crate::server::call::Call;
use crate::server::commands::{Argument, Command, Keys, LEASE, MAY_WRITE, Spec, TOKEN};
use crate::server::state::{now, with_keeper};

pub(crate) struct Extend;

impl Command for Extend {
    const SPEC: Spec = Spec {
        name: c"GPULOCK.EXTEND",
        flags: c"write fast",
        acl: c"write fast",
        arity: -3,
        keys: Keys::First(MAY_WRITE),
        summary: c"Sets the lease anew, counted from now, if the owner holds the lock.",
        complexity: c"O(1)",
        tips: None,
        arguments: &[Argument::KEY, Argument::text(c"owner"), LEASE, TOKEN],
    };

    fn run(call: Call<'_>) -> Result<(), Fault> {
        let name = call.lock()?;
        with_keeper(|keeper| keeper.may_write())?;
        let ask = request::Extend::parse(call.arguments_from(1))?;
        let mut key = call.open()?;
        let seen = look::shown(&key, name);
        match with_keeper(|keeper| keeper.extend(name, &ask, &seen, now()))? {
            Extended::Renewed { token, until_ms } => {
                key.expire(until_ms);
                call.reply().number(token);
            }
            Extended::NotHeld => call.reply().null(),
        }
        Ok(())
    }
}
