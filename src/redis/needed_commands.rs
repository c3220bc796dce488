//! Commands of the server that the module depends on by name. An operator can rename or disable
//! each of them with `rename-command`. They are checked here, because a call would fail silently.
//!
//! | command | needed for | without it |
//! |---|---|---|
//! | SET, DEL, PEXPIREAT | replication and the append-only file | the module does not load |
//! | CLIENT, ACL | finding the clients and users that refer to commands of the module | the module does not unload |
//! | CLIENT | the client's line in GPULOCK.LOG | the line is null |
//! | CONFIG | checking the setting `timeout` | a warning that it cannot be checked |

use std::ffi::CStr;

use super::api::api;
use super::context::Context;
use super::errno;
use super::string::OwnedString;

/// Checks the commands that the module replicates.
///
/// # Errors
/// When one is missing.
pub(crate) fn require(context: Context<'_>) -> Result<(), String> {
    for name in [c"SET", c"DEL", c"PEXPIREAT"] {
        if !exists(context, name) {
            return Err(format!(
                "the command {name:?} is renamed or disabled, but replicas and the append-only \
                 file depend on it. Remove the rename-command line"
            ));
        }
    }
    Ok(())
}

/// Whether the server has a command with this name.
pub(super) fn exists(context: Context<'_>, name: &CStr) -> bool {
    let word = OwnedString::new(name.to_bytes());
    let (mut words, mut keys) = ([word.as_ptr()], 0);
    errno::clear();
    // SAFETY: the context is valid, and the one string that is passed outlives the call. The module
    // would have to free a list of keys, but a command without arguments has none.
    let list = unsafe {
        let (ctx, start) = (context.as_ptr(), words.as_mut_ptr());
        api!(RedisModule_GetCommandKeys(ctx, start, 1, &raw mut keys))
    };
    !list.is_null() || errno::last() != libc::ENOENT
}
