//! The one lock keeper of this server, and the rule by which it is borrowed: for the time
//! of one decision, never across a call of the server, which may call back into us.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use gpulock_core::{Keeper, Now};

struct MainThread(RefCell<Option<Keeper>>);

// SAFETY: the module runs on the server's main thread alone (`super`, 1).
unsafe impl Sync for MainThread {}

static KEEPER: MainThread = MainThread(RefCell::new(None));

/// Puts the keeper in its place when the module loads, and takes it away when it unloads.
pub(super) fn set_keeper(keeper: Option<Keeper>) {
    *KEEPER.0.borrow_mut() = keeper;
}

/// Lets the keeper decide. `decide` must not call the server. Panics, to be caught at the
/// border, when it is called from within itself or before the module has loaded.
#[expect(clippy::expect_used, reason = "caught at the border; the client hears of it")]
pub(crate) fn with_keeper<T>(decide: impl FnOnce(&mut Keeper) -> T) -> T {
    decide(KEEPER.0.borrow_mut().as_mut().expect("the module has loaded"))
}

/// As [`with_keeper`], where there may be none: none is answered then.
pub(super) fn try_with_keeper<T>(decide: impl FnOnce(&mut Keeper) -> T) -> Option<T> {
    KEEPER.0.try_borrow_mut().ok()?.as_mut().map(decide)
}

/// Whether there is a keeper.
pub(super) fn is_loaded() -> bool {
    try_with_keeper(|_| ()).is_some()
}

/// Reads the clock by which the server keeps leases.
pub(crate) fn now() -> Now {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now::from_micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
