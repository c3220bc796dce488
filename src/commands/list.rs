//! `GPULOCK.LIST`: tells the locks of a database, the one held longest first.

use gpulock_core::list::{Listed, Row};
use gpulock_core::{Fault, Name, request};

use super::inspect::lease;
use crate::look;
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
        complexity:
            c"O(N) with N the locks shown, and those before them that do not match",
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

/// Walks over the locks that match, and looks at the key of each that the caller may read.
fn rows(call: Call<'_>, ask: &request::List<'_>) -> Result<Vec<Row>, Fault> {
    let db = call.context().db();
    let readable = Readable::by_caller_of(call)?;
    let limit = usize::try_from(ask.limit).unwrap_or(usize::MAX);
    let mut rows = Vec::new();
    let mut walk = with_keeper(|keeper| keeper.walk(db, ask.pattern));
    while rows.len() < limit
        && let Some((id, key)) = with_keeper(|keeper| keeper.walk_on(&mut walk))?
    {
        if !readable.has(Name { db, key: &key }) {
            walk.pay_for_denied(&key)?;
            continue;
        }
        let name = Name { db, key: &key };
        let listed = call.context().with_key(name.key, |key| {
            if key.lease().is_some_and(|lease| look::end_if_set_anew(&key, name, lease)) {
                let lock =
                    with_keeper(|keeper| Some(keeper.table().get(id)?.hold.is_some()));
                return if lock == Some(true) { Listed::Adopted } else { Listed::Gone };
            }
            let seen = key.look();
            with_keeper(|keeper| keeper.list_row(id, &seen, now()))
        });
        match listed {
            Listed::Row(row) => {
                rows.push(row);
                continue;
            }
            Listed::Adopted => with_keeper(|keeper| keeper.walk_to_adopted(&mut walk)),
            Listed::Gone => {}
        }
        walk.pay_for_look()?;
    }
    Ok(rows)
}

fn tell(row: &Row, reply: Reply<'_>) {
    reply.map(6);
    reply.field("key").bytes(&row.key);
    reply.field("owner").bytes_or_null(row.owner.as_deref());
    reply.field("token").number_or_null(row.token);
    lease(row.lease, reply.field("lease_ms"));
    reply.field("held_ms").number_or_null(row.held_ms);
    reply.field("waiting").number(row.waiting);
}
