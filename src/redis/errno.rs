//! `errno`, in which some functions of the server return the cause of an error.

use std::ffi::c_int;

/// Sets `errno` to 0, before a call that sets it only on failure.
pub(super) fn clear() {
    // SAFETY: the pointer is valid, and the value belongs to this thread.
    unsafe { *libc::__errno_location() = 0 }
}

/// The value of `errno`; 0: no error.
pub(super) fn last() -> c_int {
    // SAFETY: the pointer is valid, and the value belongs to this thread.
    unsafe { *libc::__errno_location() }
}
