//! The server's `INFO`, read without calling a command.

use std::ffi::CStr;
use std::ptr::null_mut;

use super::api::{api, raw};

/// A section of `INFO`.
pub(crate) struct Info(*mut raw::RedisModuleServerInfoData);

impl Info {
    /// Reads a section.
    pub(crate) fn of(section: &CStr) -> Self {
        // SAFETY: the name is valid. Without a context the module owns the result.
        Self(unsafe { api!(RedisModule_GetServerInfo(null_mut(), section.as_ptr())) })
    }

    /// A field that is a number.
    pub(crate) fn number(&self, field: &CStr) -> Option<u64> {
        let mut error = 0;
        // SAFETY: the result is valid until it is dropped.
        let number = unsafe {
            let (info, field) = (self.0, field.as_ptr());
            api!(RedisModule_ServerInfoGetFieldUnsigned(info, field, &raw mut error))
        };
        (error == 0).then_some(number)
    }

    /// A field as text.
    pub(crate) fn text(&self, field: &CStr) -> Option<&str> {
        // SAFETY: the result and its text are valid until it is dropped. The server returns null
        // for a missing field.
        let text = unsafe {
            let start = api!(RedisModule_ServerInfoGetFieldC(self.0, field.as_ptr()));
            (!start.is_null()).then(|| CStr::from_ptr(start))?
        };
        text.to_str().ok()
    }
}

impl Drop for Info {
    fn drop(&mut self) {
        // SAFETY: the module owns the result, which is not used after this.
        unsafe { api!(RedisModule_FreeServerInfo(null_mut(), self.0)) }
    }
}
