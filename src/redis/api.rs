//! The server's functions: pointers that are set when the module loads, some only on newer servers.

use std::ffi::{CStr, c_void};

/// The bindings of the crate `redis-module`. Only these and the allocator of that crate are used;
/// see docs/architecture.md.
pub(super) use redis_module::raw;

/// Calls a function that every supported server has. For use in an `unsafe` block.
macro_rules! api {
    ($function:ident($($argument:expr),* $(,)?)) => {
        match $crate::redis::api::raw::$function {
            Some(function) => function($($argument),*),
            None => $crate::redis::api::missing(stringify!($function)),
        }
    };
}
pub(super) use api;

/// A function that not every server has, or `None`. For use in an `unsafe` block.
macro_rules! optional {
    ($function:ident) => {
        $crate::redis::api::raw::$function
    };
}
pub(super) use optional;

/// The address of a function that the bindings do not include; null if the server does not have it.
pub(super) fn address_of(function: &CStr) -> *mut c_void {
    let mut address = std::ptr::null_mut::<c_void>();
    // SAFETY: the server writes the address if it knows the name, and otherwise nothing.
    unsafe {
        let target = (&raw mut address).cast::<c_void>();
        api!(RedisModule_GetApi(function.as_ptr(), target));
    }
    address
}

#[expect(clippy::panic, reason = "caught by catch_panics; the client gets an error")]
pub(super) fn missing(function: &str) -> ! {
    panic!("the server does not have the function {function}")
}

/// The status for success.
pub(super) const OK: std::ffi::c_int = 0;

/// The status for failure.
pub(super) const ERR: std::ffi::c_int = 1;

/// Converts a flag to the type of function parameters.
pub(super) const fn flag(bits: u32) -> std::ffi::c_int {
    bits.cast_signed()
}
