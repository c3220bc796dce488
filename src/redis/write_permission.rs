//! Whether the module may write a key that no client's command names.
//!
//! The rule: **on its own initiative the module writes only when the server would accept a client's
//! write command for that key now.** The server itself is asked, so the answer covers every reason to
//! refuse a write: `NOREPLICAS`, `MISCONF`, `READONLY`, a cluster that is down, a slot that another
//! node serves, and reasons that later servers add.
//!
//! The question is a call of `GPULOCK.EXTEND` in script mode, in which a module's call is refused
//! like a client's. It is a command of the module because `rename-command` can take every other one
//! away. Servers that know dry runs (Redis 7.2 and later, every Valkey) do not execute it; Redis 7.0
//! does, and [`is_question`] makes the command return at once.
//!
//! Two states have to be checked besides: while replicas must not get any traffic (`CLIENT PAUSE`,
//! `FAILOVER`) a write would crash the server; and a script, a function or a transaction must not see
//! keys change between two of its own commands. The server calls modules in the middle of a command
//! whenever it processes events meanwhile: a script or function past `busy-reply-threshold`, another
//! module's yield, loading. Only the first shows in the flags of a context, so events never write:
//! they arm the timer, which the server fires only between commands.

use std::cell::Cell;
use std::ffi::{CStr, c_int};

use gpulock_core::engine::Permission;

use super::api::api;
use super::context::{Context, must_not_write};
use super::errno;
use super::main_thread::MainThread;
use super::string::OwnedString;

struct State {
    is_question: Cell<bool>,
    /// Whether the server knows dry runs; none until it was asked.
    knows_dry_runs: Cell<Option<bool>>,
}

static STATE: MainThread<State> = MainThread::new(State {
    is_question: Cell::new(false),
    knows_dry_runs: Cell::new(None),
});

/// Whether work that belongs to no client's command may start in this context.
pub(crate) fn may_start(context: Context<'_>) -> bool {
    let flags = context.flags();
    flags.is_primary()
        && !flags.is_loading()
        && !flags.in_script_or_transaction()
        && !must_not_write()
}

/// Whether the current command is only the question whether it would be accepted.
pub(crate) fn is_question() -> bool {
    STATE.is_question.get()
}

/// While it exists, a command of the module is only a question.
struct Question;

impl Question {
    fn begin() -> Self {
        STATE.is_question.set(true);
        Self
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        STATE.is_question.set(false);
    }
}

/// Script mode, errors as replies, and an array of strings as the arguments.
const FOR_REAL: &CStr = c"SEv";

/// The same as a dry run.
const DRY_RUN: &CStr = c"SEDv";

/// The server's number for a reply that is an error, which its header binds in another type.
const ERROR: c_int = 1;

/// Asks the server whether it accepts a write to this key now.
pub(crate) fn ask(context: Context<'_>, key: &[u8]) -> Permission {
    let format = if knows_dry_runs(context) { DRY_RUN } else { FOR_REAL };
    let question = Question::begin();
    let refusal = call(context, c"GPULOCK.EXTEND", format, &[key, b"-"]);
    drop(question);
    match refusal {
        None => Permission::Granted,
        Some(libc::EPERM) => Permission::Elsewhere,
        Some(_) => Permission::Refused,
    }
}

/// Redis 7.0 refuses the flag, so that there is no reply; any other server replies that there
/// is no such command.
fn knows_dry_runs(context: Context<'_>) -> bool {
    STATE.knows_dry_runs.get().unwrap_or_else(|| {
        let known = call(context, c"GPULOCK", c"EDv", &[]).is_some();
        STATE.knows_dry_runs.set(Some(known));
        known
    })
}

/// Calls a command, and returns the number of the error that the server refuses it with; none
/// when it does not.
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
    // SAFETY: the context is valid, and the format is of an array of strings and its length,
    // as given; all of it outlives the call, and the reply is freed and not used after that.
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
