//! Panics on demand, in a build for tests alone (feature `inject-panic`): they show that
//! none leaves the module.

/// In a command whose key has this name.
pub(crate) const IN_COMMAND: &[u8] = b"gpulock:panic:command";

/// When a held lock of this name is looked at in the background.
pub(crate) const IN_BACKGROUND: &[u8] = b"gpulock:panic:background";

/// Panics if `name` is the one.
#[cfg(feature = "inject-panic")]
#[expect(clippy::panic, reason = "that is what it is for")]
pub(crate) fn panic_at(place: &[u8], name: &[u8]) {
    if name == place {
        panic!("injected at {}", String::from_utf8_lossy(name));
    }
}

/// Does nothing.
#[cfg(not(feature = "inject-panic"))]
pub(crate) fn panic_at(_: &[u8], _: &[u8]) {}
