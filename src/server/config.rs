//! The module's settings in the server's configuration: `redis.conf`, `CONFIG GET`,
//! `CONFIG SET`, and pairs of words behind the module's path. What they mean and in which
//! range they are is `gpulock_core::settings`.

use std::ffi::{CString, c_char, c_int, c_longlong, c_uint, c_void};
use std::ptr::null_mut;

use gpulock_core::settings::{CHANNEL_PREFIX_MAX, Events, NUMBERS, Number, Settings};

use super::api::{ERR, OK, api, raw};
use super::context::Context;
use super::guard::contained;
use super::kept;
use super::state::with_keeper;
use super::text::{Made, bytes};

const EVENTS: &str = "events";
const CHANNEL_PREFIX: &str = "channel-prefix";

/// Changes one setting by its name, as module arguments and `redis.conf` write it.
///
/// # Errors
/// When there is no such setting, or the value is not one of its.
pub(crate) fn set(
    settings: &mut Settings,
    name: &[u8],
    value: &[u8],
) -> Result<(), String> {
    let shown = || String::from_utf8_lossy(name).into_owned();
    let name = name.to_ascii_lowercase();
    let name = name.strip_prefix(b"gpulock.").unwrap_or(&name);
    if let Some(number) = NUMBERS.iter().find(|number| number.name.as_bytes() == name) {
        let value = number.read(value);
        *(number.slot)(settings) = value.map_err(|_| {
            format!(
                "{} must be an integer from {} to {}",
                shown(),
                number.min,
                number.max
            )
        })?;
    } else if name == EVENTS.as_bytes() {
        let named =
            |(name, _): &&(&str, Events)| value.eq_ignore_ascii_case(name.as_bytes());
        let found = Events::NAMES.iter().find(named);
        settings.events =
            found.ok_or_else(|| format!("{} must be off, release or all", shown()))?.1;
    } else if name == CHANNEL_PREFIX.as_bytes() {
        if value.contains(&0) {
            return Err(format!("{} must not hold a NUL here", shown()));
        }
        settings.channel_prefix = prefix(value)?.to_vec();
    } else {
        return Err(format!("gpulock has no setting {}", shown()));
    }
    Ok(())
}

fn prefix(value: &[u8]) -> Result<&[u8], String> {
    if value.len() > CHANNEL_PREFIX_MAX {
        return Err(format!(
            "{CHANNEL_PREFIX} must be at most {CHANNEL_PREFIX_MAX} bytes long"
        ));
    }
    Ok(value)
}

/// Tells the server of all settings, with those of `settings` as defaults, and lets it
/// apply what `redis.conf` says.
///
/// # Errors
/// When the server refuses one, or a value that it was given.
pub(crate) fn register(context: Context<'_>, settings: &Settings) -> Result<(), String> {
    for number in NUMBERS {
        registered(number.name, register_number(context, number, settings))?;
    }
    registered(EVENTS, register_events(context, settings))?;
    registered(CHANNEL_PREFIX, register_prefix(context, settings))?;
    // SAFETY: the context is valid.
    match unsafe { api!(RedisModule_LoadConfigs(context.as_ptr())) } {
        OK => Ok(()),
        _ => Err("a gpulock setting is wrong, see above".to_owned()),
    }
}

fn registered(name: &str, status: c_int) -> Result<(), String> {
    if status == OK {
        Ok(())
    } else {
        Err(format!("the server refuses the setting {name}"))
    }
}

const FLAGS: c_uint = raw::REDISMODULE_CONFIG_DEFAULT;

fn register_number(
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
            (number.get)(settings).cast_signed(),
            FLAGS,
            number.min.cast_signed(),
            number.max.cast_signed(),
            Some(get_number),
            Some(set_number),
            None,
            which
        ))
    }
}

/// # Safety
/// `which` is what [`register_number`] gave.
unsafe fn number(which: *mut c_void) -> &'static Number {
    // SAFETY: by this function's own condition.
    unsafe { &*which.cast::<Number>() }
}

unsafe extern "C" fn get_number(_: *const c_char, which: *mut c_void) -> c_longlong {
    // SAFETY: the server gives back what it was given.
    let number = unsafe { number(which) };
    contained(|| with_keeper(|keeper| (number.get)(keeper.settings())))
        .map_or(0, u64::cast_signed)
}

unsafe extern "C" fn set_number(
    _: *const c_char,
    value: c_longlong,
    which: *mut c_void,
    _: *mut *mut raw::RedisModuleString,
) -> c_int {
    // SAFETY: the server gives back what it was given.
    let number = unsafe { number(which) };
    // The server has checked the range.
    let value = u64::try_from(value).unwrap_or(0);
    configure(|settings| *(number.slot)(settings) = value)
}

fn configure(change: impl FnOnce(&mut Settings)) -> c_int {
    match contained(|| with_keeper(|keeper| keeper.configure(change))) {
        Some(()) => OK,
        None => ERR,
    }
}

fn register_events(context: Context<'_>, settings: &Settings) -> c_int {
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
            Some(get_events),
            Some(set_events),
            None,
            null_mut()
        ))
    }
}

fn events_number(settings: &Settings) -> c_int {
    let place = Events::NAMES.iter().position(|(_, events)| *events == settings.events);
    place.and_then(|place| c_int::try_from(place).ok()).unwrap_or(0)
}

unsafe extern "C" fn get_events(_: *const c_char, _: *mut c_void) -> c_int {
    contained(|| with_keeper(|keeper| events_number(keeper.settings()))).unwrap_or(0)
}

unsafe extern "C" fn set_events(
    _: *const c_char,
    value: c_int,
    _: *mut c_void,
    _: *mut *mut raw::RedisModuleString,
) -> c_int {
    let chosen = usize::try_from(value).ok().and_then(|place| Events::NAMES.get(place));
    match chosen {
        Some((_, events)) => configure(|settings| settings.events = *events),
        None => ERR,
    }
}

fn register_prefix(context: Context<'_>, settings: &Settings) -> c_int {
    let name = CString::new(CHANNEL_PREFIX).unwrap_or_default();
    let default = super::text::c_string(settings.channel_prefix.as_slice());
    // SAFETY: the context is valid, name and default are copied.
    unsafe {
        api!(RedisModule_RegisterStringConfig(
            context.as_ptr(),
            name.as_ptr(),
            default.as_ptr(),
            FLAGS,
            Some(get_prefix),
            Some(set_prefix),
            None,
            null_mut()
        ))
    }
}

unsafe extern "C" fn get_prefix(
    _: *const c_char,
    _: *mut c_void,
) -> *mut raw::RedisModuleString {
    let lent = contained(|| {
        let prefix = with_keeper(|keeper| keeper.settings().channel_prefix.clone());
        kept::lend_prefix(&prefix)
    });
    lent.unwrap_or(null_mut())
}

unsafe extern "C" fn set_prefix(
    _: *const c_char,
    value: *mut raw::RedisModuleString,
    _: *mut c_void,
    error: *mut *mut raw::RedisModuleString,
) -> c_int {
    // SAFETY: the server lends the value for the time of the call.
    let value = unsafe { bytes(value) };
    match prefix(value) {
        Ok(value) => configure(|settings| settings.channel_prefix = value.to_vec()),
        Err(message) => {
            let message = Made::new(message.as_bytes());
            // SAFETY: the server wants a string that it frees itself, so ours is not.
            unsafe { *error = message.as_ptr() };
            std::mem::forget(message);
            ERR
        }
    }
}
