//! The one timer of the module. A server does not unload a module that has a timer, so it is armed
//! only while it is needed.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::null_mut;

use super::api::{api, raw};
use super::context::Context;
use super::main_thread::MainThread;
use super::panic_boundary::catch_panics;

/// The longest time for which the timer is armed, in ms. Redis 7.0 computes the time of a timer with
/// 32 bits, so that one that is due in more than 35 minutes may fire again and again at once.
const LONGEST_MS: u64 = 60_000;

/// The armed timer, and what to call when it fires.
#[derive(Clone, Copy)]
struct Armed {
    id: raw::RedisModuleTimerID,
    due_ms: u64,
    fire: fn(Context<'_>),
}

static ARMED: MainThread<Cell<Option<Armed>>> = MainThread::new(Cell::new(None));

/// While the timer fires: when it was due, in ms since the epoch.
static FIRING: MainThread<Cell<Option<u64>>> = MainThread::new(Cell::new(None));

/// Whether the timer is armed.
pub(crate) fn is_armed() -> bool {
    ARMED.get().is_some()
}

/// Arms the timer, so that it calls `fire` at `due_ms` or earlier; without a time, disarms it.
///
/// The server reads the clock once and then fires every timer that is due, also those that are
/// armed meanwhile. If the clock is stepped back in this moment, a new timer is due at once, again
/// and again, until the clock has caught up; the server executes no command meanwhile. So a timer
/// that fires before its time arms no other one: the cron does.
pub(crate) fn arm(
    context: Context<'_>,
    due_ms: Option<u64>,
    now_ms: u64,
    fire: fn(Context<'_>),
) {
    if FIRING.get().is_some_and(|firing_ms| now_ms < firing_ms) {
        return;
    }
    let due_ms = due_ms.map(|due_ms| due_ms.min(now_ms.saturating_add(LONGEST_MS)));
    let armed = ARMED.get();
    let is_soon_enough = match (armed, due_ms) {
        (Some(armed), Some(due_ms)) => armed.due_ms <= due_ms,
        (None, None) => true,
        _ => false,
    };
    if is_soon_enough {
        return;
    }
    let ctx = context.as_ptr();
    if let Some(Armed { id, .. }) = ARMED.take() {
        // SAFETY: the context is valid; the timer is the module's and has not fired.
        unsafe { api!(RedisModule_StopTimer(ctx, id, null_mut())) };
    }
    if let Some(due_ms) = due_ms {
        let in_ms = i64::try_from(due_ms.saturating_sub(now_ms)).unwrap_or(i64::MAX);
        // SAFETY: the context is valid; the callback needs no data.
        let id =
            unsafe { api!(RedisModule_CreateTimer(ctx, in_ms, Some(fired), null_mut())) };
        ARMED.set(Some(Armed { id, due_ms, fire }));
    }
}

unsafe extern "C" fn fired(ctx: *mut raw::RedisModuleCtx, _: *mut c_void) {
    let Some(Armed { fire, due_ms, .. }) = ARMED.take() else { return };
    FIRING.set(Some(due_ms));
    // SAFETY: the server passes a context that is valid for the time of the call.
    catch_panics(|| fire(unsafe { Context::new(ctx) }));
    FIRING.set(None);
}
