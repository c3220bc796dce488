//! The registration of the settings for `redis.conf`, `CONFIG GET` and `CONFIG SET`. Their names,
//! ranges and meaning are in `gpulock_core::state::settings`.

use std::ffi::{CString, c_char, c_int, c_longlong, c_uint, c_void};
use std::ptr::null_mut;

use gpulock_core::state::settings::{
    CHANNEL_PREFIX, EVENTS, Events, NUMBERS, Number, Settings, check_channel_prefix,
};

use super::api::{ERR, OK, api, raw};
use super::context::Context;
use super::panic_boundary::catch_panics;
use super::static_strings;
use super::string::{OwnedString, bytes, c_string};

/// Where the settings are stored.
pub(crate) trait SettingsStore {
    /// Reads the settings.
    fn read<T>(read: impl FnOnce(&Settings) -> T) -> T;

    /// Changes the settings.
    fn change(change: impl FnOnce(&mut Settings));
}

/// Registers all settings with `settings` as their defaults, and lets the server apply
/// `redis.conf`.
///
/// # Errors
/// When the server rejects a setting, or its value in `redis.conf`.
pub(crate) fn register<S: SettingsStore>(
    context: Context<'_>,
    settings: &Settings,
) -> Result<(), String> {
    for number in NUMBERS {
        check_registered(number.name, register_number::<S>(context, number, settings))?;
    }
    check_registered(EVENTS, register_events::<S>(context, settings))?;
    check_registered(CHANNEL_PREFIX, register_prefix::<S>(context, settings))?;
    // SAFETY: the context is valid.
    match unsafe { api!(RedisModule_LoadConfigs(context.as_ptr())) } {
        OK => Ok(()),
        _ => Err("invalid gpulock setting, see the previous log line".to_owned()),
    }
}

fn check_registered(name: &str, status: c_int) -> Result<(), String> {
    if status == OK {
        Ok(())
    } else {
        Err(format!("the server rejected the setting {name}"))
    }
}

const FLAGS: c_uint = raw::REDISMODULE_CONFIG_DEFAULT;

fn register_number<S: SettingsStore>(
    context: Context<'_>,
    number: &'static Number,
    settings: &Settings,
) -> c_int {
    let name = CString::new(number.name).unwrap_or_default();
    let which = std::ptr::from_ref(number).cast_mut().cast::<c_void>();
    // SAFETY: the context is valid, the name is copied, `which` is static.
    unsafe {
        api!(RedisModule_RegisterNumericConfig(
            context.as_ptr(),
            name.as_ptr(),
            (number.get)(settings),
            FLAGS,
            number.min,
            number.max,
            Some(get_number::<S>),
            Some(set_number::<S>),
            None,
            which
        ))
    }
}

/// # Safety
/// `which` is the pointer that [`register_number`] registered.
unsafe fn number(which: *mut c_void) -> &'static Number {
    // SAFETY: by this function's own condition.
    unsafe { &*which.cast::<Number>() }
}

unsafe extern "C" fn get_number<S: SettingsStore>(
    _: *const c_char,
    which: *mut c_void,
) -> c_longlong {
    // SAFETY: the server passes the pointer that was registered.
    let number = unsafe { number(which) };
    catch_panics(|| S::read(number.get)).unwrap_or(0)
}

unsafe extern "C" fn set_number<S: SettingsStore>(
    _: *const c_char,
    value: c_longlong,
    which: *mut c_void,
    _: *mut *mut raw::RedisModuleString,
) -> c_int {
    // SAFETY: the server passes the pointer that was registered.
    let number = unsafe { number(which) };
    // The server has checked the range.
    configure::<S>(|settings| (number.set)(settings, value))
}

fn configure<S: SettingsStore>(change: impl FnOnce(&mut Settings)) -> c_int {
    match catch_panics(|| S::change(change)) {
        Some(()) => OK,
        None => ERR,
    }
}

fn register_events<S: SettingsStore>(context: Context<'_>, settings: &Settings) -> c_int {
    let names = Events::NAMES.map(|(name, _)| CString::new(name).unwrap_or_default());
    let mut names = names.each_ref().map(|name| name.as_ptr());
    let values = [0, 1, 2];
    let name = CString::new(EVENTS).unwrap_or_default();
    // SAFETY: the context is valid, names and values are copied.
    unsafe {
        api!(RedisModule_RegisterEnumConfig(
            context.as_ptr(),
            name.as_ptr(),
            events_number(settings),
            FLAGS,
            names.as_mut_ptr(),
            values.as_ptr(),
            3,
            Some(get_events::<S>),
            Some(set_events::<S>),
            None,
            null_mut()
        ))
    }
}

fn events_number(settings: &Settings) -> c_int {
    let index = Events::NAMES.iter().position(|(_, events)| *events == settings.events);
    index.and_then(|index| c_int::try_from(index).ok()).unwrap_or(0)
}

unsafe extern "C" fn get_events<S: SettingsStore>(
    _: *const c_char,
    _: *mut c_void,
) -> c_int {
    catch_panics(|| S::read(events_number)).unwrap_or(0)
}

unsafe extern "C" fn set_events<S: SettingsStore>(
    _: *const c_char,
    value: c_int,
    _: *mut c_void,
    _: *mut *mut raw::RedisModuleString,
) -> c_int {
    let chosen = usize::try_from(value).ok().and_then(|index| Events::NAMES.get(index));
    match chosen {
        Some((_, events)) => configure::<S>(|settings| settings.events = *events),
        None => ERR,
    }
}

fn register_prefix<S: SettingsStore>(context: Context<'_>, settings: &Settings) -> c_int {
    let name = CString::new(CHANNEL_PREFIX).unwrap_or_default();
    let default = c_string(settings.channel_prefix.as_slice());
    // SAFETY: the context is valid, name and default are copied.
    unsafe {
        api!(RedisModule_RegisterStringConfig(
            context.as_ptr(),
            name.as_ptr(),
            default.as_ptr(),
            FLAGS,
            Some(get_prefix::<S>),
            Some(set_prefix::<S>),
            None,
            null_mut()
        ))
    }
}

unsafe extern "C" fn get_prefix<S: SettingsStore>(
    _: *const c_char,
    _: *mut c_void,
) -> *mut raw::RedisModuleString {
    let lent = catch_panics(|| {
        let prefix = S::read(|settings| settings.channel_prefix.clone());
        static_strings::lend_channel_prefix(&prefix)
    });
    lent.unwrap_or(null_mut())
}

unsafe extern "C" fn set_prefix<S: SettingsStore>(
    _: *const c_char,
    value: *mut raw::RedisModuleString,
    _: *mut c_void,
    error: *mut *mut raw::RedisModuleString,
) -> c_int {
    // SAFETY: the value is valid for the duration of the call.
    let value = unsafe { bytes(value) };
    match check_channel_prefix(value) {
        Ok(value) => configure::<S>(|settings| settings.channel_prefix = value.to_vec()),
        Err(message) => {
            let message = OwnedString::new(message.as_bytes());
            // SAFETY: the server takes ownership of the string, which is forgotten below.
            unsafe { *error = message.as_ptr() };
            std::mem::forget(message);
            ERR
        }
    }
}
