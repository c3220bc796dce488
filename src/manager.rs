//! The lock manager of this server, and the rule for borrowing it: for one decision, never across a
//! call of the server, which may call back into the module.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use gpulock_core::{LockManager, Now};

use crate::redis::main_thread::MainThread;

static MANAGER: MainThread<RefCell<Option<LockManager>>> =
    MainThread::new(RefCell::new(None));

/// Stores the manager when the module loads, and drops it when the module unloads.
pub(crate) fn set_manager(manager: Option<LockManager>) {
    *MANAGER.borrow_mut() = manager;
}

/// Lets the manager decide. `decide` must not call the server. Panics when it is called from within
/// itself or before the module is loaded; the panic boundary catches that.
#[expect(clippy::expect_used, reason = "caught at the panic boundary, and reported")]
pub(crate) fn with_manager<T>(decide: impl FnOnce(&mut LockManager) -> T) -> T {
    decide(MANAGER.borrow_mut().as_mut().expect("the module is loaded"))
}

/// Reads the clock by which the server expires keys.
pub(crate) fn now() -> Now {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now::from_micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
