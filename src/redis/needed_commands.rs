//! Commands of the server that the module depends on by name. An operator can rename or
//! disable each of them with `rename-command`; what follows is decided here, once, instead of
//! where a call would fail in silence.
//!
//! | command | needed for | without it |
//! |---|---|---|
//! | SET, DEL, PEXPIREAT | replicas and the append-only file follow by them | the module is not loaded |
//! | CLIENT, ACL | what must not outlive the module | it is not unloaded |
//! | CLIENT | the client's line in GPULOCK.LOG | the line is null |
//! | CONFIG | a warning of the setting `timeout` | the log says that nothing is known of it |

use std::ffi::CStr;

use super::api::api;
use super::context::Context;
use super::errno;
use super::string::OwnedString;

/// Refuses to go on without the commands by which replicas and the append-only file follow.
///
/// # Errors
/// When one is missing.
pub(crate) fn require(context: Context<'_>) -> Result<(), String> {
    for name in [c"SET", c"DEL", c"PEXPIREAT"] {
        if !exists(context, name) {
            return Err(format!(
                "the server has no command {name:?}: replicas and the append-only file \
                 follow by it. Remove it from rename-command"
            ));
        }
    }
    Ok(())
}

/// Whether the server knows a command by this name.
pub(super) fn exists(context: Context<'_>, name: &CStr) -> bool {
    let word = OwnedString::new(name.to_bytes());
    let (mut words, mut keys) = ([word.as_ptr()], 0);
    errno::clear();
    // SAFETY: the context is valid, and one string is given, which outlives the call. A list
    // of keys would be ours to free, but a name alone has none.
    let list = unsafe {
        let (ctx, start) = (context.as_ptr(), words.as_mut_ptr());
        api!(RedisModule_GetCommandKeys(ctx, start, 1, &raw mut keys))
    };
    !list.is_null() || errno::last() != libc::ENOENT
}
