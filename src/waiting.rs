//! What is done for those who wait, without a command of theirs: deadlines, locks that
//! became free behind our back, and the work that was deferred until the server may be
//! written.

use gpulock_core::Now;
use gpulock_core::arena::Id;
use gpulock_core::session::{MadeGood, Owed};

use crate::server::context::Context;
use crate::server::own;
use crate::server::state::{now, with_keeper};
use crate::server::write_permission::{Permission, Turn, was_refused};
use crate::{hand_off, look};

/// How long to wait, in ms, before trying again when the server may not be written.
const TRY_AGAIN_MS: u64 = 5;

/// How long to work off what is deferred in one go, in microseconds: nobody is served
/// meanwhile. The rest follows when the timer goes off next.
const LONGEST_US: u64 = 1_000;

/// Does all that is due. Only for the timer, which the server fires between commands.
pub(crate) fn tick(context: Context<'_>) {
    let began = now();
    with_keeper(|keeper| keeper.end_waits(began));
    let Some(turn) = Turn::begin(context) else { return };
    run_deferred(&turn, began);
    run_deferred_portion(&turn, began);
    let mut due: Vec<Id> = Vec::new();
    with_keeper(|keeper| keeper.due_lines(now(), &mut due));
    for id in due {
        look::at(&turn, id);
    }
}

/// Carries out the deferred work, as far as the server accepts writes.
fn run_deferred(turn: &Turn<'_>, began: Now) {
    while !is_next_refused(turn)
        && let Some(owed) = with_keeper(|keeper| keeper.take_owed())
    {
        run_one(turn, owed);
        if is_long_since(began) {
            return;
        }
    }
}

/// Goes on with the sessions that end in portions, as far as the server accepts writes.
fn run_deferred_portion(turn: &Turn<'_>, began: Now) {
    while !is_long_since(began)
        && !is_next_refused(turn)
        && let Some(owed) = with_keeper(|keeper| keeper.take_owed_later())
    {
        run_one(turn, owed);
    }
}

fn is_long_since(began: Now) -> bool {
    now().micros().abs_diff(began.micros()) >= LONGEST_US
}

fn is_next_refused(turn: &Turn<'_>) -> bool {
    let permission = turn.known_permission().or_else(|| {
        let lock = with_keeper(|keeper| keeper.next_owed_lock())?;
        let (_, key) = look::name_of(lock)?;
        Some(turn.permission(&key))
    });
    permission == Some(Permission::Refused)
}

fn run_one(turn: &Turn<'_>, owed: Owed) {
    if let Owed::Share { ticket } = owed {
        hand_off::give_set(turn, ticket, None);
        return;
    }
    let Some(lock) = owed.lock() else { return };
    look::open(turn.context(), lock, |mut key, name| {
        let seen = look::see(turn, &key, name);
        match with_keeper(|keeper| keeper.make_good(owed, &seen, now())) {
            MadeGood::Nothing => {}
            MadeGood::Freed(next) => hand_off::pass_on(turn, key, next),
            MadeGood::Served(next) => hand_off::fill(turn, key, next),
            MadeGood::Cut { until_ms } => key.expire(until_ms),
        }
    });
}

/// Carries out the deferred work before and after a command of ours, so that GPULOCK commands
/// find it done, as far as a portion goes. Not in the middle of a script, a transaction or
/// another module's command: the timer does it right afterwards. In a cluster the timer does it
/// as well: a command may touch keys of its own slot only.
pub(crate) fn run_deferred_around_command(context: Context<'_>) {
    if with_keeper(|keeper| keeper.owes_at_once()) {
        let flags = context.flags();
        if !flags.denies_blocking() && !flags.in_cluster() && context.is_of_client() {
            run_deferred_between_commands();
        }
    }
}

/// Carries out the deferred work at once. Only where no command is being executed.
pub(crate) fn run_deferred_between_commands() {
    if let Some(turn) = own::context().and_then(Turn::begin) {
        run_deferred(&turn, now());
    }
}

/// When [`tick`] is to be called next, in ms since the epoch; none: nobody waits.
pub(crate) fn next_tick_ms() -> Option<u64> {
    let now = now();
    let wake_ms = with_keeper(|keeper| keeper.next_wake_ms(now))?;
    let again_ms = now.ms().saturating_add(TRY_AGAIN_MS);
    Some(if was_refused() { wake_ms.max(again_ms) } else { wake_ms })
}
