//! Whether the module may write a key that no client's command names.
//!
//! The rule: **of its own initiative the module writes only when the server would accept a
//! client's write command for that key now.** The server itself is asked, so the answer covers
//! whatever makes it refuse a write: `NOREPLICAS`, `MISCONF`, `READONLY`, a cluster that is
//! down, a slot that another node serves, and reasons that later servers add.
//!
//! The question is a call of `GPULOCK.EXTEND` in script mode, in which a module's call is
//! refused like a client's. It is a command of our own because `rename-command` can take every
//! other one away. Servers that know dry runs (Redis 7.2 and later, every Valkey) do not
//! execute it; Redis 7.0 does, and [`is_question`] makes the command return at once.
//!
//! Two states have to be checked beside that: while replicas must not get any traffic
//! (`CLIENT PAUSE`, `FAILOVER`) a write would abort the server; and a script, a function or a
//! transaction must not see keys change between two of its own commands. The server calls
//! modules in the middle of a command whenever it processes events meanwhile: a script or
//! function past `busy-reply-threshold`, another module's yield, loading. Only the first shows
//! in a context's flags, so events never write: they arm the timer, which the server fires
//! between commands only.

use std::cell::Cell;
use std::ffi::{CStr, c_int};

use super::api::api;
use super::context::{Context, must_not_write};
use super::errno;
use super::text::Made;

/// What the server says of a write to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Permission {
    /// It accepts the write.
    Granted,
    /// It refuses every write, or this one, for now.
    Refused,
    /// Another node of the cluster serves the key.
    Elsewhere,
}

/// Work on keys that no client's command names, done in one go. The server is asked when the
/// first key needs it. Nothing else runs before the work is done, so a refusal holds for all of
/// it, and outside a cluster permission does as well; in a cluster each key may have moved.
pub(crate) struct Turn<'a> {
    context: Context<'a>,
    in_cluster: bool,
    answer: Cell<Option<Permission>>,
}

impl<'a> Turn<'a> {
    /// Begins such work; none while nothing may be written anyway.
    pub(crate) fn begin(context: Context<'a>) -> Option<Self> {
        let flags = context.flags();
        let may_begin = flags.is_primary()
            && !flags.is_loading()
            && !flags.in_script_or_transaction()
            && !must_not_write();
        STATE.was_refused.set(!may_begin);
        may_begin.then(|| Self {
            context,
            in_cluster: flags.in_cluster(),
            answer: Cell::new(None),
        })
    }

    /// Work that belongs to a client's write command, which the server has accepted, on other
    /// keys in the slot of that command.
    pub(crate) fn of_command(context: Context<'a>) -> Self {
        let in_cluster = context.flags().in_cluster();
        let answer = Cell::new((!in_cluster).then_some(Permission::Granted));
        Self { context, in_cluster, answer }
    }

    /// The context to work with.
    pub(crate) fn context(&self) -> Context<'a> {
        self.context
    }

    /// Whether a key may be written now.
    pub(crate) fn permission(&self, key: &[u8]) -> Permission {
        if let Some(answer) = self.answer.get() {
            return answer;
        }
        let answer = ask(self.context, key);
        let is_refused = answer == Permission::Refused;
        if is_refused || !self.in_cluster {
            self.answer.set(Some(answer));
        }
        STATE.was_refused.set(is_refused);
        answer
    }

    /// True on a node of a cluster.
    pub(crate) fn in_cluster(&self) -> bool {
        self.in_cluster
    }

    /// True when another node of the cluster serves the key.
    pub(crate) fn is_elsewhere(&self, key: &[u8]) -> bool {
        self.in_cluster && self.permission(key) == Permission::Elsewhere
    }

    /// The answer that holds for every key of this work, as far as it is known.
    pub(crate) fn known_permission(&self) -> Option<Permission> {
        self.answer.get()
    }
}

/// True when the last work was refused, so that it is of no use to try again at once.
pub(crate) fn was_refused() -> bool {
    STATE.was_refused.get()
}

/// True while a command runs that only asks whether it would be accepted.
pub(super) fn is_question() -> bool {
    STATE.is_question.get()
}

/// While it lives, a command of ours is only a question.
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

struct State {
    is_question: Cell<bool>,
    was_refused: Cell<bool>,
    /// Whether the server knows dry runs; none until it was asked.
    knows_dry_runs: Cell<Option<bool>>,
}

// SAFETY: the module runs on the server's main thread alone (`super`, 1).
unsafe impl Sync for State {}

static STATE: State = State {
    is_question: Cell::new(false),
    was_refused: Cell::new(false),
    knows_dry_runs: Cell::new(None),
};

/// Script mode, errors as replies, and an array of strings as the arguments.
const FOR_REAL: &CStr = c"SEv";

/// The same as a dry run.
const DRY_RUN: &CStr = c"SEDv";

/// The server's number for a reply that is an error, which its header binds in another type.
const ERROR: c_int = 1;

fn ask(context: Context<'_>, key: &[u8]) -> Permission {
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
    let words: Vec<Made> = words.iter().map(|word| Made::new(word)).collect();
    let mut starts: Vec<_> = words.iter().map(Made::as_ptr).collect();
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
