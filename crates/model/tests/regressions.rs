//! Ways on which a law was once broken, each the shortest that was found.

use gpulock_core::state::settings::Events;
use gpulock_model::action::Action::{self, Call, Disconnect, EndTurn, Release};
use gpulock_model::call::Call as How;
use gpulock_model::flaw::Flaw;
use gpulock_model::scenario::{Scenario, Step};
use gpulock_model::scope::{SCOPES, Scope};
use gpulock_model::world::Writes;

#[track_caller]
fn is_kept(scope: &str, way: &[Action]) {
    let is_it = |it: &&Scope| it.name == scope;
    let scope = SCOPES.iter().find(is_it).expect("a scope of this name");
    let mut world = scope.begin(Flaw::None);
    for action in way {
        scope.take(&mut world, *action);
        assert_eq!(world.breach(), None, "after {action:?}");
    }
}

/// A grant for one of two locks was lost, and in the same turn its owner asked for the other:
/// the place that was kept for it made two in that line.
#[test]
fn an_owner_who_asks_before_its_lost_grant_is_taken_back_has_one_place() {
    is_kept(
        "gone before it was told",
        &[
            Call { client: 0, how: 3 },
            Call { client: 1, how: 2 },
            Release { client: 0, key: 0 },
            Disconnect { client: 1 },
            Call { client: 1, how: 1 },
            EndTurn,
        ],
    );
}

fn one(client: usize, key: usize, owner: usize, block_ms: u64) -> How {
    How { count: None, ..all_of(client, &[key], owner, block_ms) }
}

fn all_of(client: usize, keys: &[usize], owner: usize, block_ms: u64) -> How {
    How {
        client,
        keys: keys.to_vec(),
        count: Some(keys.len()),
        owner,
        lease_ms: None,
        unique: true,
        block_ms: Some(block_ms),
        session_grace_ms: None,
        has_memory: true,
    }
}

/// Days assert the laws themselves.
fn is_lawful(way: impl IntoIterator<Item = Step>) {
    let mut day = Scenario::begin(Events::Release);
    way.into_iter().for_each(|step| day.take(step));
    day.end();
}

/// A free lock that nobody had looked at: the first in its line had waited long enough and
/// nobody had told it yet, the second was the asker's own call for a set. It was sent to
/// the end of an empty line, until the next tick.
#[test]
fn whoever_asks_is_not_kept_waiting_by_whose_time_is_over() {
    is_lawful([
        Step::Acquire(one(0, 0, 0, 1)),
        Step::Acquire(all_of(1, &[0, 1], 2, 205)),
        Step::Acquire(all_of(2, &[1, 0], 1, 265)),
        Step::Pass { ms: 206 },
        Step::Acquire(one(3, 1, 1, 127)),
    ]);
}

/// A lock was set aside for two of four, which were complete at the moment at which somebody
/// asked for it: the set was served, with others, and the asker waited for a free lock.
#[test]
fn whoever_asks_is_not_kept_waiting_by_a_set_that_takes_others() {
    let two_of_four = How { count: Some(2), ..all_of(0, &[2, 3, 1, 0], 0, 141) };
    is_lawful([
        Step::OutsideSet { key: 1, value: 0, ttl_ms: None },
        Step::Acquire(all_of(3, &[3, 2, 1, 0], 2, 15)),
        Step::Acquire(two_of_four),
        Step::Pass { ms: 110 },
        Step::Acquire(one(4, 0, 1, 19)),
    ]);
}

/// Others took the end off a lease, and nobody looked before the old end: the hold was taken
/// for ended and adopted, and lost its token.
#[test]
fn a_lease_without_an_end_is_the_same_hold() {
    let mine = How { block_ms: None, ..one(0, 2, 2, 0) };
    is_lawful([
        Step::Acquire(mine.clone()),
        Step::OutsideExpiry { key: 2, ttl_ms: None },
        Step::Writes { writes: Writes::Paused },
        Step::Pass { ms: 300 },
        Step::Writes { writes: Writes::Accepted },
        Step::Acquire(mine),
    ]);
}

/// The clock was stepped back during a pause: the timer was to come when the clock would be
/// where it had been.
#[test]
fn a_clock_stepped_back_in_a_pause_does_not_put_off_the_timer() {
    is_lawful([
        Step::OutsideSet { key: 3, value: 0, ttl_ms: None },
        Step::Acquire(How { unique: false, ..one(0, 3, 0, 0) }),
        Step::Tick,
        Step::Writes { writes: Writes::Paused },
        Step::Pass { ms: -400 },
        Step::Tick,
    ]);
}
