//! `GPULOCK.LIST`: lists the locks of a database, longest held first.

use gpulock_core::engine::commands::list_row;
use gpulock_core::report::list::{Listed, Row};
use gpulock_core::{CommandError, Name, request};

use super::inspect::lease;
use crate::keyspace::ServerKeys;
use crate::manager::with_manager;
use crate::redis::acl::Readable;
use crate::redis::call::Call;
use crate::redis::command_spec::{Argument, Command, Keys, Spec};
use crate::redis::reply::Reply;

pub(crate) struct List;

impl Command for List {
    const SPEC: Spec = Spec {
        name: c"GPULOCK.LIST",
        flags: c"readonly",
        acl: c"read slow",
        arity: -1,
        keys: Keys::None,
        summary: c"Lists the locks of the current database, longest held first.",
        complexity: c"O(N) where N is the number of locks returned and of locks before them that do not match.",
        tips: Some(c"nondeterministic_output\nrequest_policy:all_nodes"),
        arguments: &[
            Argument::pattern(c"pattern").after(c"MATCH").optional(),
            Argument::integer(c"n").after(c"LIMIT").optional(),
        ],
    };

    fn run(call: Call<'_>) -> Result<(), CommandError> {
        let request = request::List::parse(call.arguments_from(0))?;
        let rows = rows(call, &request)?;
        call.reply().array(rows.len());
        for row in &rows {
            report(row, call.reply());
        }
        Ok(())
    }
}

/// Walks over the matching locks, and reads the key of each one that the caller may read.
fn rows(call: Call<'_>, request: &request::List<'_>) -> Result<Vec<Row>, CommandError> {
    let db = call.context().db();
    let readable = Readable::by_caller_of(call)?;
    let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
    let mut keys = ServerKeys::of_command(call);
    let mut rows = Vec::new();
    let mut walk = with_manager(|manager| manager.walk(db, request.pattern));
    while rows.len() < limit
        && let Some((id, key)) = with_manager(|manager| manager.walk_on(&mut walk))?
    {
        if !readable.has(Name { db, key: &key }) {
            walk.pay_for_denied(&key)?;
            continue;
        }
        match list_row(&mut keys, id) {
            Listed::Row(row) => {
                rows.push(row);
                continue;
            }
            Listed::Adopted => with_manager(|manager| manager.walk_to_adopted(&mut walk)),
            Listed::Gone => {}
        }
        walk.pay_for_probe()?;
    }
    Ok(rows)
}

fn report(row: &Row, reply: Reply<'_>) {
    reply.map(6);
    reply.field("key").bytes(&row.key);
    reply.field("owner").bytes_or_null(row.owner.as_deref());
    reply.field("token").number_or_null(row.token);
    lease(row.lease, reply.field("lease_ms"));
    reply.field("held_ms").number_or_null(row.held_ms);
    reply.field("waiting").number(row.waiting);
}
