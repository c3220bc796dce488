//! What is done for those who wait, without a command of theirs: deadlines, locks that
//! became free behind our back, and what is owed to the next in line.

use gpulock_core::Now;
use gpulock_core::arena::Id;
use gpulock_core::session::{MadeGood, Owed};

use crate::server::context::{Context, must_not_write};
use crate::server::own;
use crate::server::replicas;
use crate::server::state::{now, with_keeper};
use crate::{hand_off, look};

/// How long to wait, in ms, before trying again when the server may not be written.
const TRY_AGAIN_MS: u64 = 5;

/// How long to make good what is owed in one go, in microseconds: nobody is served meanwhile.
/// The rest follows when the timer goes off next.
const LONGEST_US: u64 = 1_000;

/// Does what is due.
pub(crate) fn tick(context: Context<'_>) {
    let began = now();
    with_keeper(|keeper| keeper.end_waits(began));
    make_good(context);
    if may_act(context) {
        make_good_later(context, began);
        let mut due: Vec<Id> = Vec::new();
        with_keeper(|keeper| keeper.due_lines(now(), &mut due));
        for id in due {
            look::at(context, id);
        }
    }
}

/// Makes good what is owed, if that may be done now.
pub(crate) fn make_good(context: Context<'_>) {
    if !may_act(context) {
        return;
    }
    let began = now();
    while let Some(owed) = with_keeper(|keeper| keeper.take_owed()) {
        make_good_one(context, owed);
        if is_long_since(began) {
            return;
        }
    }
}

/// Goes on with the sessions that end in portions, if keys may be written.
fn make_good_later(context: Context<'_>, began: Now) {
    while !is_long_since(began)
        && let Some(owed) = with_keeper(|keeper| keeper.take_owed_later())
    {
        make_good_one(context, owed);
    }
}

fn is_long_since(began: Now) -> bool {
    now().micros().abs_diff(began.micros()) >= LONGEST_US
}

fn make_good_one(context: Context<'_>, owed: Owed) {
    if let Owed::Share { ticket } = owed {
        hand_off::give_set(context, ticket, None);
        return;
    }
    let Some(lock) = owed.lock() else { return };
    look::open(context, lock, |mut key, name| {
        let seen = look::see(context, &key, name);
        match with_keeper(|keeper| keeper.make_good(owed, &seen, now())) {
            MadeGood::Nothing => {}
            MadeGood::Freed(next) => hand_off::pass_on(context, key, next),
            MadeGood::Served(next) => hand_off::fill(context, key, next),
            MadeGood::Cut { until_ms } => key.expire(until_ms),
        }
    });
}

/// As [`make_good`], in the same instant as the command or the event that made it due, so
/// that no command comes in between. In a cluster the timer does it, a moment later: a
/// command may touch keys of its own slot only.
pub(crate) fn make_good_at_once(context: Context<'_>) {
    if with_keeper(|keeper| keeper.owes_at_once())
        && !context.flags().in_cluster()
        && let Some(own) = own::context()
    {
        make_good(own);
    }
}

/// Whether keys may be written without a client's command: on a primary that is not
/// loading, not paused and not handing over: a write at any other time would abort the
/// server, or be lost. And only while as many replicas listen as are demanded: one that is
/// cut off would let another have what its heir has given away.
pub(crate) fn may_act(context: Context<'_>) -> bool {
    let flags = context.flags();
    flags.is_primary()
        && !flags.is_loading()
        && !must_not_write()
        && replicas::are_enough()
}

/// When [`tick`] is to be called next, in ms since the epoch; none: nobody waits.
pub(crate) fn next_tick_ms() -> Option<u64> {
    let now = now();
    let wake_ms = with_keeper(|keeper| keeper.next_wake_ms(now))?;
    let is_due = wake_ms <= now.ms();
    let must_wait = is_due && (must_not_write() || !replicas::are_enough());
    Some(if must_wait { now.ms().saturating_add(TRY_AGAIN_MS) } else { wake_ms })
}
