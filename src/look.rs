//! A look at a lock's key without a command that names it, and what follows from it: a
//! hold that ended behind our back is ended, and the lock goes to the next in line.

use gpulock_core::arena::Id;
use gpulock_core::lock::Bytes;
use gpulock_core::seen::Expires;
use gpulock_core::{Name, Seen};

use crate::server::context::Context;
use crate::server::guard::contained;
use crate::server::key::Key;
use crate::server::state::{now, with_keeper};
use crate::server::write_permission::{Permission, Turn};
use crate::{hand_off, injected};

/// Looks at a lock. A free one that clients wait for is left to a later look while the server
/// refuses to hand it over.
pub(crate) fn at(turn: &Turn<'_>, id: Id) {
    // One at a time: what goes wrong with one lock must not keep the others waiting.
    contained(|| {
        open(turn.context(), id, |key, name| {
            injected::panic_at(injected::IN_BACKGROUND, name);
            let glimpse = key.glimpse();
            if with_keeper(|keeper| keeper.agrees(id, glimpse)) {
                return;
            }
            let seen = see(turn, &key, name);
            // In a cluster the refusal also hides whether another node serves the key.
            let matters = seen == Seen::Absent
                && (turn.in_cluster()
                    || with_keeper(|keeper| keeper.is_waited_for_now(id)));
            if matters && turn.permission(name) == Permission::Refused {
                return;
            }
            let next = with_keeper(|keeper| keeper.looked_at(id, &seen, now()));
            hand_off::fill(turn, key, next);
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
pub(crate) fn see<'k>(turn: &Turn<'_>, key: &'k Key<'_>, name: &[u8]) -> Seen<'k> {
    let db = turn.context().db();
    match shown(key, Name { db, key: name }) {
        Seen::Absent if turn.is_elsewhere(name) => Seen::Elsewhere,
        seen => seen,
    }
}

/// What a key shows. A hold whose lease was over has ended if the key was set anew since.
pub(crate) fn shown<'k>(key: &'k Key<'_>, name: Name<'_>) -> Seen<'k> {
    let Some(lease) = key.lease() else { return key.look() };
    end_if_set_anew(key, name, lease);
    key.look_at_value(lease)
}

/// Ends the hold of a lock whose key was set anew, by an equal name, after the lease was over.
/// True when it did.
pub(crate) fn end_if_set_anew(key: &Key<'_>, name: Name<'_>, lease: Expires) -> bool {
    let other = with_keeper(|keeper| keeper.may_be_another_hold(name, lease, now));
    let Some(id) = other.filter(|_| !key.is_ours()) else { return false };
    with_keeper(|keeper| keeper.key_was_set_anew(id, lease, now()));
    true
}
