//! Whether the module may write a key outside of a command that names it.
//!
//! The rule: **on its own initiative the module writes a key only if the server would now accept a
//! client's write command for that key.** The server itself makes the check, so it covers every
//! reason to refuse a write: `NOREPLICAS`, `MISCONF`, `READONLY`, a cluster that is down, a slot
//! that another node serves, and reasons that later servers add.
//!
//! The check is a call of `GPULOCK.EXTEND` in script mode, in which the server checks a module's
//! call like a client's. It is a command of the module because `rename-command` can remove any
//! other one. Servers that support dry runs (Redis 7.2 and later, every Valkey) do not execute it.
//! Redis 7.0 does, and [`is_check`] makes the command return immediately.
//!
//! Two more states are checked. While replicas must not get any traffic (`CLIENT PAUSE`,
//! `FAILOVER`), a write would crash the server. And a script, a function or a transaction must not
//! see keys change between two of its commands. The server calls modules in the middle of a command
//! whenever it processes events meanwhile: in a script or function past `busy-reply-threshold`,
//! when another module yields, and while loading. Only the first of these is visible in the flags
//! of a context. Events therefore never write: they arm the timer, which the server fires only
//! between commands.

use std::cell::Cell;
use std::ffi::{CStr, c_int};

use gpulock_core::engine::Permission;

use super::api::api;
use super::context::{Context, must_not_write};
use super::errno;
use super::main_thread::MainThread;
use super::server_info::Info;
use super::string::OwnedString;

struct State {
    is_check: Cell<bool>,
    /// Whether the server supports dry runs; none until it was tried.
    has_dry_runs: Cell<Option<bool>>,
}

static STATE: MainThread<State> =
    MainThread::new(State { is_check: Cell::new(false), has_dry_runs: Cell::new(None) });

/// Whether work outside of a client's command may start in this context.
pub(crate) fn may_start(context: Context<'_>) -> bool {
    let flags = context.flags();
    flags.is_primary()
        && !flags.is_loading()
        && !flags.in_script_or_transaction()
        && !must_not_write()
}

/// Whether the current command only checks whether the server accepts a write.
pub(crate) fn is_check() -> bool {
    STATE.is_check.get()
}

/// While this value exists, a command of the module is only a check.
struct Check;

impl Check {
    fn begin() -> Self {
        STATE.is_check.set(true);
        Self
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        STATE.is_check.set(false);
    }
}

/// Script mode, errors as replies, and an array of strings as the arguments.
const EXECUTED: &CStr = c"SEv";

/// The same, as a dry run.
const DRY_RUN: &CStr = c"SEDv";

/// The server's number for a reply that is an error, which the bindings have in another type.
const ERROR: c_int = 1;

/// Checks whether the server accepts a write to this key now.
pub(crate) fn check(context: Context<'_>, key: &[u8]) -> Permission {
    let format = match has_dry_runs(context) {
        true => DRY_RUN,
        false if info_rules_out_refusal(context) => return Permission::Granted,
        false => EXECUTED,
    };
    let check = Check::begin();
    let error = call(context, c"GPULOCK.EXTEND", format, &[key, b"-"]);
    drop(check);
    match error {
        None => Permission::Granted,
        Some(libc::EPERM) => Permission::Elsewhere,
        Some(_) => Permission::Refused,
    }
}

/// Whether the server supports dry runs. Redis 7.0 rejects the flag, so that there is no reply; any
/// other server replies that the command does not exist.
fn has_dry_runs(context: Context<'_>) -> bool {
    STATE.has_dry_runs.get().unwrap_or_else(|| {
        let is_supported = call(context, c"GPULOCK", c"EDv", &[]).is_some();
        STATE.has_dry_runs.set(Some(is_supported));
        is_supported
    })
}

/// Whether `INFO` rules out that Redis 7.0, the only server without dry runs, refuses a write: it
/// refuses them on a replica, in a cluster, after a failed snapshot or write of the append-only
/// file, and with too few replicas.
fn info_rules_out_refusal(context: Context<'_>) -> bool {
    let flags = context.flags();
    if !flags.is_primary() || flags.in_cluster() {
        return false;
    }
    let persistence = Info::of(c"persistence");
    let is_ok = |status| persistence.text(status) == Some("ok");
    // The number of good replicas is only reported if the server requires some.
    is_ok(c"rdb_last_bgsave_status")
        && is_ok(c"aof_last_write_status")
        && Info::of(c"replication").number(c"min_slaves_good_slaves").is_none()
}

/// Calls a command. Returns `errno` if the reply is an error, and none otherwise.
fn call(
    context: Context<'_>,
    command: &CStr,
    format: &CStr,
    words: &[&[u8]],
) -> Option<c_int> {
    let words: Vec<OwnedString> =
        words.iter().map(|word| OwnedString::new(word)).collect();
    let mut starts: Vec<_> = words.iter().map(OwnedString::as_ptr).collect();
    let (start, len) = (starts.as_mut_ptr(), starts.len());
    errno::clear();
    // SAFETY: the context is valid. The format requires an array of strings and its length, which
    // are passed; all of it outlives the call. The reply is freed and not used after that.
    unsafe {
        let (ctx, command, format) =
            (context.as_ptr(), command.as_ptr(), format.as_ptr());
        let reply = api!(RedisModule_Call(ctx, command, format, start, len));
        let number = errno::last();
        if reply.is_null() {
            return None;
        }
        let is_error = api!(RedisModule_CallReplyType(reply)) == ERROR;
        api!(RedisModule_FreeCallReply(reply));
        is_error.then_some(number)
    }
}
