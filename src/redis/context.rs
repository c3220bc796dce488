//! The context that the server passes to each callback: it opens keys, publishes messages and calls
//! other commands.

use std::ffi::CStr;
use std::marker::PhantomData;

use super::api::{OK, api, flag, raw};
use super::key::Key;
use super::string::{OwnedString, StringRef, c_string, slice};

/// The context of a callback.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    ctx: *mut raw::RedisModuleCtx,
    callback: PhantomData<&'a ()>,
}

/// The state of the server at this moment.
#[derive(Clone, Copy)]
pub(crate) struct Flags(std::ffi::c_int);

impl Flags {
    fn has(self, bits: u32) -> bool {
        self.0 & flag(bits) != 0
    }

    /// A script or a function is being executed.
    pub(crate) fn in_script(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_LUA)
    }

    /// The caller may not be blocked: the command is part of a script, a transaction or another
    /// module's call, or the client has no connection.
    pub(crate) fn denies_blocking(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_DENY_BLOCKING)
    }

    /// A script, a function or a transaction is being executed, even if this is not part of it.
    pub(crate) fn in_script_or_transaction(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_LUA | raw::REDISMODULE_CTX_FLAGS_MULTI)
    }

    /// This server is a primary.
    pub(crate) fn is_primary(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_MASTER)
    }

    /// This server is a node of a cluster.
    pub(crate) fn in_cluster(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_CLUSTER)
    }

    /// The data is being loaded.
    pub(crate) fn is_loading(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_LOADING)
    }

    /// The server has reached `maxmemory`.
    pub(crate) fn is_out_of_memory(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_OOM)
    }
}

impl<'a> Context<'a> {
    /// # Safety
    /// `ctx` is the context that the server passes to a callback, valid for `'a`.
    pub(super) unsafe fn new(ctx: *mut raw::RedisModuleCtx) -> Self {
        Self { ctx, callback: PhantomData }
    }

    pub(super) fn as_ptr(self) -> *mut raw::RedisModuleCtx {
        self.ctx
    }

    /// The state of the server.
    pub(crate) fn flags(self) -> Flags {
        // SAFETY: the context is valid (`new`).
        Flags(unsafe { api!(RedisModule_GetContextFlags(self.ctx)) })
    }

    /// The number of the database in use.
    pub(crate) fn db(self) -> u32 {
        // SAFETY: the context is valid (`new`).
        let db = unsafe { api!(RedisModule_GetSelectedDb(self.ctx)) };
        u32::try_from(db).unwrap_or(0)
    }

    pub(super) fn select_db(self, db: u32) -> bool {
        let Ok(db) = i32::try_from(db) else { return false };
        // SAFETY: the context is valid (`new`).
        unsafe { api!(RedisModule_SelectDb(self.ctx, db)) == OK }
    }

    /// The id of the calling client.
    pub(super) fn client_id(self) -> u64 {
        // SAFETY: the context is valid (`new`).
        unsafe { api!(RedisModule_GetClientId(self.ctx)) }
    }

    /// Whether a client sent the command. The flags do not always show a call by another module:
    /// without `K` (Redis 7.2) it lacks DENY_BLOCKING. But the server does not list its pseudo
    /// client.
    pub(crate) fn is_of_client(self) -> bool {
        let id = self.client_id();
        // SAFETY: with a null pointer the server only checks whether the client exists.
        unsafe { api!(RedisModule_GetClientInfoById(std::ptr::null_mut(), id)) == OK }
    }

    /// Opens a key that a command names.
    pub(crate) fn open(self, name: StringRef<'a>) -> Key<'a> {
        Key::open(self, name)
    }

    /// Opens a key by its bytes, to read it first. None when the database does not exist. Closing
    /// the key selects the current database again, which may be a client's.
    pub(crate) fn open_by_name(self, db: u32, name: &[u8]) -> Option<Key<'a>> {
        let selected = self.db();
        let restore = (selected != db).then_some(selected);
        if restore.is_some() && !self.select_db(db) {
            return None;
        }
        Some(Key::open_by_name(self, name, restore))
    }

    /// Publishes a message to all subscribers of a channel.
    pub(crate) fn publish(self, channel: &[u8], message: &[u8]) {
        let (channel, message) = (OwnedString::new(channel), OwnedString::new(message));
        // SAFETY: the context is valid (`new`), the strings outlive the call.
        unsafe {
            let (channel, message) = (channel.as_ptr(), message.as_ptr());
            api!(RedisModule_PublishMessage(self.ctx, channel, message));
        }
    }

