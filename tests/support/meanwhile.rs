//! Load that goes on beside the work of a test, and ends with it, also when that fails.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Does each of `loads` over and over, in a thread of its own, until `work` is done.
pub(crate) fn meanwhile(loads: Vec<impl FnMut() + Send>, work: impl FnOnce()) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for mut load in loads {
            let done = &done;
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    load();
                }
            });
        }
        // Also when the work fails, or the threads would go on for ever.
        let _ended = Raised(&done);
        work();
    });
}

/// Raises the flag when it is dropped.
struct Raised<'a>(&'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
