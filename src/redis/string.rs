//! The server's strings: borrowed ones (arguments) and ones that the module creates.

use std::ffi::{CString, c_char};
use std::marker::PhantomData;

use super::api::{api, raw};

/// A string borrowed from the server: an argument of a command, or a key in a callback.
#[derive(Clone, Copy)]
pub(crate) struct StringRef<'a> {
    text: *mut raw::RedisModuleString,
    owner: PhantomData<&'a ()>,
}

impl<'a> StringRef<'a> {
    /// # Safety
    /// `text` is a string of the server, valid for `'a`.
    pub(super) unsafe fn new(text: *mut raw::RedisModuleString) -> Self {
        Self { text, owner: PhantomData }
    }

    pub(super) fn as_ptr(self) -> *mut raw::RedisModuleString {
        self.text
    }

    /// Its bytes.
    pub(crate) fn bytes(self) -> &'a [u8] {
        // SAFETY: the string is valid for 'a (`new`), and arguments do not change.
        unsafe { bytes(self.text) }
    }
}

/// A string that the module owns.
pub(super) struct OwnedString(*mut raw::RedisModuleString);

impl OwnedString {
    pub(super) fn new(bytes: &[u8]) -> Self {
        let start = bytes.as_ptr().cast::<c_char>();
        // SAFETY: the server copies the bytes. Without a context the module owns the string.
        Self(unsafe {
            api!(RedisModule_CreateString(std::ptr::null_mut(), start, bytes.len()))
        })
    }

    /// A number in decimal. The server's own conversion takes twice as long.
    pub(super) fn decimal(number: u64) -> Self {
        Self::new(itoa::Buffer::new().format(number).as_bytes())
    }

    /// Takes ownership of a string.
    ///
    /// # Safety
    /// `text` is null, or a string that is not freed elsewhere. For null the result is none.
    pub(super) unsafe fn take(text: *mut raw::RedisModuleString) -> Option<Self> {
        (!text.is_null()).then(|| Self(text))
    }

    pub(super) fn as_ptr(&self) -> *mut raw::RedisModuleString {
        self.0
    }

    pub(super) fn lend(&self) -> StringRef<'_> {
        // SAFETY: the string lives as long as `self`.
        unsafe { StringRef::new(self.0) }
    }
}

impl Drop for OwnedString {
    fn drop(&mut self) {
        // SAFETY: the module owns the string, which is not used after this.
        unsafe { api!(RedisModule_FreeString(std::ptr::null_mut(), self.0)) }
    }
}

/// # Safety
/// `text` is a string of the server, valid and unchanged for `'a`.
pub(super) unsafe fn bytes<'a>(text: *const raw::RedisModuleString) -> &'a [u8] {
    let mut len = 0;
    // SAFETY: by the condition of this function; the server returns a pointer to the bytes.
    unsafe {
        let start = api!(RedisModule_StringPtrLen(text, &raw mut len));
        slice(start, len)
    }
}

/// # Safety
/// `start` is null, or `len` bytes are valid and unchanged there for `'a`.
pub(super) unsafe fn slice<'a>(start: *const c_char, len: usize) -> &'a [u8] {
    if start.is_null() {
        return &[];
    }
    // SAFETY: by the condition of this function.
    unsafe { std::slice::from_raw_parts(start.cast::<u8>(), len) }
}

/// Converts text to a C string, which ends at the first NUL.
pub(super) fn c_string(text: impl Into<Vec<u8>>) -> CString {
    let mut bytes = text.into();
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    CString::new(bytes).unwrap_or_default()
}
