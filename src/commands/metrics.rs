//! `GPULOCK.METRICS`: returns the counters in the Prometheus text format, as a whole or in portions.

use gpulock_core::{CommandError, Name, request};

use crate::manager::with_manager;
use crate::redis::acl::Readable;
use crate::redis::call::Call;
use crate::redis::command_spec::{Argument, Command, Keys, Spec};
use crate::report::metrics;

pub(crate) struct Metrics;

impl Command for Metrics {
    const SPEC: Spec = Spec {
        name: c"GPULOCK.METRICS",
        flags: c"readonly allow-loading allow-stale",
        acl: c"read slow",
        arity: -1,
        keys: Keys::None,
        summary: c"Returns the counters in the Prometheus text format.",
        complexity: c"O(N) where N is the number of locks looked at, at most 1024.",
        tips: Some(c"nondeterministic_output\nrequest_policy:all_nodes"),
        arguments: &[Argument::block(
            c"portion",
            &[
                Argument::integer(c"cursor").after(c"CURSOR"),
                Argument::integer(c"n").after(c"COUNT").optional(),
            ],
        )
        .optional()],
    };

    fn run(call: Call<'_>) -> Result<(), CommandError> {
        let request = request::metrics(call.arguments_from(0))?;
        let readable = Readable::by_caller_of(call)?;
        let may_read = |name: Name<'_>| readable.has(name);
        match request {
            request::Metrics::Whole => {
                let text = metrics::whole(may_read);
                call.reply().bytes(&text);
            }
            request::Metrics::Portion { cursor, count } => {
                // Each cursor that was returned is the number of a lock, or the next one.
                let last = with_manager(|manager| manager.table().last_number());
                if cursor > last {
                    return Err(CommandError::Cursor);
                }
                let portion = metrics::portion(cursor, count, may_read);
                call.reply().array(2);
                call.reply().number(portion.next);
                call.reply().bytes(&portion.text);
            }
        }
        Ok(())
    }
}
