//! `GPULOCK.ACQUIREANY`: takes any so many of some locks, all at once, or waits in line for
//! them.

use gpulock_core::acquire_any::AcquiredAny;
use gpulock_core::seen::Shown;
use gpulock_core::wait::Wanted;
use gpulock_core::{Fault, Name, request};

use super::wait::{asker, wait_or_refuse};
use crate::server::call::Call;
use crate::server::commands::{
    Argument, BLOCK, Command, Keys, LEASE, MAY_WRITE, SESSION, Spec, UNIQUE,
};
use crate::server::state::{now, with_keeper};
use crate::{hand_off, look};

pub(crate) struct AcquireAny;

impl Command for AcquireAny {
    const SPEC: Spec = Spec {
        name: c"GPULOCK.ACQUIREANY",
        flags: c"write blocking getkeys-api",
        acl: c"write slow blocking",
        arity: -4,
        keys: Keys::Counted(MAY_WRITE),
        summary: c"Takes any so many of some locks, all at once, waiting in line for them if asked to, and returns each with its fencing token.",
        complexity: c"O(K), and O(K*log N) when it waits, with K the keys and N the clients that wait",
        tips: None,
        arguments: &[
            Argument::integer(c"numkeys"),
            Argument::KEY.several(),
            Argument::text(c"owner"),
            Argument::integer(c"n").after(c"COUNT").optional(),
            LEASE,
            BLOCK,
            UNIQUE,
            SESSION,
        ],
    };

    fn run(call: Call<'_>) -> Result<(), Fault> {
        with_keeper(|keeper| keeper.may_write())?;
        let db = call.context().db();
        let asked = request::AcquireAny::parse(call.arguments_from(0));
        let ask = asked
            .inspect_err(|_| with_keeper(|keeper| keeper.acquire_any_asked(db, &[])))?;
        let asker = asker(call, &ask.how);
        let mut shown = Vec::new();
        for place in 1..=ask.keys.len() {
            let name = call.argument(place)?;
            let key = call.context().open(name);
            let seen = look::shown(&key, Name { db, key: name.bytes() });
            shown.push(Shown::from(seen));
        }
        let decide =
            with_keeper(|keeper| keeper.acquire_any(db, &ask, &shown, asker, now()))?;
        match decide {
            AcquiredAny::Granted { parts, grants } => {
                hand_off::write(call.context(), &parts);
                call.reply().grants(&grants);
            }
            AcquiredAny::Contested { free } => {
                let (keys, count) = (&ask.keys, ask.count);
                let wanted = Wanted { db, keys, count, of_set: true, free: &free };
                wait_or_refuse(call, wanted, &ask.how, asker)?;
            }
        }
        Ok(())
    }
}
