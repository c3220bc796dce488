//! `GPULOCK.LOG`: returns or clears the log of problems with locks.

use gpulock_core::state::lock::Bytes;
use gpulock_core::state::log::Entry;
use gpulock_core::{CommandError, LockManager, Name, request};

use crate::manager::with_manager;
use crate::redis::acl::Readable;
use crate::redis::call::Call;
use crate::redis::command_spec::{Argument, Command, Keys, Spec};
use crate::redis::reply::Reply;

pub(crate) struct Log;

/// The number of entries that one call looks at: the server serves no other client meanwhile.
const ENTRIES_MAX: usize = 500;

/// The number of entries whose keys are copied at a time, to check whether the caller may read
/// them.
const PORTION: usize = 64;

impl Command for Log {
    const SPEC: Spec = Spec {
        name: c"GPULOCK.LOG",
        flags: c"readonly allow-loading allow-stale",
        acl: c"read slow dangerous",
        arity: -1,
        keys: Keys::None,
        summary: c"Returns or clears the log of problems with locks, newest first.",
        complexity: c"O(N) where N is the number of entries looked at, at most 500.",
        tips: Some(c"nondeterministic_output\nrequest_policy:all_nodes"),
        arguments: &[Argument::one_of(
            c"what",
            &[
                Argument::block(
                    c"entries",
                    &[
                        Argument::integer(c"count"),
                        Argument::integer(c"n").after(c"OFFSET").optional(),
                    ],
                ),
                Argument::word(c"reset", c"RESET"),
            ],
        )
        .optional()],
    };

    fn run(call: Call<'_>) -> Result<(), CommandError> {
        match request::log(call.arguments_from(0))? {
            request::Log::Reset => {
                with_manager(LockManager::reset_log);
                call.reply().ok();
            }
            request::Log::Show { count, offset } => {
                let size = |number| usize::try_from(number).unwrap_or(usize::MAX);
                let count = count.map_or(usize::MAX, size);
                let readable = Readable::by_caller_of(call)?;
                let entries = readable_entries(&readable, count, size(offset));
                call.reply().array(entries.len());
                for entry in &entries {
                    report(entry, call.reply());
                }
            }
        }
        Ok(())
    }
}

/// The entries from `offset` on that the caller may read, at most `count`.
fn readable_entries(readable: &Readable<'_>, count: usize, offset: usize) -> Vec<Entry> {
    let mut entries = Vec::new();
    let end = offset.saturating_add(ENTRIES_MAX);
    let mut newer = offset;
    while entries.len() < count && newer < end {
        let locks: Vec<_> = with_manager(|manager| {
            let portion =
                manager.log().range(newer, PORTION.min(end.saturating_sub(newer)));
            let name = |(db, key): &(u32, Box<[u8]>)| (*db, Bytes::from_slice(key));
            portion.map(|entry| entry.subject.lock.as_ref().map(name)).collect()
        });
        if locks.is_empty() {
            break;
        }
        for lock in locks {
            let may_read =
                lock.is_none_or(|(db, key)| readable.has(Name { db, key: &key }));
            if may_read && entries.len() < count {
                entries.extend(with_manager(|manager| manager.log().get(newer).cloned()));
            }
            newer = newer.saturating_add(1);
        }
    }
    entries
}

fn report(entry: &Entry, reply: Reply<'_>) {
    let subject = &entry.subject;
    let lock = subject.lock.as_ref();
    reply.map(11);
    reply.field("kind").bytes(subject.kind.name().as_bytes());
    reply.field("db").number_or_null(lock.map(|(db, _)| u64::from(*db)));
    reply.field("key").bytes_or_null(lock.map(|(_, key)| &**key));
    reply.field("holder").bytes_or_null(subject.holder.as_deref());
    reply.field("token").number_or_null(entry.token);
    reply.field("caller").bytes_or_null(subject.caller.as_deref());
    reply.field("client").bytes_or_null(entry.client_line.as_deref());
    reply.field("held_ms").number_or_null(entry.held_ms);
    reply.field("reason").bytes(&subject.reason);
    reply.field("unix_ms").number(entry.unix_ms);
    reply.field("count").number(entry.count);
}
