//! Code shared by ACQUIRE and ACQUIREANY: the context of the caller, and blocking the client.

use gpulock_core::rules::acquire::CallerContext;
use gpulock_core::rules::leave::LeaveReason;
use gpulock_core::state::wait_queue::Ticket;
use gpulock_core::{CommandError, request};

use crate::entry::blocked_client_events::Waiters;
use crate::manager::{now, with_manager};
use crate::redis::blocked_client;
use crate::redis::call::Call;

/// The context of the caller. The server is queried only for what the call needs, because each
/// query takes time, and most calls need none.
pub(super) fn caller_context(
    call: Call<'_>,
    request: &request::Acquire<'_>,
) -> CallerContext {
    let may_be_full = with_manager(|manager| manager.memory_is_limited());
    let is_plain = request.block_ms.is_none() && request.session_grace_ms.is_none();
    if is_plain && !may_be_full {
        return CallerContext { client: None, may_wait: false, has_memory: true };
    }
    let flags = call.context().flags();
    CallerContext {
        client: call.client().filter(|_| !flags.in_script()),
        may_wait: !flags.denies_blocking(),
        has_memory: !flags.is_out_of_memory(),
    }
}

/// Blocks the calling client until its ticket gets a reply.
///
/// # Errors
/// When the server does not let a module block this client. Its wait ends then.
pub(super) fn block(call: Call<'_>, ticket: Ticket) -> Result<(), CommandError> {
    if blocked_client::block::<Waiters>(call, ticket) {
        return Ok(());
    }
    with_manager(|manager| manager.leave(ticket, LeaveReason::CannotBlock, now()));
    Err(CommandError::CannotBlock)
}
