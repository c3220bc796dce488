//! What ACQUIRE and ACQUIREANY share: who asks, and how a client begins to wait.

use gpulock_core::acquire::Asker;
use gpulock_core::arena::Id;
use gpulock_core::deadlock::Circles;
use gpulock_core::wait::{Leaving, Waiting, Wanted};
use gpulock_core::{Fault, request, slot};

use crate::look;
use crate::server::blocked;
use crate::server::call::Call;
use crate::server::state::{now, with_keeper};
use crate::server::write_permission::Turn;

/// Who asks. The server is asked only for what matters to the call: each answer takes it
/// some time, and nearly every call needs none.
pub(super) fn asker(call: Call<'_>, ask: &request::Acquire<'_>) -> Asker {
    let may_be_full = with_keeper(|keeper| keeper.memory_is_limited());
    let is_plain = ask.block_ms.is_none() && ask.session_grace_ms.is_none();
    if is_plain && !may_be_full {
        return Asker { client: None, may_wait: false, room: true };
    }
    let flags = call.context().flags();
    Asker {
        client: call.client().filter(|_| !flags.in_script()),
        may_wait: !flags.denies_blocking(),
        room: !flags.is_out_of_memory(),
    }
}

/// How often a circle may turn out to be another one before the client is told to ask
/// again.
const LOOKS: usize = 8;

/// Lets the client wait in line, if it wants to and may; else it is told that it did not get
/// what it asked for.
pub(super) fn wait_or_refuse(
    call: Call<'_>,
    wanted: Wanted<'_>,
    ask: &request::Acquire<'_>,
    asker: Asker,
) -> Result<(), Fault> {
    let waits = asker.may_wait && ask.block_ms.is_some();
    let Some(client) = asker.client.filter(|_| waits) else {
        call.reply().null();
        return Ok(());
    };
    let mut circles = Circles::SureOf(Vec::new());
    for _ in 0..LOOKS {
        let waiting = with_keeper(|keeper| {
            keeper.wait(wanted, ask, client, &circles, asker.room, now())
        })?;
        match waiting {
            Waiting::Begun(ticket) => {
                if !blocked::block(call, ticket) {
                    let why = Leaving::CannotBlock;
                    with_keeper(|keeper| keeper.leave(ticket, why, now()));
                    return Err(Fault::CannotBlock);
                }
                return Ok(());
            }
            Waiting::LookFirst(locks) => {
                let key = wanted.keys.first().copied().unwrap_or_default();
                circles = look_at(call, key, locks);
            }
        }
    }
    Err(Fault::TryAgain)
}

/// Looks at the locks of a circle. In a cluster a command may touch its own slot only: a
/// circle through others cannot be made sure of.
fn look_at(call: Call<'_>, key: &[u8], locks: Vec<Id>) -> Circles {
    let context = call.context();
    let is_elsewhere = |id: &Id| {
        with_keeper(|keeper| {
            let lock = keeper.table().get(*id);
            lock.is_some_and(|lock| slot::tag(&lock.key) != slot::tag(key))
        })
    };
    if context.flags().in_cluster() && locks.iter().any(is_elsewhere) {
        return Circles::Unseen;
    }
    let turn = Turn::of_command(context);
    for id in &locks {
        look::at(&turn, *id);
    }
    Circles::SureOf(locks)
}
