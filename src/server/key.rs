//! A lock's key: what it shows, and the three things that are ever done to it. Each does
//! what the native command would: the change, `WATCH` and client-side caches, the keyspace
//! notification, and the plain command for replicas and the append-only file.

use std::ffi::{CStr, c_int};

use gpulock_core::Keeper;
use gpulock_core::seen::{Expires, Glimpse, OWNER_MAX, Seen};

use super::api::{OK, api, flag, raw};
use super::context::{Context, log_warning};
use super::kept;
use super::passing_on;
use super::state::with_keeper;
use super::text::{Lent, Made, slice};

/// An open key.
pub(crate) struct Key<'a> {
    key: *mut raw::RedisModuleKey,
    name: Lent<'a>,
    context: Context<'a>,
    opened: Opened,
}

/// Every server embeds values of up to this length in bytes.
const EMBEDDED_MAX: usize = 40;

/// What a key was opened for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opened {
    /// A command that names it.
    ForCommand,
    ToLook,
}

/// What stands under a key.
enum Kind {
    Empty,
    Text,
    Other,
}

/// The server's numbers for the first two, which its header does not bind as integers.
const EMPTY: c_int = 0;
const STRING: c_int = 1;

const READ_WRITE: c_int = (raw::REDISMODULE_READ | raw::REDISMODULE_WRITE).cast_signed();

impl<'a> Key<'a> {
    /// Opens a key that a command names.
    pub(super) fn open(context: Context<'a>, name: Lent<'a>) -> Self {
        Self::open_as(context, name, READ_WRITE, Opened::ForCommand)
    }

    /// Opens a key only to look: it counts as no use of it. On a primary it is opened for
    /// writing all the same, because that is what leaves the server's hit counters and the
    /// `keymiss` notification alone on every server; on a replica that would delete a key
    /// whose time is over, which is for the primary to do.
    pub(super) fn open_to_look(context: Context<'a>, name: Lent<'a>) -> Self {
        let mode = match context.flags().is_primary() {
            true => READ_WRITE,
            false => flag(raw::REDISMODULE_READ),
        };
        let mode = mode | flag(raw::REDISMODULE_OPEN_KEY_NOTOUCH);
        Self::open_as(context, name, mode, Opened::ToLook)
    }

    fn open_as(
        context: Context<'a>,
        name: Lent<'a>,
        mode: c_int,
        opened: Opened,
    ) -> Self {
        // SAFETY: context and name are valid for 'a. A key that is absent is opened too.
        let key =
            unsafe { api!(RedisModule_OpenKey(context.as_ptr(), name.as_ptr(), mode)) };
        Self { key, name, context, opened }
    }

    fn kind(&self) -> Kind {
        // SAFETY: the key is open; null (no key) is allowed.
        match unsafe { api!(RedisModule_KeyType(self.key)) } {
            EMPTY => Kind::Empty,
            STRING => Kind::Text,
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

    /// What the key shows. A value that can be no owner is shown as an empty one, which
    /// can be none either, and is not read.
    pub(crate) fn look(&self) -> Seen<'_> {
        self.look_as(|_| self.expires().into())
    }

    /// Whether the module wrote the value, or has read it: the server embeds the short value of
    /// a plain `SET` in the key, and keeps ours as bytes of their own ([`Key::write`]). Of a
    /// longer one nothing is known, nor where the server has no command OBJECT. Reading the value
    /// ends the difference.
    pub(crate) fn is_ours(&self) -> bool {
        (1..=EMBEDDED_MAX).contains(&self.len())
            && self.context.encoding(self.name) == b"raw"
    }

    /// When the key's time to live is over; none when it holds no string.
    pub(crate) fn lease(&self) -> Option<Expires> {
        matches!(self.kind(), Kind::Text).then(|| self.expires().into())
    }

    /// As [`Key::look`], of a key that holds a string and whose lease is known.
    pub(crate) fn look_at_value(&self, expires: Expires) -> Seen<'_> {
        Seen::Text { value: self.value(), expires }
    }

