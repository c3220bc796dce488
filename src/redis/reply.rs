//! Replies to clients, in the protocol version of each client.

use std::ffi::{c_char, c_long};

use gpulock_core::CommandError;

use super::api::{api, raw};
use super::context::Context;
use super::string::c_string;

/// The reply to a command. Each method adds one value. An array or a map starts with the number of
/// values or pairs that follow.
#[derive(Clone, Copy)]
pub(crate) struct Reply<'a>(Context<'a>);

impl<'a> Reply<'a> {
    pub(super) fn new(context: Context<'a>) -> Self {
        Self(context)
    }

    fn ctx(self) -> *mut raw::RedisModuleCtx {
        self.0.as_ptr()
    }

    /// Null.
    pub(crate) fn null(self) {
        // SAFETY: the context is valid.
        unsafe { api!(RedisModule_ReplyWithNull(self.ctx())) };
    }

    /// A number.
    pub(crate) fn number(self, number: u64) {
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        self.integer(number);
    }

    /// A number of things.
    pub(crate) fn count(self, count: usize) {
        self.number(u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// A number that may be negative.
    pub(crate) fn integer(self, number: i64) {
        // SAFETY: see `null`.
        unsafe { api!(RedisModule_ReplyWithLongLong(self.ctx(), number)) };
    }

    /// A number, or null.
    pub(crate) fn number_or_null(self, number: Option<u64>) {
        match number {
            Some(number) => self.number(number),
            None => self.null(),
        }
    }

    /// A bulk string.
    pub(crate) fn bytes(self, bytes: &[u8]) {
        let (start, len) = (bytes.as_ptr().cast::<c_char>(), bytes.len());
        // SAFETY: see `null`; the server copies the bytes.
        unsafe { api!(RedisModule_ReplyWithStringBuffer(self.ctx(), start, len)) };
    }

    /// A bulk string, or null.
    pub(crate) fn bytes_or_null(self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bytes(bytes),
            None => self.null(),
        }
    }

    /// The granted locks: pairs of key and token.
    pub(crate) fn grants<'g>(
        self,
        grants: impl ExactSizeIterator<Item = (&'g [u8], u64)>,
    ) {
        self.array(grants.len());
        for (key, token) in grants {
            self.array(2);
            self.bytes(key);
            self.number(token);
        }
    }

    /// `+OK`
    pub(crate) fn ok(self) {
        // SAFETY: see `null`; the server copies the text.
        unsafe { api!(RedisModule_ReplyWithSimpleString(self.ctx(), c"OK".as_ptr())) };
    }

    /// An array of `len` values, which follow.
    pub(crate) fn array(self, len: usize) {
        // SAFETY: see `null`.
        unsafe { api!(RedisModule_ReplyWithArray(self.ctx(), long(len))) };
    }

    /// A map of `len` pairs, which follow; in RESP2 a flat array.
    pub(crate) fn map(self, len: usize) {
        // SAFETY: see `null`.
        unsafe { api!(RedisModule_ReplyWithMap(self.ctx(), long(len))) };
    }

    /// The key of a pair.
    pub(crate) fn field(self, name: &str) -> Self {
        self.bytes(name.as_bytes());
        self
    }

    /// An error.
    pub(crate) fn error(self, error: CommandError) {
        let message = c_string(error.to_string());
        // SAFETY: see `null`; the server copies the text.
        unsafe { api!(RedisModule_ReplyWithError(self.ctx(), message.as_ptr())) };
    }
}

fn long(len: usize) -> c_long {
    c_long::try_from(len).unwrap_or(c_long::MAX)
}
