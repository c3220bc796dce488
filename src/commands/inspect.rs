//! `GPULOCK.INSPECT`: reports the state of one lock.

use gpulock_core::engine::read::state_of;
use gpulock_core::report::inspect::{Inspection, Position};
use gpulock_core::state::lease::Left;
use gpulock_core::state::lock::Bytes;
use gpulock_core::{CommandError, Name};

use crate::keyspace::ServerKeys;
use crate::manager::{now, with_manager};
use crate::redis::acl::Readable;
use crate::redis::call::Call;
use crate::redis::command_spec::{Argument, Command, Keys, READS, Spec};
use crate::redis::reply::Reply;

pub(crate) struct Inspect;

impl Command for Inspect {
    const SPEC: Spec = Spec {
        name: c"GPULOCK.INSPECT",
        flags: c"readonly fast",
        acl: c"read fast",
        arity: 2,
        keys: Keys::First(READS),
        summary: c"Returns the owner, the lease and the queue of a lock.",
        complexity: c"O(1)",
        tips: Some(c"nondeterministic_output"),
        arguments: &[Argument::KEY],
    };

    fn run(call: Call<'_>) -> Result<(), CommandError> {
        let name = call.lock()?;
        let key = call.open_to_probe()?;
        let state = state_of(&mut ServerKeys::of_command(call), &key, name);
        match with_manager(|manager| manager.inspect(name, &state, now()))? {
            Some(inspection) => report(call, &inspection)?,
            None => call.reply().null(),
        }
        Ok(())
    }
}

/// The rest of a lease; -1 for a lease without an end, as in `PTTL`.
pub(super) fn lease(left: Left, reply: Reply<'_>) {
    match left {
        Left::NotHeld => reply.null(),
        Left::Forever => reply.integer(-1),
        Left::Ms(ms) => reply.number(ms),
    }
}

fn report(call: Call<'_>, inspection: &Inspection) -> Result<(), CommandError> {
    let reply = call.reply();
    let has_reserved = inspection.waiters.iter().any(|position| {
        position.reserved.as_ref().is_some_and(|reserved| !reserved.is_empty())
    });
    let readable = has_reserved.then(|| Readable::by_caller_of(call)).transpose()?;
    reply.map(13);
    reply.field("owner").bytes_or_null(inspection.owner.as_deref());
    reply.field("token").number_or_null(inspection.token);
    lease(inspection.lease, reply.field("lease_ms"));
    reply.field("held_ms").number_or_null(inspection.held_ms);
    reply.field("session").number_or_null(inspection.session);
    reply.field("grace_ms").number_or_null(inspection.grace_ms);
    reply.field("adopted").number_or_null(inspection.adopted.map(u64::from));
    reply.field("reserved_for").bytes_or_null(inspection.reserved_for.as_deref());
    reply.field("revoked_ms").number_or_null(inspection.revoked_ms);
    reply.field("revoked_reason").bytes_or_null(inspection.revoked_reason.as_deref());
    reply.field("share").bytes_or_null(inspection.share.as_deref());
    reply.field("waiting").number(inspection.waiting);
    reply.field("waiters").array(inspection.waiters.len());
    for position in &inspection.waiters {
        report_position(position, call.context().db(), readable.as_ref(), reply);
    }
    Ok(())
}

/// A position. Of the locks reserved for it, only the keys that the caller may read are reported.
fn report_position(
    position: &Position,
    db: u32,
    readable: Option<&Readable<'_>>,
    reply: Reply<'_>,
) {
    reply.map(9);
    reply.field("owner").bytes(&position.owner);
    reply.field("client").number_or_null(position.client);
    reply.field("waited_ms").number(position.waited_ms);
    reply.field("wants").count(position.wants);
    reply.field("of").count(position.of);
    let groups = position.groups.and_then(|groups| u64::try_from(groups).ok());
    reply.field("groups").number_or_null(groups);
    reply.field("priority").integer(position.priority);
    reply.field("share").bytes_or_null(position.share.as_deref());
    let Some(reserved) = &position.reserved else {
        reply.field("reserved").null();
        return;
    };
    let may_read = |key: &&Bytes| {
        readable.is_some_and(|readable| readable.has(Name { db, key: key.as_slice() }))
    };
    let reserved: Vec<&Bytes> = reserved.iter().filter(may_read).collect();
    reply.field("reserved").array(reserved.len());
    for key in reserved {
        reply.bytes(key);
    }
}