    /// As [`Key::look`], for a rule that ends the hold of `owner` and so has no use for
    /// its expiry, which costs the server another look-up.
    pub(crate) fn look_for(&self, owner: &[u8]) -> Seen<'_> {
        self.look_as(|value| match value == owner {
            true => Expires::Unread,
            false => self.expires().into(),
        })
    }

    fn look_as(&self, expires: impl FnOnce(&[u8]) -> Expires) -> Seen<'_> {
        match self.kind() {
            Kind::Empty => Seen::Absent,
            Kind::Text => {
                let value = self.value();
                Seen::Text { value, expires: expires(value) }
            }
            Kind::Other => Seen::Other,
        }
    }

    fn value(&self) -> &[u8] {
        let mut len = self.len();
        if len == 0 || len > OWNER_MAX {
            return &[];
        }
        // SAFETY: the key is open and holds a string. Its bytes stay where they are until
        // the key is changed, which takes `&mut self`, or closed.
        unsafe {
            let mode = flag(raw::REDISMODULE_READ);
            let start = api!(RedisModule_StringDMA(self.key, &raw mut len, mode));
            slice(start, len)
        }
    }

    /// What the key shows without its value, whose reading costs the server a copy.
    pub(crate) fn glimpse(&self) -> Glimpse {
        match self.kind() {
            Kind::Empty => Glimpse::Absent,
            Kind::Text => Glimpse::Text { len: self.len(), expires: self.expires() },
            Kind::Other => Glimpse::Other,
        }
    }

    /// `SET key owner PXAT until_ms`
    pub(crate) fn set(&mut self, owner: Lent<'_>, until_ms: u64) {
        self.write(owner.bytes());
        self.expire_at(until_ms);
        self.pass_on(|ctx, name| {
            let until = Made::decimal(until_ms);
            let (owner, pxat, until) = (owner.as_ptr(), kept::pxat(), until.as_ptr());
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

    /// `SET key owner PXAT until_ms`, for the waiter that the lock passes to.
    pub(crate) fn hand_over(&mut self, owner: &[u8], until_ms: u64) {
        let owner = Made::new(owner);
        self.set(owner.lend(), until_ms);
    }

    /// Puts the owner under the key, as bytes of its own: a value that the server shares or
    /// embeds would be copied by the first look at it.
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
        self.pass_on(|ctx, name| {
            let until = Made::decimal(until_ms);
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
        self.pass_on(|ctx, name| {
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

    /// Passes the plain command on, which `replicate` makes, and counts the change for the
    /// server's saving. When nobody listens the client's command stands for it: the server
    /// only counts then, and looks at neither.
    fn pass_on(
        &self,
        replicate: impl FnOnce(*mut raw::RedisModuleCtx, *mut raw::RedisModuleString) -> c_int,
    ) {
        let ctx = self.context.as_ptr();
        if self.opened == Opened::ForCommand && passing_on::is_to_nobody() {
            // SAFETY: the context is that of a command.
            unsafe { api!(RedisModule_ReplicateVerbatim(ctx)) };
        } else if replicate(ctx, self.name.as_ptr()) != OK {
            not_replicated();
        }
    }

    /// Tells `WATCH` and client-side caches. Closing a key that was opened for writing
    /// would do it unasked, changed or not; the module has that switched off.
    fn signal(&self) {
        // SAFETY: context and name are valid.
        unsafe {
            let ctx = self.context.as_ptr();
            api!(RedisModule_SignalModifiedKey(ctx, self.name.as_ptr()));
        }
    }

    fn notify(&self, class: c_int, event: &CStr) {
        let (ctx, event, name) =
            (self.context.as_ptr(), event.as_ptr(), self.name.as_ptr());
        // SAFETY: context, event and name are valid.
        unsafe { api!(RedisModule_NotifyKeyspaceEvent(ctx, class, event, name)) };
    }
}

/// The key was changed, and replicas and the append-only file do not follow. The commands
/// that they follow by are there (`needed_commands`), so this is a fault of ours.
#[cold]
fn not_replicated() {
    with_keeper(Keeper::count_internal_error);
    log_warning("the server did not replicate a change of a lock");
}

impl Drop for Key<'_> {
    fn drop(&mut self) {
        // SAFETY: the key is open and not used after this; null is allowed.
        unsafe { api!(RedisModule_CloseKey(self.key)) }
    }
}
