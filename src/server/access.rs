//! Which locks the calling user may read, for commands that report locks that they do not
//! name.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

use gpulock_core::{Fault, Name};

use super::api::{OK, address_of, api, flag, raw};
use super::call::Call;
use super::text::Made;

/// `ValkeyModule_ACLCheckPermissions`, which newer Valkey servers have: whether a user may
/// call a command in a database.
type CheckPermissions = unsafe extern "C" fn(
    user: *mut raw::RedisModuleUser,
    words: *mut *mut raw::RedisModuleString,
    len: c_int,
    db: c_int,
    denial_reason: *mut c_void,
) -> c_int;

/// The locks that a user may read.
pub(crate) struct Readable<'a>(Option<User<'a>>);

struct User<'a> {
    user: *mut raw::RedisModuleUser,
    call: Call<'a>,
    /// None where users cannot be kept out of databases.
    check: Option<CheckPermissions>,
    /// The databases asked about so far, and whether the user may call this command there.
    databases: RefCell<BTreeMap<u32, bool>>,
}

impl<'a> Readable<'a> {
    /// Looks up the user that calls.
    ///
    /// # Errors
    /// When the server no longer knows the user.
    pub(crate) fn by_caller_of(call: Call<'a>) -> Result<Self, Fault> {
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
        if user.is_null() {
            return Err(Fault::Internal);
        }
        let address = address_of(c"ValkeyModule_ACLCheckPermissions");
        // SAFETY: null is none; any other address is that of the function, whose type this
        // is (valkeymodule.h of Valkey 9.1).
        let check = unsafe {
            std::mem::transmute::<*mut c_void, Option<CheckPermissions>>(address)
        };
        Ok(Self(Some(User { user, call, check, databases: RefCell::default() })))
    }

    /// True when the user may read the lock's key, and call this command in its database.
    pub(crate) fn has(&self, name: Name<'_>) -> bool {
        let Some(user) = &self.0 else { return true };
        user.may_use(name.db) && user.may_read(name.key)
    }
}

impl User<'_> {
    fn may_use(&self, db: u32) -> bool {
        let Some(check) = self.check else { return true };
        if let Some(known) = self.databases.borrow().get(&db).copied() {
            return known;
        }
        let may_use = self.ask_about(check, db);
        self.databases.borrow_mut().insert(db, may_use);
        may_use
    }

    /// Asks about the call's own command: an operator may rename the server's own, and users
    /// may be denied them.
    fn ask_about(&self, check: CheckPermissions, db: u32) -> bool {
        let words = self.call.words();
        let (Ok(len), Ok(db)) = (c_int::try_from(words.len()), c_int::try_from(db))
        else {
            return false;
        };
        let start = words.as_ptr().cast_mut();
        // SAFETY: the user is valid until it is freed (`drop`), the words as long as the
        // call; the server only reads them. A reason is not asked for.
        unsafe { check(self.user, start, len, db, null_mut()) == OK }
    }

    fn may_read(&self, key: &[u8]) -> bool {
        let key = Made::new(key);
        let access = flag(raw::REDISMODULE_CMD_KEY_ACCESS);
        // SAFETY: the user is valid until it is freed (`drop`), the key until the end.
        unsafe {
            let key = key.as_ptr();
            api!(RedisModule_ACLCheckKeyPermissions(self.user, key, access)) == OK
        }
    }
}

impl Drop for User<'_> {
    fn drop(&mut self) {
        // SAFETY: the user was made for us and is not used after this.
        unsafe { api!(RedisModule_FreeModuleUser(self.user)) }
    }
}
