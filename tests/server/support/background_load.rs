//! Load in the background of a test.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Repeats each of `loads` in a thread of its own until `work` returns or panics.
pub(crate) fn with_background_load(loads: Vec<impl FnMut() + Send>, work: impl FnOnce()) {
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
        // Also when the work panics: the scope waits for its threads.
        let _guard = SetOnDrop(&done);
        work();
    });
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
