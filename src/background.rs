//! What happens at each tick of the server's clock: the locks whose turn it is are looked
//! at, whether anybody waits for them or not, and places that were kept long enough end.

use crate::look;
use crate::server::context::Context;
use crate::server::state::{now, with_keeper};
use crate::server::write_permission::Turn;

/// How long to look at locks in one go, in microseconds: nobody is served meanwhile. What
/// is left is for the next tick.
const LONGEST_US: u64 = 3_000;

/// Does what is due.
pub(crate) fn tick(context: Context<'_>) {
    let began = now();
    with_keeper(|keeper| keeper.end_waits(began));
    let Some(turn) = Turn::begin(context) else { return };
    with_keeper(|keeper| keeper.begin_sweep(began));
    while let Some(id) = with_keeper(|keeper| keeper.next_due(now())) {
        look::at(&turn, id);
        if now().micros().abs_diff(began.micros()) >= LONGEST_US {
            return;
        }
    }
}
