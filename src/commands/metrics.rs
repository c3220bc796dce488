//! `GPULOCK.METRICS`: tells the counters as Prometheus reads them.

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
        summary: c"Tells the counters in the text format of Prometheus.",
        complexity: c"O(N) with N the locks that have counters of their own; at most 1024 are shown",
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
