//! What a user may do: which keys the caller may read, for commands that report keys they do
//! not name; and whether a waiting client still has the rights that it began to wait with.

use std::ffi::c_int;
use std::iter;

use gpulock_core::Fault;
use gpulock_core::keeper::Grant;
use smallvec::SmallVec;

use super::api::{OK, api, flag, optional, raw};
use super::call::Call;
use super::context::Context;
use super::kept;
use super::text::Made;

/// A user of the server, as long as it is asked about.
struct User(*mut raw::RedisModuleUser);

impl User {
    /// The user of this name; none when the server does not know it.
    fn named(name: &Made) -> Option<Self> {
        // SAFETY: the name is a valid string.
        let user = unsafe { api!(RedisModule_GetModuleUserFromUserName(name.as_ptr())) };
        (!user.is_null()).then_some(Self(user))
    }

    /// The name of a client's user; none when there is no such client.
    fn name_of_client(context: Context<'_>, client: u64) -> Option<Made> {
        // SAFETY: the context is valid, and the name is ours.
        unsafe {
            Made::take(api!(RedisModule_GetClientUserNameById(context.as_ptr(), client)))
        }
    }

    fn may_read(&self, key: &[u8]) -> bool {
        let key = Made::new(key);
        let access = flag(raw::REDISMODULE_CMD_KEY_ACCESS);
        // SAFETY: the user is valid until it is freed (`drop`), the key until the end.
        unsafe {
            api!(RedisModule_ACLCheckKeyPermissions(self.0, key.as_ptr(), access)) == OK
        }
    }

    /// Whether the user may call a command with these words, the command's name first.
    fn may_call(&self, words: &mut [*mut raw::RedisModuleString]) -> bool {
        let count = c_int::try_from(words.len()).unwrap_or(c_int::MAX);
        let start = words.as_mut_ptr();
        // SAFETY: the user is valid until it is freed (`drop`), the words are valid strings.
        unsafe {
            api!(RedisModule_ACLCheckCommandPermissions(self.0, start, count)) == OK
        }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // SAFETY: the user was made for us and is not used after this.
        unsafe { api!(RedisModule_FreeModuleUser(self.0)) }
    }
}

/// The keys that a user may read.
pub(crate) struct Readable(Option<User>);

impl Readable {
    /// Asks who calls.
    ///
    /// # Errors
    /// When the server does not know the user any more.
    pub(crate) fn by_caller_of(call: Call<'_>) -> Result<Self, Fault> {
        let context = call.context();
        // A script runs as its caller's user; anywhere else the client is asked for by its
        // id, because the first function ends the server when another module calls as nobody.
        let name = if context.flags().in_script() {
            // SAFETY: the context is valid, and the name is ours.
            unsafe { Made::take(api!(RedisModule_GetCurrentUserName(context.as_ptr()))) }
        } else {
            User::name_of_client(context, context.client_id())
        };
        // No client: the server itself, or another module, which may read everything.
        let Some(name) = name else { return Ok(Self(None)) };
        User::named(&name).map_or(Err(Fault::Internal), |user| Ok(Self(Some(user))))
    }

    /// True when the user may read the key.
    pub(crate) fn has(&self, key: &[u8]) -> bool {
        self.0.as_ref().is_none_or(|user| user.may_read(key))
    }
}

/// Whether a client's user may still take the locks that the client has waited for. A client
/// that is gone may not. Asked only where the server checks the rights of its own blocked
/// clients as well, because it executes their commands again: since Redis 7.2, in the release
/// that brought this function. Elsewhere `BLPOP` is served without rights, too.
pub(crate) fn may_still_take(
    context: Context<'_>,
    client: u64,
    grants: &[Grant],
    of_set: bool,
) -> bool {
    // SAFETY: whether the function is there is all that is asked.
    if unsafe { optional!(RedisModule_BlockClientOnKeysWithFlags) }.is_none() {
        return true;
    }
    let name = User::name_of_client(context, client);
    let Some(user) = name.as_ref().and_then(User::named) else { return false };
    let keys: SmallVec<[Made; 1]> =
        grants.iter().map(|grant| Made::new(&grant.key)).collect();
    let numkeys =
        of_set.then(|| Made::decimal(u64::try_from(keys.len()).unwrap_or(u64::MAX)));
    let command = if of_set { kept::acquire_any() } else { kept::acquire() };
    let words = numkeys.iter().chain(&keys).map(Made::as_ptr);
    // Any text does as the owner: rights do not depend on it.
    let mut words: SmallVec<[_; 4]> =
        iter::once(command).chain(words).chain(iter::once(command)).collect();
    user.may_call(&mut words)
}
