//! Ways on which a law was once broken, each the shortest that was found.

use gpulock_model::action::Action::{self, Ask, Disconnect, EndTurn, Release};
use gpulock_model::flaw::Flaw;
use gpulock_model::scope::{SCOPES, Scope};

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
            Ask { client: 0, how: 3 },
            Ask { client: 1, how: 2 },
            Release { client: 0, key: 0 },
            Disconnect { client: 1 },
            Ask { client: 1, how: 1 },
            EndTurn,
        ],
    );
}
