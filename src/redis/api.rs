//! Calling the server: its functions come as pointers that are filled in when the module
//! loads, some only on newer servers.

use std::ffi::{CStr, c_void};

/// The server's functions and types, as the crate `redis-module` binds them. Of that
/// crate only this and the allocator are used; docs/architecture.md says why.
pub(super) use redis_module::raw;

/// Calls a function that every supported server has. To be used in an `unsafe` block.
macro_rules! api {
    ($function:ident($($argument:expr),* $(,)?)) => {
        match $crate::redis::api::raw::$function {
            Some(function) => function($($argument),*),
            None => $crate::redis::api::missing(stringify!($function)),
        }
    };
}
pub(super) use api;

/// A function that not every server has: `None` where it is missing. In an `unsafe` block.
macro_rules! optional {
    ($function:ident) => {
        $crate::redis::api::raw::$function
    };
}
pub(super) use optional;

/// The address of a function that the header of the crate does not know; null where the
/// server has none of this name.
pub(super) fn address_of(function: &CStr) -> *mut c_void {
    let mut address = std::ptr::null_mut::<c_void>();
    // SAFETY: the server writes an address there when it knows the name, else nothing.
    unsafe {
        let position = (&raw mut address).cast::<c_void>();
        api!(RedisModule_GetApi(function.as_ptr(), position));
    }
    address
}

#[expect(clippy::panic, reason = "caught at the border; the client hears of it")]
pub(super) fn missing(function: &str) -> ! {
    panic!("this server has no {function}")
}

/// The server's word for success.
pub(super) const OK: std::ffi::c_int = 0;

/// The server's word for failure.
pub(super) const ERR: std::ffi::c_int = 1;

/// A flag as the functions take it.
pub(super) const fn flag(bits: u32) -> std::ffi::c_int {
    bits.cast_signed()
}
