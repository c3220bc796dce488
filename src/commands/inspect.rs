//! `GPULOCK.INSPECT`: tells all that is known of one lock.

use gpulock_core::inspect::Inspection;
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
        summary: c"Tells who holds a lock, since when and for how long.",
        complexity: c"O(1)",
        tips: Some(c"nondeterministic_output"),
        arguments: &[Argument::KEY],
    };

    fn run(call: Call<'_>) -> Result<(), Fault> {
        let name = call.lock()?;
        let key = call.open_untouched()?;
        let seen = key.look();
        let look = |keeper: &mut Keeper| keeper.inspect(name, &seen, now());
        match with_keeper(look)? {
            Some(inspection) => tell(&inspection, call.reply()),
            None => call.reply().null(),
        }
        Ok(())
    }
}

/// The lease of a lock that has no end, as `PTTL` says it.
pub(super) fn lease(lease_ms: Option<u64>, reply: Reply<'_>) {
    match lease_ms {
        Some(ms) => reply.number(ms),
        None => reply.integer(-1),
    }
}

fn tell(inspection: &Inspection, reply: Reply<'_>) {
    reply.map(10);
    reply.field("owner").bytes_or_null(inspection.owner.as_deref());
    reply.field("token").number_or_null(inspection.token);
    lease(inspection.lease_ms, reply.field("lease_ms"));
    reply.field("held_ms").number_or_null(inspection.held_ms);
    reply.field("session").null();
    reply.field("grace_ms").null();
    reply.field("adopted").number(u64::from(inspection.adopted));
    reply.field("reserved_for").null();
    reply.field("waiting").number(0);
    reply.field("waiters").array(0);
}
