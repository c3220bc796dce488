//! The C library's number of the last error, by which some functions of the server say why
//! they refuse.

use std::ffi::c_int;

/// Forgets the last error, before a call that sets one only when it fails.
pub(super) fn clear() {
    // SAFETY: the place belongs to this thread.
    unsafe { *libc::__errno_location() = 0 }
}

/// The last error; 0: none.
pub(super) fn last() -> c_int {
    // SAFETY: the place belongs to this thread.
    unsafe { *libc::__errno_location() }
}
