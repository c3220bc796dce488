//! Random numbers from the server.

use super::api::api;

/// A random number that clients cannot guess.
pub(crate) fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    // SAFETY: the server writes that many bytes.
    unsafe { api!(RedisModule_GetRandomBytes(bytes.as_mut_ptr(), bytes.len())) };
    u64::from_ne_bytes(bytes)
}
