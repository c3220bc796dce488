//! The one timer of the module, armed while somebody waits or a grace runs, and only then:
//! a server does not unload a module that has a timer.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::null_mut;

use super::api::{api, raw};
use super::context::Context;
use super::guard::contained;

/// A timer that is armed.
#[derive(Clone, Copy)]
struct Armed {
    id: raw::RedisModuleTimerID,
    due_ms: u64,
}

struct MainThread(Cell<Option<Armed>>);

// SAFETY: the module runs on the server's main thread alone (`super`, 1).
unsafe impl Sync for MainThread {}

static ARMED: MainThread = MainThread(Cell::new(None));

/// Whether the timer is armed.
pub(crate) fn is_armed() -> bool {
    ARMED.0.get().is_some()
}

/// Sees to it that the timer goes off at `due_ms`, or earlier; or not at all.
pub(crate) fn arm(context: Context<'_>, due_ms: Option<u64>, now_ms: u64) {
    let armed = ARMED.0.get();
    let is_soon_enough = match (armed, due_ms) {
        (Some(armed), Some(due_ms)) => armed.due_ms <= due_ms,
        (None, None) => true,
        _ => false,
    };
    if is_soon_enough {
        return;
    }
    let ctx = context.as_ptr();
    if let Some(Armed { id, .. }) = ARMED.0.take() {
        // SAFETY: the context is valid, the timer is ours and has not gone off.
        unsafe { api!(RedisModule_StopTimer(ctx, id, null_mut())) };
    }
    if let Some(due_ms) = due_ms {
        let in_ms = i64::try_from(due_ms.saturating_sub(now_ms)).unwrap_or(i64::MAX);
        // SAFETY: the context is valid; the callback needs no data.
        let id = unsafe {
            api!(RedisModule_CreateTimer(ctx, in_ms, Some(went_off), null_mut()))
        };
        ARMED.0.set(Some(Armed { id, due_ms }));
    }
}

unsafe extern "C" fn went_off(ctx: *mut raw::RedisModuleCtx, _: *mut c_void) {
    ARMED.0.set(None);
    contained(|| {
        // SAFETY: the server handed us the context for the time of the call.
        let context = unsafe { Context::new(ctx) };
        crate::waiting::tick(context);
        crate::news::tell(context);
    });
}
