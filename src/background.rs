//! What happens at each tick of the server's clock: the locks whose turn it is are looked
//! at, whether anybody waits for them or not.

use crate::look;
use crate::server::context::Context;
use crate::server::state::{now, with_keeper};
use crate::waiting::may_act;

/// Looks at the locks whose turn it is.
pub(crate) fn tick(context: Context<'_>) {
    if may_act(context) {
        let mut due = Vec::new();
        with_keeper(|keeper| keeper.due(now(), &mut due));
        for id in due {
            look::at(context, id);
        }
    }
}
