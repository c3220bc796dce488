//! `GPULOCK.STATS`: returns the counters of the server, or of one lock.

use gpulock_core::state::histogram::Histogram;
use gpulock_core::{CommandError, Name, request};

use crate::manager::with_manager;
use crate::redis::acl::Readable;
use crate::redis::call::Call;
use crate::redis::command_spec::{Argument, Command, Keys, Spec};
use crate::redis::reply::Reply;
use crate::report::figures::{Figures, bound_name};

pub(crate) struct Stats;

impl Command for Stats {
    const SPEC: Spec = Spec {
        name: c"GPULOCK.STATS",
        flags: c"readonly fast allow-loading allow-stale",
        acl: c"read fast",
        arity: -1,
        keys: Keys::After(c"KEY"),
        summary: c"Returns the counters of the server, or of one lock.",
        complexity: c"O(1)",
        tips: Some(c"nondeterministic_output\nrequest_policy:all_nodes"),
        arguments: &[Argument::KEY.after(c"KEY").optional()],
    };

    fn run(call: Call<'_>) -> Result<(), CommandError> {
        let key = request::stats(call.arguments_from(0))?;
        let figures = match key {
            None => {
                Some(with_manager(|manager| Figures::of_server(manager).into_owned()))
            }
            Some(key) => {
                let name = Name { db: call.context().db(), key };
                let readable = Readable::by_caller_of(call)?.has(name);
                with_manager(|manager| manager.settle_counters(name));
                let figures = || {
                    with_manager(|manager| {
                        Some(Figures::of_lock(manager, name)?.into_owned())
                    })
                };
                readable.then(figures).flatten()
            }
        };
        match figures {
            Some(figures) => report(&figures, call.reply()),
            None => call.reply().null(),
        }
        Ok(())
    }
}

fn report(figures: &Figures<'_>, reply: Reply<'_>) {
    let numbers = figures.numbers();
    reply.map(numbers.len().saturating_add(figures.histograms().len()));
    for number in numbers {
        reply.field(number.name).number(number.value);
    }
    for (name, histogram) in figures.histograms() {
        report_histogram(histogram, reply.field(name));
    }
}

fn report_histogram(histogram: &Histogram, reply: Reply<'_>) {
    reply.map(3);
    reply.field("count").number(histogram.count());
    reply.field("sum").number(histogram.sum());
    let buckets: Vec<_> = histogram.cumulative().collect();
    reply.field("buckets").map(buckets.len());
    for (bound, count) in buckets {
        reply.field(&bound_name(bound)).number(count);
    }
}
