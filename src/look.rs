//! A look at a lock's key without a command that names it, and what follows from it: a
//! hold that ended behind our back is ended, and the lock goes to the next in line.

use gpulock_core::Seen;
use gpulock_core::arena::Id;
use gpulock_core::lock::Bytes;

use crate::server::context::Context;
use crate::server::guard::contained;
use crate::server::key::Key;
use crate::server::state::{now, with_keeper};
use crate::{hand_off, injected};

/// Looks at a lock. The caller has made sure that keys may be written.
pub(crate) fn at(context: Context<'_>, id: Id) {
    // One at a time: what goes wrong with one lock must not keep the others waiting.
    contained(|| {
        open(context, id, |key, name| {
            injected::panic_at(injected::IN_BACKGROUND, name);
            let glimpse = key.glimpse();
            if with_keeper(|keeper| keeper.agrees(id, glimpse)) {
                return;
            }
            let seen = see(context, &key, name);
            let next = with_keeper(|keeper| keeper.looked_at(id, &seen, now()));
            hand_off::fill(context, key, next);
        });
    });
}

/// Opens the key of a lock that something is known of.
pub(crate) fn open(context: Context<'_>, id: Id, work: impl FnOnce(Key<'_>, &[u8])) {
    if let Some((db, name)) = name_of(id) {
        context.in_db(db, || context.with_key(&name, |key| work(key, &name)));
    }
}

/// The database and the key of a lock that something is known of.
pub(crate) fn name_of(id: Id) -> Option<(u32, Bytes)> {
    with_keeper(|keeper| keeper.table().get(id).map(|lock| (lock.db, lock.key.clone())))
}

/// What a key shows; in a cluster an absent one may be held by another node.
pub(crate) fn see<'k>(context: Context<'_>, key: &'k Key<'_>, name: &[u8]) -> Seen<'k> {
    match key.look() {
        Seen::Absent if context.flags().in_cluster() && !context.serves(name) => {
            Seen::Elsewhere
        }
        seen => seen,
    }
}
