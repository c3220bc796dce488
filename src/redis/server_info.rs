//! What the server says of itself in `INFO`, asked without calling a command.

use std::ffi::CStr;
use std::ptr::null_mut;

use super::api::{api, raw};

/// A section of `INFO`.
pub(crate) struct Info(*mut raw::RedisModuleServerInfoData);

impl Info {
    /// Asks for a section.
    pub(crate) fn of(section: &CStr) -> Self {
        // SAFETY: a question about a section; without a context the answer is ours.
        Self(unsafe { api!(RedisModule_GetServerInfo(null_mut(), section.as_ptr())) })
    }

    /// A field that is a number.
    pub(crate) fn number(&self, field: &CStr) -> Option<u64> {
        let mut missing = 0;
        // SAFETY: the answer is valid until it is dropped.
        let number = unsafe {
            let (info, field) = (self.0, field.as_ptr());
            api!(RedisModule_ServerInfoGetFieldUnsigned(info, field, &raw mut missing))
        };
        (missing == 0).then_some(number)
    }

    /// A field as it stands.
    pub(crate) fn text(&self, field: &CStr) -> Option<&str> {
        // SAFETY: the answer is valid until it is dropped, and its text with it; null is
        // what the server answers for a field that it does not have.
        let text = unsafe {
            let start = api!(RedisModule_ServerInfoGetFieldC(self.0, field.as_ptr()));
            (!start.is_null()).then(|| CStr::from_ptr(start))?
        };
        text.to_str().ok()
    }
}

impl Drop for Info {
    fn drop(&mut self) {
        // SAFETY: the answer is ours and not used after this.
        unsafe { api!(RedisModule_FreeServerInfo(null_mut(), self.0)) }
    }
}
