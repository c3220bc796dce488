//! `GPULOCK.LIST`: tells the locks of a database, the one held longest first.

use gpulock_core::arena::Id;
use gpulock_core::list::{Listed, Row};
use gpulock_core::{Fault, Name, glob, request};

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

/// Walks over the held locks, then over those that are only waited for, and looks at the
/// key of each that is shown.
fn rows(call: Call<'_>, ask: &request::List<'_>) -> Result<Vec<Row>, Fault> {
    let shown = Shown {
        db: call.context().db(),
        pattern: ask.pattern,
        readable: Readable::by_caller_of(call)?,
    };
    let limit = usize::try_from(ask.limit).unwrap_or(usize::MAX);
    let mut rows = Vec::new();
    let mut place = with_keeper(|keeper| keeper.table().oldest());
    while let Some(id) = place.filter(|_| rows.len() < limit) {
        place = with_keeper(|keeper| keeper.table().after(id));
        match shown.look(call, id) {
            Listed::Row(row) => rows.push(row),
            Listed::Adopted if place.is_none() => {
                place = with_keeper(|keeper| keeper.table().oldest_adopted());
            }
            Listed::Adopted | Listed::Gone => {}
        }
    }
    for id in with_keeper(|keeper| keeper.only_waited_for()) {
        if rows.len() >= limit {
            break;
        }
        if let Listed::Row(row) = shown.look(call, id) {
            rows.push(row);
        }
    }
    Ok(rows)
}

/// Which locks are shown.
struct Shown<'a> {
    db: u32,
    pattern: Option<&'a [u8]>,
    readable: Readable<'a>,
}

impl Shown<'_> {
    /// Looks at the key of a lock that is to be shown; any other is as good as gone.
    fn look(&self, call: Call<'_>, id: Id) -> Listed {
        let wanted = with_keeper(|keeper| {
            let lock = keeper.table().get(id)?;
            let fits = self.pattern.is_none_or(|pattern| glob::fits(pattern, &lock.key));
            (lock.db == self.db && fits).then(|| lock.key.clone())
        });
        match wanted.filter(|key| self.readable.has(Name { db: self.db, key })) {
            None => Listed::Gone,
            Some(key) => call.context().with_key(&key, |key| {
                let seen = key.look();
                with_keeper(|keeper| keeper.list_row(id, &seen, now()))
            }),
        }
    }
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
