//! `GPULOCK.LIST`: tells the locks of a database, the one held longest first.

use gpulock_core::list::Row;
use gpulock_core::{Fault, Keeper, glob, request};

use super::inspect::lease;
use crate::server::access::Readable;
use crate::server::call::Call;
use crate::server::commands::{Argument, Command, Keys, Spec};
use crate::server::reply::Reply;
use crate::server::state::{now, with_keeper};

pub(crate) struct List;

impl Command for List {
    const SPEC: Spec = Spec {
        name: c"GPULOCK.LIST",
        flags: c"readonly",
        acl: c"read slow",
        arity: -1,
        keys: Keys::None,
        summary: c"Tells the locks of this database, the one held longest first.",
        complexity: c"O(N) with N the locks walked: LIMIT, and all that do not match",
        tips: Some(c"nondeterministic_output\nrequest_policy:all_nodes"),
        arguments: &[
            Argument::pattern(c"pattern").after(c"MATCH").optional(),
            Argument::integer(c"n").after(c"LIMIT").optional(),
        ],
    };

    fn run(call: Call<'_>) -> Result<(), Fault> {
        let ask = request::List::parse(call.arguments_from(0))?;
        let rows = rows(call, &ask)?;
        call.reply().array(rows.len());
        for row in &rows {
            tell(row, call.reply());
        }
        Ok(())
    }
}

/// Walks over the held locks, and looks at the key of each that is shown.
fn rows(call: Call<'_>, ask: &request::List<'_>) -> Result<Vec<Row>, Fault> {
    let context = call.context();
    let db = context.db();
    let readable = Readable::by_caller_of(call)?;
    let limit = usize::try_from(ask.limit).unwrap_or(usize::MAX);
    let mut rows = Vec::new();
    let mut place = with_keeper(|keeper| keeper.table().oldest());
    while let Some(id) = place.filter(|_| rows.len() < limit) {
        let wanted = |keeper: &mut Keeper| {
            let lock = keeper.table().get(id)?;
            let fits = ask.pattern.is_none_or(|pattern| glob::fits(pattern, &lock.key));
            (lock.db == db && fits).then(|| lock.key.clone())
        };
        let (wanted, next) =
            with_keeper(|keeper| (wanted(keeper), keeper.table().after(id)));
        place = next;
        if let Some(key) = wanted.filter(|key| readable.has(key)) {
            let row = context.with_key(&key, |key| {
                let seen = key.look();
                with_keeper(|keeper| keeper.list_row(id, &seen, now()))
            });
            rows.extend(row);
        }
    }
    Ok(rows)
}

fn tell(row: &Row, reply: Reply<'_>) {
    reply.map(6);
    reply.field("key").bytes(&row.key);
    reply.field("owner").bytes(&row.owner);
    reply.field("token").number_or_null(row.token);
    lease(row.lease_ms, reply.field("lease_ms"));
    reply.field("held_ms").number_or_null(row.held_ms);
    reply.field("waiting").number(0);
}
