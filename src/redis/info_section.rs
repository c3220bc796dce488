//! The module's section of `INFO`.

use std::ffi::{CString, c_int};

use super::api::{api, raw};
use super::context::Context;
use super::panic_boundary::catch_panics;

/// The section while it is being written.
pub(crate) struct Section(*mut raw::RedisModuleInfoCtx);

impl Section {
    /// Adds a number.
    pub(crate) fn number(&mut self, name: &str, value: u64) {
        let name = CString::new(name).unwrap_or_default();
        // SAFETY: the section is being written, the name is copied.
        unsafe { api!(RedisModule_InfoAddFieldULongLong(self.0, name.as_ptr(), value)) };
    }

    /// Adds a field with several named numbers.
    pub(crate) fn numbers<'n>(
        &mut self,
        name: &str,
        values: impl Iterator<Item = (&'n str, u64)>,
    ) {
        let name = CString::new(name).unwrap_or_default();
        // SAFETY: the section is being written, and the name is copied. The field is closed below.
        unsafe { api!(RedisModule_InfoBeginDictField(self.0, name.as_ptr())) };
        for (name, value) in values {
            self.number(name, value);
        }
        // SAFETY: as above.
        unsafe { api!(RedisModule_InfoEndDictField(self.0)) };
    }
}

/// Writes the content of the section.
pub(crate) trait InfoWriter {
    /// Writes the fields.
    fn write(section: &mut Section);
}

/// Registers the section.
pub(crate) fn register<W: InfoWriter>(context: Context<'_>) {
    // SAFETY: the context is valid.
    unsafe { api!(RedisModule_RegisterInfoFunc(context.as_ptr(), Some(write::<W>))) };
}

unsafe extern "C" fn write<W: InfoWriter>(
    info: *mut raw::RedisModuleInfoCtx,
    for_crash_report: c_int,
) {
    // After a crash the module and the allocator are not safe to use.
    if for_crash_report != 0 {
        return;
    }
    catch_panics(|| {
        // SAFETY: the server requests the section. Without a name it gets the name of the module.
        unsafe { api!(RedisModule_InfoAddSection(info, std::ptr::null())) };
        W::write(&mut Section(info));
    });
}
