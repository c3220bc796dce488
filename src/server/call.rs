//! One call of one command: who calls, with which arguments, and where the answer goes.

use std::ffi::c_int;

use gpulock_core::{Fault, Name, request};

use super::api::{api, raw};
use super::context::Context;
use super::key::Key;
use super::reply::Reply;
use super::text::Lent;

/// A call. The arguments are counted from the first after the command's name.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    context: Context<'a>,
    /// The command's name, and the arguments.
    words: &'a [*mut raw::RedisModuleString],
    arguments: &'a [*mut raw::RedisModuleString],
}

impl<'a> Call<'a> {
    /// # Safety
    /// The three are what the server handed to a command, valid for `'a`.
    pub(super) unsafe fn new(
        ctx: *mut raw::RedisModuleCtx,
        argv: *mut *mut raw::RedisModuleString,
        argc: c_int,
    ) -> Self {
        let argc = usize::try_from(argc).unwrap_or(0);
        // SAFETY: the server hands `argc` pointers, the command's name first.
        let (context, words) =
            unsafe { (Context::new(ctx), std::slice::from_raw_parts(argv, argc)) };
        Self { context, words, arguments: words.get(1..).unwrap_or_default() }
    }

    /// The context of the call.
    pub(crate) fn context(self) -> Context<'a> {
        self.context
    }

    /// The command's name, and the arguments; valid for `'a`.
    pub(super) fn words(self) -> &'a [*mut raw::RedisModuleString] {
        self.words
    }

    /// Where the answer goes.
    pub(crate) fn reply(self) -> Reply<'a> {
        Reply::new(self.context)
    }

    /// An argument.
    ///
    /// # Errors
    /// When there are not so many.
    pub(crate) fn argument(self, index: usize) -> Result<Lent<'a>, Fault> {
        let text = self.arguments.get(index).ok_or(Fault::Syntax)?;
        // SAFETY: the server's strings are valid for 'a (`new`).
        Ok(unsafe { Lent::new(*text) })
    }

    /// The bytes of the arguments from this one on.
    pub(crate) fn arguments_from(self, index: usize) -> impl Iterator<Item = &'a [u8]> {
        // SAFETY: the server's strings are valid for 'a (`new`).
        let bytes = |text: &*mut _| unsafe { Lent::new(*text).bytes() };
        self.arguments.get(index..).unwrap_or_default().iter().map(bytes)
    }

    /// The lock whose key is the first argument.
    ///
    /// # Errors
    /// When there is no argument.
    pub(crate) fn lock(self) -> Result<Name<'a>, Fault> {
        Ok(Name { db: self.context.db(), key: self.argument(0)?.bytes() })
    }

    /// Opens the key that is the first argument.
    ///
    /// # Errors
    /// When there is no argument.
    pub(crate) fn open(self) -> Result<Key<'a>, Fault> {
        Ok(self.context.open(self.argument(0)?))
    }

    /// Opens the key that is the first argument only to look at it.
    ///
    /// # Errors
    /// When there is no argument.
    pub(crate) fn open_to_look(self) -> Result<Key<'a>, Fault> {
        Ok(Key::open_to_look(self.context, self.argument(0)?))
    }

    /// Whether the server only asks where the keys of the call stand.
    pub(super) fn asks_for_keys(self) -> bool {
        // SAFETY: the context is valid.
        unsafe { api!(RedisModule_IsKeysPositionRequest(self.context.as_ptr())) != 0 }
    }

    /// Tells the server where the keys stand, as many as the first argument says. A number
    /// that is none, or of more arguments than there are, is of no keys: the call is refused.
    pub(super) fn tell_keys(self) {
        let number = self.arguments_from(0).next().unwrap_or_default();
        let keys = request::number_of_keys(number).unwrap_or(0);
        if keys >= self.arguments.len() {
            return;
        }
        for place in (2..).take(keys) {
            // SAFETY: the context is valid, and the server asks for this.
            unsafe { api!(RedisModule_KeyAtPos(self.context.as_ptr(), place)) };
        }
    }

    /// The id of the client that calls. In a script it is the script's own, which may be
    /// somebody else's as well.
    pub(crate) fn client(self) -> Option<u64> {
        Some(self.context.client_id()).filter(|id| *id != 0)
    }
}
