//! Panics on demand, only in a test build (feature `inject-panic`): they show that no panic leaves
//! the module.

/// The key whose commands panic.
pub(crate) const IN_COMMAND: &[u8] = b"gpulock:panic:command";

/// The key whose probes panic.
pub(crate) const IN_BACKGROUND: &[u8] = b"gpulock:panic:background";

/// Panics if `key` is the one.
#[cfg(feature = "inject-panic")]
#[expect(clippy::panic, reason = "that is its purpose")]
pub(crate) fn panic_at(place: &[u8], key: &[u8]) {
    if key == place {
        panic!("injected at {}", String::from_utf8_lossy(key));
    }
}

/// Does nothing.
#[cfg(not(feature = "inject-panic"))]
pub(crate) fn panic_at(_: &[u8], _: &[u8]) {}
