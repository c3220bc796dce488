//! `GPULOCK.INSPECT`: tells all that is known of one lock.

use gpulock_core::inspect::{Inspection, Place};
use gpulock_core::lease::Left;
use gpulock_core::{Fault, Keeper};

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
        let seen = key.look();
        let look = |keeper: &mut Keeper| keeper.inspect(name, &seen, now());
        match with_keeper(look)? {
            Some(inspection) => tell(&inspection, call.reply()),
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

fn tell(inspection: &Inspection, reply: Reply<'_>) {
    reply.map(10);
    reply.field("owner").bytes_or_null(inspection.owner.as_deref());
    reply.field("token").number_or_null(inspection.token);
    lease(inspection.lease, reply.field("lease_ms"));
    reply.field("held_ms").number_or_null(inspection.held_ms);
    reply.field("session").number_or_null(inspection.session);
    reply.field("grace_ms").number_or_null(inspection.grace_ms);
    reply.field("adopted").number_or_null(inspection.adopted.map(u64::from));
    reply.field("reserved_for").null();
    reply.field("waiting").number(inspection.waiting);
    reply.field("waiters").array(inspection.waiters.len());
    for place in &inspection.waiters {
        tell_place(place, reply);
    }
}

/// Every waiter wants one lock of one, and has none set aside, until sets can be asked for.
fn tell_place(place: &Place, reply: Reply<'_>) {
    reply.map(6);
    reply.field("owner").bytes(&place.owner);
    reply.field("client").number_or_null(place.client);
    reply.field("waited_ms").number(place.waited_ms);
    reply.field("wants").number(1);
    reply.field("of").number(1);
    reply.field("set_aside").array(0);
}
