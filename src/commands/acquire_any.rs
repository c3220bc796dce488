//! `GPULOCK.ACQUIREANY`: acquires any n of a set of locks, all or none, or waits for them.

use gpulock_core::engine::commands::{self, Outcome};
use gpulock_core::rules::acquire_any::KeyGrant;
use gpulock_core::{CommandError, request};

use super::wait::{block, caller_context};
use crate::keyspace::ServerKeys;
use crate::manager::with_manager;
use crate::redis::call::Call;
use crate::redis::command_spec::{
    Argument, BLOCK, Command, Keys, LEASE, MAY_WRITE, PRIORITY, SESSION, SHARE, Spec,
    UNIQUE,
};

pub(crate) struct AcquireAny;

impl Command for AcquireAny {
    const SPEC: Spec = Spec {
        name: c"GPULOCK.ACQUIREANY",
        flags: c"write blocking",
        acl: c"write slow blocking",
        arity: -4,
        keys: Keys::Counted(MAY_WRITE),
        summary: c"Acquires any n of the given locks, or n of each of several groups, all or none, and returns their keys and fencing tokens. Waits in their queues if BLOCK is given.",
        complexity: c"O(K), or O(K*log N) if the call waits, where K is the number of keys and N is the number of waiting clients. O(K*log K) more with NEAR.",
        tips: None,
        arguments: &[
            Argument::integer(c"numkeys"),
            Argument::KEY.several(),
            Argument::text(c"owner"),
            Argument::block(
                c"locks",
                &[
                    Argument::integer(c"n").after(c"COUNT"),
                    Argument::block(
                        c"groups",
                        &[
                            Argument::integer(c"m").after(c"GROUPS"),
                            Argument::integer(c"numgroups"),
                            Argument::integer(c"size").several(),
                        ],
                    )
                    .optional(),
                ],
            )
            .optional(),
            Argument::text(c"tag").after(c"NEAR").optional(),
            LEASE,
            BLOCK,
            UNIQUE,
            SESSION,
            PRIORITY,
            SHARE,
        ],
    };

    fn run(call: Call<'_>) -> Result<(), CommandError> {
        with_manager(|manager| manager.may_write())?;
        let db = call.context().db();
        let parsed = request::AcquireAny::parse(call.arguments_from(0));
        let request = parsed.inspect_err(|_| {
            with_manager(|manager| manager.count_acquire_any(db, &[]));
        })?;
        let caller = caller_context(call, &request.how);
        let mut keys = ServerKeys::of_command(call);
        let open = |_: &mut ServerKeys<'_>, index: usize| {
            Ok(call.context().open(call.argument(index.saturating_add(1))?))
        };
        match commands::acquire_any(&mut keys, db, &request, caller, open)? {
            Outcome::Granted(grants) => {
                let key = |index: usize| request.keys.get(index).copied();
                let pair = |it: &KeyGrant| (key(it.index).unwrap_or_default(), it.token);
                call.reply().grants(grants.iter().map(pair));
            }
            Outcome::Refused => call.reply().null(),
            Outcome::Waits(ticket) => block(call, ticket)?,
        }
        Ok(())
    }
}
