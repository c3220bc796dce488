//! `GPULOCK.INSPECT`: tells all that is known of one lock.

use gpulock_core::inspect::{Inspection, Place};
use gpulock_core::lease::Left;
use gpulock_core::lock::Bytes;
use gpulock_core::{Fault, Keeper, Name};

use crate::look;
use crate::server::access::Readable;
use crate::server::call::Call;
use crate::server::commands::{Argument, Command, Keys, READS, Spec};
use crate::server::reply::Reply;
use crate::server::state::{now, with_keeper};

pub(crate) struct Inspect;

impl Command for Inspect {
    const SPEC: Spec = Spec {
        name: c"GPULOCK.INSPECT",
        flags: c"readonly fast",
        acl: c"read fast",
        arity: 2,
        keys: Keys::First(READS),
        summary:
            c"Tells who holds a lock, since when and for how long, and who waits for it.",
        complexity: c"O(1)",
        tips: Some(c"nondeterministic_output"),
        arguments: &[Argument::KEY],
    };

    fn run(call: Call<'_>) -> Result<(), Fault> {
        let name = call.lock()?;
        let key = call.open_to_look()?;
        let seen = look::shown(&key, name);
        let inspect = |keeper: &mut Keeper| keeper.inspect(name, &seen, now());
        match with_keeper(inspect)? {
            Some(inspection) => tell(call, &inspection)?,
            None => call.reply().null(),
        }
        Ok(())
    }
}

/// What is left of a lease; one without an end as `PTTL` says it.
pub(super) fn lease(left: Left, reply: Reply<'_>) {
    match left {
        Left::NotHeld => reply.null(),
        Left::Forever => reply.integer(-1),
        Left::Ms(ms) => reply.number(ms),
    }
}

fn tell(call: Call<'_>, inspection: &Inspection) -> Result<(), Fault> {
    let reply = call.reply();
    let tells_others = inspection.waiters.iter().any(|place| !place.set_aside.is_empty());
    let readable = tells_others.then(|| Readable::by_caller_of(call)).transpose()?;
    reply.map(10);
    reply.field("owner").bytes_or_null(inspection.owner.as_deref());
    reply.field("token").number_or_null(inspection.token);
    lease(inspection.lease, reply.field("lease_ms"));
    reply.field("held_ms").number_or_null(inspection.held_ms);
    reply.field("session").number_or_null(inspection.session);
    reply.field("grace_ms").number_or_null(inspection.grace_ms);
    reply.field("adopted").number_or_null(inspection.adopted.map(u64::from));
    reply.field("reserved_for").bytes_or_null(inspection.reserved_for.as_deref());
    reply.field("waiting").number(inspection.waiting);
    reply.field("waiters").array(inspection.waiters.len());
    for place in &inspection.waiters {
        tell_place(place, call.context().db(), readable.as_ref(), reply);
    }
    Ok(())
}

/// A place; of what is set aside for it, the keys that the caller may read.
fn tell_place(place: &Place, db: u32, readable: Option<&Readable<'_>>, reply: Reply<'_>) {
    reply.map(6);
    reply.field("owner").bytes(&place.owner);
    reply.field("client").number_or_null(place.client);
    reply.field("waited_ms").number(place.waited_ms);
    reply.field("wants").count(place.wants);
    reply.field("of").count(place.of);
    let may_read = |key: &&Bytes| {
        readable.is_some_and(|readable| readable.has(Name { db, key: key.as_slice() }))
    };
    let set_aside: Vec<&Bytes> = place.set_aside.iter().filter(may_read).collect();
    reply.field("reserved").array(set_aside.len());
    for key in set_aside {
        reply.bytes(key);
    }
}
