//! Which keys the calling user may read, for commands that tell of keys they do not name.

use gpulock_core::Fault;

use super::api::{OK, api, flag, raw};
use super::call::Call;
use super::text::Made;

/// The keys that a user may read.
pub(crate) struct Readable(Option<*mut raw::RedisModuleUser>);

impl Readable {
    /// Asks who calls.
    ///
    /// # Errors
    /// When the server does not know the user any more.
    pub(crate) fn by_caller_of(call: Call<'_>) -> Result<Self, Fault> {
        let context = call.context();
        let ctx = context.as_ptr();
        // SAFETY: the context is valid. A script runs as its caller's user; anywhere else
        // the client is asked for by its id, because the first function ends the server
        // when another module calls as nobody.
        let name = unsafe {
            Made::take(if context.flags().in_script() {
                api!(RedisModule_GetCurrentUserName(ctx))
            } else {
                api!(RedisModule_GetClientUserNameById(ctx, context.client_id()))
            })
        };
        // No client: the server itself, or another module, which may read everything.
        let Some(name) = name else { return Ok(Self(None)) };
        // SAFETY: the name is a valid string.
        let user = unsafe { api!(RedisModule_GetModuleUserFromUserName(name.as_ptr())) };
        if user.is_null() { Err(Fault::Internal) } else { Ok(Self(Some(user))) }
    }

    /// True when the user may read the key.
    pub(crate) fn has(&self, key: &[u8]) -> bool {
        let Some(user) = self.0 else { return true };
        let key = Made::new(key);
        let access = flag(raw::REDISMODULE_CMD_KEY_ACCESS);
        // SAFETY: the user is valid until it is freed (`drop`), the key until the end.
        unsafe {
            api!(RedisModule_ACLCheckKeyPermissions(user, key.as_ptr(), access)) == OK
        }
    }
}

impl Drop for Readable {
    fn drop(&mut self) {
        if let Some(user) = self.0 {
            // SAFETY: the user was made for us and is not used after this.
            unsafe { api!(RedisModule_FreeModuleUser(user)) }
        }
    }
}
