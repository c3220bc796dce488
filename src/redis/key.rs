//! The key of a lock: what it shows, and the three writes that are ever made to it. Each write does
//! what the native command does: the change, `WATCH` and client-side caches, the keyspace
//! notification, and the plain command for replicas and the append-only file.

use std::ffi::{CStr, c_int};

use gpulock_core::KeyState;
use gpulock_core::state::key_state::{Expires, KeyMeta, OWNER_MAX};

use super::api::{OK, api, flag, raw};
use super::context::{Context, log_warning};
use super::panic_boundary::count_internal_error;
use super::replication_listeners;
use super::static_strings;
use super::string::{OwnedString, StringRef, slice};

/// An open key.
pub(crate) struct Key<'a> {
    key: *mut raw::RedisModuleKey,
    name: *mut raw::RedisModuleString,
    context: Context<'a>,
    opened: Opened,
}

/// Every server embeds values of up to this length, in bytes.
const EMBEDDED_MAX: usize = 40;

/// What a key was opened for.
enum Opened {
    /// A command that names it.
    ForCommand,
    /// A probe, by a command that names it.
    ToProbe,
    /// A probe. The key owns its name, and restores this database when it is closed.
    ByName { _name: OwnedString, restore_db: Option<u32> },
}

/// What a key holds.
enum Kind {
    Empty,
    String,
    Other,
}

/// The server's numbers for the first two, which its header does not bind as integers.
const EMPTY: c_int = 0;
const STRING: c_int = 1;

const READ_WRITE: c_int = (raw::REDISMODULE_READ | raw::REDISMODULE_WRITE).cast_signed();

impl<'a> Key<'a> {
    /// Opens a key that a command names.
    pub(super) fn open(context: Context<'a>, name: StringRef<'a>) -> Self {
        Self::open_as(context, name.as_ptr(), READ_WRITE, Opened::ForCommand)
    }

    /// Opens a key that a command names, only to read it: this does not count as a use of the key.
    pub(super) fn open_to_probe(context: Context<'a>, name: StringRef<'a>) -> Self {
        let mode = Self::probe_mode(context);
        Self::open_as(context, name.as_ptr(), mode, Opened::ToProbe)
    }

    /// Opens a key by its bytes in the selected database, to read it first. `restore_db` is
    /// selected again when the key is closed.
    pub(super) fn open_by_name(
        context: Context<'a>,
        name: &[u8],
        restore_db: Option<u32>,
    ) -> Self {
        let name = OwnedString::new(name);
        let (pointer, mode) = (name.as_ptr(), Self::probe_mode(context));
        let opened = Opened::ByName { _name: name, restore_db };
        Self::open_as(context, pointer, mode, opened)
    }

    /// On a primary a key is opened for writing even if it is only read, because that leaves the
    /// server's hit counters and the `keymiss` notification alone on every server. On a replica
    /// that would delete an expired key, which only the primary may do.
    fn probe_mode(context: Context<'_>) -> c_int {
        let mode = match context.flags().is_primary() {
            true => READ_WRITE,
            false => flag(raw::REDISMODULE_READ),
        };
        mode | flag(raw::REDISMODULE_OPEN_KEY_NOTOUCH)
    }

    fn open_as(
        context: Context<'a>,
        name: *mut raw::RedisModuleString,
        mode: c_int,
        opened: Opened,
    ) -> Self {
        // SAFETY: the context is valid for 'a, and the name until the key is dropped: the server
        // lends it for 'a, or the key owns it. A key that is absent is opened too.
        let key = unsafe { api!(RedisModule_OpenKey(context.as_ptr(), name, mode)) };
        Self { key, name, context, opened }
    }

    fn kind(&self) -> Kind {
        // SAFETY: the key is open; null (no key) is allowed.
        match unsafe { api!(RedisModule_KeyType(self.key)) } {
            EMPTY => Kind::Empty,
            STRING => Kind::String,
            _ => Kind::Other,
        }
    }

    fn len(&self) -> usize {
        // SAFETY: the key is open; null (no key) is allowed.
        unsafe { api!(RedisModule_ValueLength(self.key)) }
    }

