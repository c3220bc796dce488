//! One call of a command: the caller, the arguments, and the reply.

use std::ffi::c_int;

use gpulock_core::{CommandError, Name, request};

use super::api::{api, raw};
use super::context::Context;
use super::key::Key;
use super::reply::Reply;
use super::string::StringRef;

/// A call. Argument 0 is the first one after the command's name.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    context: Context<'a>,
    /// The command's name and the arguments.
    words: &'a [*mut raw::RedisModuleString],
    arguments: &'a [*mut raw::RedisModuleString],
}

impl<'a> Call<'a> {
    /// # Safety
    /// The parameters are what the server passes to a command, valid for `'a`.
    pub(super) unsafe fn new(
        ctx: *mut raw::RedisModuleCtx,
        argv: *mut *mut raw::RedisModuleString,
        argc: c_int,
    ) -> Self {
        let argc = usize::try_from(argc).unwrap_or(0);
        // SAFETY: the server passes `argc` pointers, the command's name first.
        let (context, words) =
            unsafe { (Context::new(ctx), std::slice::from_raw_parts(argv, argc)) };
        Self { context, words, arguments: words.get(1..).unwrap_or_default() }
    }

    /// The context of the call.
    pub(crate) fn context(self) -> Context<'a> {
        self.context
    }

    /// The command's name and the arguments, valid for `'a`.
    pub(super) fn words(self) -> &'a [*mut raw::RedisModuleString] {
        self.words
    }

    /// The reply.
    pub(crate) fn reply(self) -> Reply<'a> {
        Reply::new(self.context)
    }

    /// An argument.
    ///
    /// # Errors
    /// When there are fewer arguments.
    pub(crate) fn argument(self, index: usize) -> Result<StringRef<'a>, CommandError> {
        let text = self.arguments.get(index).ok_or(CommandError::Syntax)?;
        // SAFETY: the strings are valid for 'a (`new`).
        Ok(unsafe { StringRef::new(*text) })
    }

    /// The bytes of the arguments from this one on.
    pub(crate) fn arguments_from(self, index: usize) -> impl Iterator<Item = &'a [u8]> {
        // SAFETY: the strings are valid for 'a (`new`).
        let bytes = |text: &*mut _| unsafe { StringRef::new(*text).bytes() };
        self.arguments.get(index..).unwrap_or_default().iter().map(bytes)
    }

    /// The lock whose key is the first argument.
    ///
    /// # Errors
    /// When there is no argument.
    pub(crate) fn lock(self) -> Result<Name<'a>, CommandError> {
        Ok(Name { db: self.context.db(), key: self.argument(0)?.bytes() })
    }

    /// The second argument, if `owner` points to its bytes. Equal bytes elsewhere do not count.
    pub(crate) fn owner_argument(self, owner: &[u8]) -> Option<StringRef<'a>> {
        let argument = self.argument(1).ok()?;
        std::ptr::eq(argument.bytes(), owner).then_some(argument)
    }

    /// Opens the key that is the first argument.
    ///
    /// # Errors
    /// When there is no argument.
    pub(crate) fn open(self) -> Result<Key<'a>, CommandError> {
        Ok(self.context.open(self.argument(0)?))
    }

    /// Opens the key that is the first argument, only to read it.
    ///
    /// # Errors
    /// When there is no argument.
    pub(crate) fn open_to_probe(self) -> Result<Key<'a>, CommandError> {
        Ok(Key::open_to_probe(self.context, self.argument(0)?))
    }

    /// Whether the server only requests the positions of the keys.
    pub(super) fn is_key_request(self) -> bool {
        // SAFETY: the context is valid.
        unsafe { api!(RedisModule_IsKeysPositionRequest(self.context.as_ptr())) != 0 }
    }

    /// Reports the positions of the keys, whose number is the first argument. If that number is
    /// invalid or exceeds the number of arguments, no keys are reported, because the call will
    /// fail.
    pub(super) fn report_keys(self) {
        let number = self.arguments_from(0).next().unwrap_or_default();
        let keys = request::number_of_keys(number).unwrap_or(0);
        if keys >= self.arguments.len() {
            return;
        }
        for position in (2..).take(keys) {
            // SAFETY: the context is valid, and the server has requested the positions.
            unsafe { api!(RedisModule_KeyAtPos(self.context.as_ptr(), position)) };
        }
    }

    /// The id of the calling client. In a script it is that of the script's pseudo client, which is
    /// not unique.
    pub(crate) fn client(self) -> Option<u64> {
        Some(self.context.client_id()).filter(|id| *id != 0)
    }
}