    /// A client's line of `CLIENT LIST`; none when the client is gone, or the command CLIENT is
    /// renamed or disabled.
    pub(crate) fn client_line(self, client: u64) -> Option<Vec<u8>> {
        let id = client.to_string();
        let reply = self.call(c"CLIENT", &[b"LIST", b"ID", id.as_bytes()])?;
        let line = reply.text().trim_ascii_end();
        (!line.is_empty()).then(|| line.to_vec())
    }

    /// The output of `CLIENT LIST`.
    pub(super) fn client_lines(self) -> Vec<u8> {
        let reply = self.call(c"CLIENT", &[b"LIST"]);
        reply.map(|reply| reply.text().to_vec()).unwrap_or_default()
    }

    /// The encoding of a key's value, from `OBJECT ENCODING`; empty when it is unknown.
    pub(super) fn encoding(self, key: StringRef<'_>) -> Vec<u8> {
        let reply = self.call(c"OBJECT", &[b"ENCODING", key.bytes()]);
        reply.map(|reply| reply.text().to_vec()).unwrap_or_default()
    }

    /// The lines of `ACL LIST`.
    pub(super) fn acl_rules(self) -> Vec<Vec<u8>> {
        let reply = self.call(c"ACL", &[b"LIST"]);
        let rule = |reply: &CallReply, index| Some(reply.element(index)?.text().to_vec());
        reply.map_or_else(Vec::new, |reply| {
            (0..).map_while(|index| rule(&reply, index)).collect()
        })
    }

    /// Closes a client's connection.
    pub(super) fn kill_client(self, client: &str) {
        self.call(c"CLIENT", &[b"KILL", b"ID", client.as_bytes()]);
    }

    /// The value of one of the server's settings; none when the command CONFIG is renamed or
    /// disabled.
    pub(crate) fn server_setting(self, name: &str) -> Option<Vec<u8>> {
        let reply = self.call(c"CONFIG", &[b"GET", name.as_bytes()])?;
        Some(reply.element(1)?.text().to_vec())
    }

    /// Calls a command; none when the server rejects the call.
    fn call(self, command: &CStr, words: &[&[u8]]) -> Option<CallReply> {
        let words: Vec<OwnedString> =
            words.iter().map(|word| OwnedString::new(word)).collect();
        let mut starts: Vec<_> = words.iter().map(OwnedString::as_ptr).collect();
        let (start, len) = (starts.as_mut_ptr(), starts.len());
        let (command, format) = (command.as_ptr(), c"v".as_ptr());
        // SAFETY: the context is valid (`new`). The format requires an array of strings and its
        // length, which are passed; all of it outlives the call.
        unsafe {
            CallReply::take(api!(RedisModule_Call(self.ctx, command, format, start, len)))
        }
    }
}

/// The reply of a command that was called.
struct CallReply(*mut raw::RedisModuleCallReply, Ownership);

/// Whether dropping a reply frees it. An element is freed with the reply that it is part of.
enum Ownership {
    Owned,
    Element,
}

impl CallReply {
    /// # Safety
    /// `reply` is null, or the reply of a call that is not freed elsewhere.
    unsafe fn take(reply: *mut raw::RedisModuleCallReply) -> Option<Self> {
        (!reply.is_null()).then(|| Self(reply, Ownership::Owned))
    }

    /// An element of an array.
    fn element(&self, index: usize) -> Option<Self> {
        // SAFETY: the reply is valid until it is dropped. Module calls use RESP2 by default, in
        // which CONFIG GET returns an array.
        let element = unsafe { api!(RedisModule_CallReplyArrayElement(self.0, index)) };
        (!element.is_null()).then(|| Self(element, Ownership::Element))
    }

    /// The text of a string reply; empty for any other.
    fn text(&self) -> &[u8] {
        let mut len = 0;
        // SAFETY: the reply is valid until it is dropped, and its text with it.
        unsafe {
            let start = api!(RedisModule_CallReplyStringPtr(self.0, &raw mut len));
            slice(start, len)
        }
    }
}

impl Drop for CallReply {
    fn drop(&mut self) {
        if let Ownership::Owned = self.1 {
            // SAFETY: the reply belongs to the module and is not used after this.
            unsafe { api!(RedisModule_FreeCallReply(self.0)) }
        }
    }
}

/// Whether the server is paused, or is failing over to a replica. A write from a callback would
/// crash it then.
pub(crate) fn must_not_write() -> bool {
    // SAFETY: the function has no parameters.
    unsafe { api!(RedisModule_AvoidReplicaTraffic()) != 0 }
}

/// Writes a warning to the server log.
pub(crate) fn log_warning(message: &str) {
    let message = c_string(message);
    // SAFETY: the message is an argument, not the format, and the server copies it. The context is
    // optional.
    unsafe {
        api!(RedisModule_Log(
            std::ptr::null_mut(),
            c"warning".as_ptr(),
            c"<gpulock> %s".as_ptr(),
            message.as_ptr()
        ));
    }
}
