//! `GPULOCK.METRICS`: returns the counters in the Prometheus text format.

use gpulock_core::CommandError;

use crate::redis::acl::Readable;
use crate::redis::call::Call;
use crate::redis::command_spec::{Command, Keys, Spec};

pub(crate) struct Metrics;

impl Command for Metrics {
    const SPEC: Spec = Spec {
        name: c"GPULOCK.METRICS",
        flags: c"readonly allow-loading allow-stale",
        acl: c"read slow",
        arity: 1,
        keys: Keys::None,
        summary: c"Returns the counters in the Prometheus text format.",
        complexity: c"O(N) where N is the number of locks with their own counters. At most 1024 of them are returned.",
        tips: Some(c"nondeterministic_output\nrequest_policy:all_nodes"),
        arguments: &[],
    };

    fn run(call: Call<'_>) -> Result<(), CommandError> {
        let readable = Readable::by_caller_of(call)?;
        let text = crate::report::metrics::text(|name| readable.has(name));
        call.reply().bytes(&text);
        Ok(())
    }
}