    fn expires(&self) -> Option<u64> {
        // SAFETY: the key is open and holds a value.
        u64::try_from(unsafe { api!(RedisModule_GetAbsExpire(self.key)) }).ok()
    }

    /// What the key shows. A value that is not a valid owner is not read: it is shown as an empty
    /// one, which is not a valid owner either.
    pub(crate) fn state(&self) -> KeyState<'_> {
        self.state_expiring(|_| self.expires().into())
    }

    /// Whether the module wrote the value, or has read it: the server embeds the short value of a
    /// plain `SET` in the key, and keeps the module's as separate bytes ([`Key::write`]). A longer
    /// value does not tell, nor does a server without the command OBJECT. Reading the value ends
    /// the difference.
    pub(crate) fn is_ours(&self) -> bool {
        (1..=EMBEDDED_MAX).contains(&self.len())
            && self.context.encoding(self.name()) == b"raw"
    }

    fn name(&self) -> StringRef<'_> {
        // SAFETY: the name is valid as long as the key (`open_as`).
        unsafe { StringRef::new(self.name) }
    }

    /// When the key expires; none when it holds no string.
    pub(crate) fn expiry(&self) -> Option<Expires> {
        matches!(self.kind(), Kind::String).then(|| self.expires().into())
    }

    /// What a key shows that holds a string and whose expiry is known.
    pub(crate) fn string_state(&self, expires: Expires) -> KeyState<'_> {
        KeyState::String { value: self.value(), expires }
    }

    /// What the key shows, for a rule that ends the hold of `owner` and does not need its expiry,
    /// which costs the server another look-up.
    pub(crate) fn state_for_owner(&self, owner: &[u8]) -> KeyState<'_> {
        self.state_expiring(|value| match value == owner {
            true => Expires::Unread,
            false => self.expires().into(),
        })
    }

    fn state_expiring(&self, expires: impl FnOnce(&[u8]) -> Expires) -> KeyState<'_> {
        match self.kind() {
            Kind::Empty => KeyState::Absent,
            Kind::String => {
                let value = self.value();
                KeyState::String { value, expires: expires(value) }
            }
            Kind::Other => KeyState::OtherType,
        }
    }

    fn value(&self) -> &[u8] {
        let mut len = self.len();
        if len == 0 || len > OWNER_MAX {
            return &[];
        }
        // SAFETY: the key is open and holds a string. Its bytes do not move until the key is
        // changed, which takes `&mut self`, or closed.
        unsafe {
            let mode = flag(raw::REDISMODULE_READ);
            let start = api!(RedisModule_StringDMA(self.key, &raw mut len, mode));
            slice(start, len)
        }
    }

    /// What the key shows without its value, whose reading costs the server a copy.
    pub(crate) fn meta(&self) -> KeyMeta {
        match self.kind() {
            Kind::Empty => KeyMeta::Absent,
            Kind::String => KeyMeta::String { len: self.len(), expires: self.expires() },
            Kind::Other => KeyMeta::OtherType,
        }
    }

    /// `SET key owner PXAT until_ms`. `argument` returns the owner as an argument of the command,
    /// if it is one, which saves a copy.
    pub(crate) fn set<'s>(
        &mut self,
        owner: &[u8],
        argument: impl FnOnce() -> Option<StringRef<'s>>,
        until_ms: u64,
    ) {
        self.write(owner);
        self.expire_at(until_ms);
        self.replicate(|ctx, name| {
            let argument = argument();
            let copy = argument.is_none().then(|| OwnedString::new(owner));
            let owner = argument.or(copy.as_ref().map(OwnedString::lend));
            let owner = owner.map_or(std::ptr::null_mut(), StringRef::as_ptr);
            let until = OwnedString::decimal(until_ms);
            let (pxat, until) = (static_strings::pxat(), until.as_ptr());
            let (command, format) = (c"SET".as_ptr(), c"ssss".as_ptr());
            // SAFETY: all strings are valid, and the format is of four strings, as given.
            unsafe {
                api!(RedisModule_Replicate(
                    ctx, command, format, name, owner, pxat, until
                ))
            }
        });
        self.signal();
        self.notify(raw::REDISMODULE_NOTIFY_STRING, c"set");
        self.notify(raw::REDISMODULE_NOTIFY_GENERIC, c"expire");
    }

    /// Stores the owner under the key as separate bytes: a value that the server shares or embeds
    /// would be copied when it is read first.
    fn write(&mut self, owner: &[u8]) {
        let mut len = 0;
        // SAFETY: the key is open for writing and is absent or a string, which is then as
        // long as the owner; the server says where it is, and nothing else touches it.
        unsafe {
            api!(RedisModule_StringTruncate(self.key, owner.len()));
            let start = api!(RedisModule_StringDMA(self.key, &raw mut len, READ_WRITE));
            let fits = !start.is_null() && len == owner.len();
            assert!(fits, "the server has no room for the owner");
            std::ptr::copy_nonoverlapping(owner.as_ptr(), start.cast::<u8>(), len);
        }
    }

    /// `PEXPIREAT key until_ms`
    pub(crate) fn expire(&mut self, until_ms: u64) {
        self.expire_at(until_ms);
        self.replicate(|ctx, name| {
            let until = OwnedString::decimal(until_ms);
            let (command, format) = (c"PEXPIREAT".as_ptr(), c"ss".as_ptr());
            // SAFETY: as above, with two strings.
            unsafe {
                api!(RedisModule_Replicate(ctx, command, format, name, until.as_ptr()))
            }
        });
        self.signal();
        self.notify(raw::REDISMODULE_NOTIFY_GENERIC, c"expire");
    }

    /// `DEL key`
    pub(crate) fn delete(&mut self) {
        // SAFETY: the key is open for writing.
        unsafe { api!(RedisModule_DeleteKey(self.key)) };
        self.replicate(|ctx, name| {
            // SAFETY: as above, with a string.
            unsafe {
                api!(RedisModule_Replicate(ctx, c"DEL".as_ptr(), c"s".as_ptr(), name))
            }
        });
        self.signal();
        self.notify(raw::REDISMODULE_NOTIFY_GENERIC, c"del");
    }

    fn expire_at(&mut self, until_ms: u64) {
        // SAFETY: the key is open for writing and holds a value.
        unsafe { api!(RedisModule_SetAbsExpire(self.key, until_ms.cast_signed())) };
    }

    /// Replicates the plain command, which `replicate` builds, and counts the change for the
    /// server's saving. Without a listener the client's own command is passed instead: the server
    /// reads neither, it only counts the change.
    fn replicate(
        &self,
        replicate: impl FnOnce(*mut raw::RedisModuleCtx, *mut raw::RedisModuleString) -> c_int,
    ) {
        let ctx = self.context.as_ptr();
        if matches!(self.opened, Opened::ForCommand)
            && replication_listeners::has_no_listeners()
        {
            // SAFETY: the context is that of a command.
            unsafe { api!(RedisModule_ReplicateVerbatim(ctx)) };
        } else if replicate(ctx, self.name) != OK {
            not_replicated();
        }
    }

    /// Notifies `WATCH` and client-side caches. Closing a key that was opened for writing would
    /// always do so, changed or not; the module has turned that off.
    fn signal(&self) {
        // SAFETY: context and name are valid.
        unsafe {
            let ctx = self.context.as_ptr();
            api!(RedisModule_SignalModifiedKey(ctx, self.name));
        }
    }

    fn notify(&self, class: c_int, event: &CStr) {
        let (ctx, event) = (self.context.as_ptr(), event.as_ptr());
        // SAFETY: context, event and name are valid.
        unsafe { api!(RedisModule_NotifyKeyspaceEvent(ctx, class, event, self.name)) };
    }
}

/// The key was changed, but not replicated. The commands for that exist (`needed_commands`), so
/// this is a bug of the module.
#[cold]
fn not_replicated() {
    count_internal_error();
    log_warning("the server failed to replicate a change of a lock");
}

impl Drop for Key<'_> {
    fn drop(&mut self) {
        // SAFETY: the key is open and not used after this; null is allowed.
        unsafe { api!(RedisModule_CloseKey(self.key)) };
        if let Opened::ByName { restore_db: Some(db), .. } = self.opened {
            self.context.select_db(db);
        }
    }
}
