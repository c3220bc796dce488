//! What happens at each tick of the server's clock: the locks whose turn it is are looked
//! at, whether anybody waits for them or not, and places that were kept long enough end.

use crate::look;
use crate::server::context::Context;
use crate::server::state::{now, with_keeper};
use crate::waiting::may_act;

/// Does what is due.
pub(crate) fn tick(context: Context<'_>) {
    with_keeper(|keeper| keeper.end_waits(now()));
    if may_act(context) {
        let mut due = Vec::new();
        with_keeper(|keeper| keeper.due(now(), &mut due));
        for id in due {
            look::at(context, id);
        }
    }
}
