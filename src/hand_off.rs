//! What is done to keys when a lock passes on: to one waiter, or, with others that were set
//! aside for it, to one that wants a set. Who is next is for the rules to say.

use std::collections::BTreeSet;

use gpulock_core::arena::Id;
use gpulock_core::line::Ticket;
use gpulock_core::serve::Next;
use gpulock_core::share::Part;

use crate::look;
use crate::server::context::Context;
use crate::server::key::Key;
use crate::server::state::{now, with_keeper};
use crate::server::write_permission::Turn;

/// Passes a lock on whose key still shows who held it, as part of a client's command.
pub(crate) fn pass_on_in_command(context: Context<'_>, mut key: Key<'_>, next: Next) {
    match next {
        Next::Set { ticket, .. } if context.flags().denies_blocking() => {
            key.delete();
            with_keeper(|keeper| keeper.serve_set_later(ticket));
        }
        Next::Set { .. } => pass_on(&Turn::of_command(context), key, next),
        Next::Nobody | Next::SetAside => key.delete(),
        Next::One(handed) => key.hand_over(&handed.owner, handed.until_ms),
    }
}

/// Passes a lock on that has no key, as part of a client's command.
pub(crate) fn fill_in_command(context: Context<'_>, mut key: Key<'_>, next: Next) {
    match next {
        Next::Set { ticket, .. } if context.flags().denies_blocking() => {
            with_keeper(|keeper| keeper.serve_set_later(ticket));
        }
        Next::Set { .. } => fill(&Turn::of_command(context), key, next),
        Next::Nobody | Next::SetAside => {}
        Next::One(handed) => key.hand_over(&handed.owner, handed.until_ms),
    }
}

/// Passes a lock on whose key still shows who held it.
pub(crate) fn pass_on(turn: &Turn<'_>, mut key: Key<'_>, next: Next) {
    match next {
        Next::Nobody | Next::SetAside => key.delete(),
        Next::One(handed) => key.hand_over(&handed.owner, handed.until_ms),
        Next::Set { ticket, lock } => {
            drop(key);
            give_set(turn, ticket, Some(lock));
        }
    }
}

/// Passes a lock on that has no key.
pub(crate) fn fill(turn: &Turn<'_>, mut key: Key<'_>, next: Next) {
    match next {
        Next::Nobody | Next::SetAside => {}
        Next::One(handed) => key.hand_over(&handed.owner, handed.until_ms),
        Next::Set { ticket, .. } => {
            drop(key);
            give_set(turn, ticket, None);
        }
    }
}

/// Gives a set its share, if all of it is there: other commands may have taken a key that
/// was set aside, so each is looked at before the first is written. `in_hand` is the lock
/// that completes it, whose key still shows who held it; it goes when nobody gets it.
pub(crate) fn give_set(turn: &Turn<'_>, ticket: Ticket, in_hand: Option<Id>) {
    let context = turn.context();
    let last = in_hand.and_then(look::name_of);
    let mut seen: BTreeSet<Id> = in_hand.into_iter().collect();
    loop {
        let unseen = with_keeper(|keeper| keeper.unseen_of(ticket, &seen));
        if unseen.is_empty() {
            break;
        }
        for id in unseen {
            seen.insert(id);
            look::open(context, id, |key, name| {
                let seen = look::see(turn, &key, name);
                with_keeper(|keeper| keeper.looked_at_for_set(id, &seen, now()));
            });
        }
    }
    let parts = with_keeper(|keeper| keeper.serve_set(ticket, now())).unwrap_or_default();
    write(context, &parts);
    let is_taken = parts.iter().any(|part| Some(part.lock) == in_hand);
    if let Some((db, name)) = last.filter(|_| !is_taken) {
        context.in_db(db, || context.with_key(&name, |mut key| key.delete()));
    }
}

/// Writes the keys of a share.
pub(crate) fn write(context: Context<'_>, parts: &[Part]) {
    for part in parts {
        look::open(context, part.lock, |mut key, _| match part.renewed {
            true => key.expire(part.until_ms),
            false => key.hand_over(&part.owner, part.until_ms),
        });
    }
}
