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
        complexity: c"O(N) where N is the number of locks returned and of locks before them that do not match; bounded for each call.",
        tips: Some(c"nondeterministic_output\nrequest_policy:all_nodes"),
        arguments: &[
            Argument::pattern(c"pattern").after(c"MATCH").optional(),
            Argument::integer(c"n").after(c"LIMIT").optional(),
            Argument::integer(c"cursor").after(c"CURSOR").optional(),
        ],
    };

    fn run(call: Call<'_>) -> Result<(), CommandError> {
        let request = request::List::parse(call.arguments_from(0))?;
        let reply = call.reply();
        let rows = match request.cursor {
            None => by_age(call, &request)?,
            Some(cursor) => {
                let (next, rows) = portion(call, &request, cursor)?;
                reply.array(2);
                reply.number(next);
                rows
            }
        };
        reply.array(rows.len());
        for row in &rows {
            report(row, reply);
        }
        Ok(())
    }
}

/// The locks by age. Reads the key of each matching lock that the caller may read.
fn by_age(call: Call<'_>, request: &request::List<'_>) -> Result<Vec<Row>, CommandError> {
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
            walk.steps.pay_for_denied(&key);
            continue;
        }
        match list_row(&mut keys, id) {
            Listed::Row(row) => {
                walk.steps.pay_for_row(&row);
                rows.push(row);
                continue;
            }
            Listed::Adopted => with_manager(|manager| manager.walk_to_adopted(&mut walk)),
            Listed::Gone => {}
        }
        walk.steps.pay_for_probe();
    }
    Ok(rows)
}

/// A portion of all locks, in no order, and the cursor of the next one.
fn portion(
    call: Call<'_>,
    request: &request::List<'_>,
    cursor: u64,
) -> Result<(u64, Vec<Row>), CommandError> {
    let db = call.context().db();
    let readable = Readable::by_caller_of(call)?;
    let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
    let mut keys = ServerKeys::of_command(call);
    let mut rows = Vec::new();
    let mut scan = with_manager(|manager| manager.scan(db, request.pattern, cursor));
    while rows.len() < limit
        && let Some((id, key)) = with_manager(|manager| manager.scan_on(&mut scan))?
    {
        if !readable.has(Name { db, key: &key }) {
            scan.steps.pay_for_denied(&key);
            continue;
        }
        // The second time, the row is that of the hold that the first one adopted, or of the queue of
        // a lock whose hold has just ended.
        let listed = match list_row(&mut keys, id) {
            Listed::Adopted | Listed::Gone => list_row(&mut keys, id),
            listed => listed,
        };
        match listed {
            Listed::Row(row) => {
                scan.steps.pay_for_row(&row);
                rows.push(row);
            }
            Listed::Adopted | Listed::Gone => scan.steps.pay_for_probe(),
        }
    }
    Ok((scan.cursor(), rows))
}

fn report(row: &Row, reply: Reply<'_>) {
    reply.map(7);
    reply.field("key").bytes(&row.key);
    reply.field("owner").bytes_or_null(row.owner.as_deref());
    reply.field("token").number_or_null(row.token);
    lease(row.lease, reply.field("lease_ms"));
    reply.field("held_ms").number_or_null(row.held_ms);
    reply.field("waiting").number(row.waiting);
    reply.field("revoked_ms").number_or_null(row.revoked_ms);
}
