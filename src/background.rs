//! What happens without a command: at each tick of the server's clock the locks whose
//! turn it is are looked at, and holds that ended behind our back are ended.

use gpulock_core::arena::Id;
use gpulock_core::{Now, Seen};

use crate::injected;
use crate::server::context::{Context, must_not_write};
use crate::server::key::Key;
use crate::server::state::{now, with_keeper};

/// Looks at the locks whose turn it is.
pub(crate) fn tick(context: Context<'_>) {
    let now = now();
    let flags = context.flags();
    if flags.is_loading() || !flags.is_primary() || must_not_write() {
        return;
    }
    let mut due = Vec::new();
    with_keeper(|keeper| keeper.due(now, &mut due));
    for id in due {
        look(context, id, now, flags.in_cluster());
    }
}

fn look(context: Context<'_>, id: Id, now: Now, in_cluster: bool) {
    let name = with_keeper(|keeper| {
        keeper.table().get(id).map(|lock| (lock.db, lock.key.clone()))
    });
    let Some((_, name)) = name.filter(|(db, _)| context.select_db(*db)) else { return };
    injected::panic_at(injected::IN_BACKGROUND, &name);
    context.with_key(&name, |key: &Key<'_>| {
        let glimpse = key.glimpse();
        if with_keeper(|keeper| keeper.agrees(id, glimpse)) {
            return;
        }
        let seen = match key.look() {
            Seen::Absent if in_cluster && !context.serves(&name) => Seen::Elsewhere,
            seen => seen,
        };
        with_keeper(|keeper| keeper.looked_at(id, &seen, now));
    });
}
