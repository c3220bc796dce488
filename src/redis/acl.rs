//! Access control: which locks the caller may read, for commands that report locks other than their
//! keys; and whether a waiting client still has the permissions for its grant.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::iter;
use std::ptr::null_mut;

use gpulock_core::state::outbox::Grant;
use gpulock_core::{CommandError, Name};
use smallvec::SmallVec;

use super::api::{OK, address_of, api, flag, optional, raw};
use super::call::Call;
use super::context::Context;
use super::static_strings;
use super::string::OwnedString;

/// `ValkeyModule_ACLCheckPermissions` of newer Valkey servers: whether a user may call a command in
/// a database.
type CheckPermissions = unsafe extern "C" fn(
    user: *mut raw::RedisModuleUser,
    words: *mut *mut raw::RedisModuleString,
    len: c_int,
    db: c_int,
    denial_reason: *mut c_void,
) -> c_int;

/// That function; none on servers whose ACL rules do not support databases.
fn check_permissions() -> Option<CheckPermissions> {
    let address = address_of(c"ValkeyModule_ACLCheckPermissions");
    // SAFETY: null is `None`; any other address is that of the function, which has this type
    // (valkeymodule.h of Valkey 9.1).
    unsafe { std::mem::transmute::<*mut c_void, Option<CheckPermissions>>(address) }
}

/// A user of the server.
struct User(*mut raw::RedisModuleUser);

impl User {
    /// The user of this name; none when the server does not know it.
    fn named(name: &OwnedString) -> Option<Self> {
        // SAFETY: the name is a valid string.
        let user = unsafe { api!(RedisModule_GetModuleUserFromUserName(name.as_ptr())) };
        (!user.is_null()).then_some(Self(user))
    }

    /// The name of a client's user; none when there is no such client.
    fn name_of_client(context: Context<'_>, client: u64) -> Option<OwnedString> {
        // SAFETY: the context is valid, and the returned string is owned by the module.
        unsafe {
            OwnedString::take(api!(RedisModule_GetClientUserNameById(
                context.as_ptr(),
                client
            )))
        }
    }

    fn may_read(&self, key: &[u8]) -> bool {
        let key = OwnedString::new(key);
        let access = flag(raw::REDISMODULE_CMD_KEY_ACCESS);
        // SAFETY: the user is valid until it is freed (`drop`), the key until the end of the scope.
        unsafe {
            api!(RedisModule_ACLCheckKeyPermissions(self.0, key.as_ptr(), access)) == OK
        }
    }

    /// Whether the user may call a command in a database. The words are its name and arguments.
    fn may_call(
        &self,
        check: Option<CheckPermissions>,
        words: &[*mut raw::RedisModuleString],
        db: u32,
    ) -> bool {
        let (Ok(len), Ok(db)) = (c_int::try_from(words.len()), c_int::try_from(db))
        else {
            return false;
        };
        let start = words.as_ptr().cast_mut();
        // SAFETY: the user is valid until it is freed (`drop`), the words are valid strings,
        // which the server only reads. The denial reason is optional.
        unsafe {
            OK == match check {
                Some(check) => check(self.0, start, len, db, null_mut()),
                None => api!(RedisModule_ACLCheckCommandPermissions(self.0, start, len)),
            }
        }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // SAFETY: the user was created for the module and is not used after this.
        unsafe { api!(RedisModule_FreeModuleUser(self.0)) }
    }
}

/// The locks that a user may read.
pub(crate) struct Readable<'a>(Option<Reader<'a>>);

struct Reader<'a> {
    user: User,
    call: Call<'a>,
    check: Option<CheckPermissions>,
    /// Whether the user may call this command in each of the databases checked so far.
    databases: RefCell<BTreeMap<u32, bool>>,
}

impl<'a> Readable<'a> {
    /// The locks that the calling user may read.
    ///
    /// # Errors
    /// When the user no longer exists.
    pub(crate) fn by_caller_of(call: Call<'a>) -> Result<Self, CommandError> {
        let context = call.context();
        // In a script the current user is the one of its caller. Elsewhere the user is looked up by
        // the client's id, because GetCurrentUserName crashes the server when another module calls
        // the command without a user.
        let name = if context.flags().in_script() {
            // SAFETY: the context is valid, and the returned string is owned by the module.
            unsafe {
                OwnedString::take(api!(RedisModule_GetCurrentUserName(context.as_ptr())))
            }
        } else {
            User::name_of_client(context, context.client_id())
        };
        // The server itself or another module called the command: it may read everything.
        let Some(name) = name else { return Ok(Self(None)) };
        let user = User::named(&name).ok_or(CommandError::Internal)?;
        let (check, databases) = (check_permissions(), RefCell::default());
        Ok(Self(Some(Reader { user, call, check, databases })))
    }

    /// Whether the user may read the lock's key, and call this command in its database.
    pub(crate) fn has(&self, name: Name<'_>) -> bool {
        let Some(reader) = &self.0 else { return true };
        reader.may_use(name.db) && reader.user.may_read(name.key)
    }
}

impl Reader<'_> {
    /// Whether the user may call this command in a database. The command itself is checked, because
    /// the server's own commands may be renamed or denied to the user.
    fn may_use(&self, db: u32) -> bool {
        let Some(check) = self.check else { return true };
        if let Some(known) = self.databases.borrow().get(&db).copied() {
            return known;
        }
        let may_use = self.user.may_call(Some(check), self.call.words(), db);
        self.databases.borrow_mut().insert(db, may_use);
        may_use
    }
}

/// Whether a client's user may still acquire the locks in this database that the client has waited
/// for. A client without a user known by name may do everything, or belongs to an authentication
/// module. This is checked only on servers that also check the permissions of their own blocked
/// clients again: since Redis 7.2, which introduced the function that is looked up here. Older
/// servers serve a blocked `BLPOP` without permissions, too.
pub(crate) fn may_still_acquire(
    context: Context<'_>,
    client: u64,
    db: u32,
    grants: &[Grant],
    of_set: bool,
) -> bool {
    // SAFETY: this only checks whether the function exists.
    if unsafe { optional!(RedisModule_BlockClientOnKeysWithFlags) }.is_none() {
        return true;
    }
    let name = User::name_of_client(context, client);
    let Some(user) = name.as_ref().and_then(User::named) else { return true };
    let keys: SmallVec<[OwnedString; 1]> =
        grants.iter().map(|grant| OwnedString::new(&grant.key)).collect();
    let numkeys = of_set
        .then(|| OwnedString::decimal(u64::try_from(keys.len()).unwrap_or(u64::MAX)));
    let command =
        if of_set { static_strings::acquire_any() } else { static_strings::acquire() };
    let words = numkeys.iter().chain(&keys).map(OwnedString::as_ptr);
    // Permissions do not depend on the owner, so any text will do.
    let words: SmallVec<[_; 4]> =
        iter::once(command).chain(words).chain(iter::once(command)).collect();
    user.may_call(check_permissions(), &words, db)
}
