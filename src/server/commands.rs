//! How commands are made known to the server: name, flags, keys, and the documentation
//! behind `COMMAND DOCS` and the hints of `redis-cli`.

use std::ffi::{CStr, c_char, c_int};
use std::ptr::{null, null_mut};

use gpulock_core::Fault;

use super::api::{OK, api, optional, raw};
use super::call::Call;
use super::context::Context;
use super::guard::contained;
use super::reply::Reply;
use super::write_permission;

/// A command: how it is announced, and what it does.
pub(crate) trait Command {
    /// How it is announced.
    const SPEC: Spec;

    /// Answers a call, or says why not.
    fn run(call: Call<'_>) -> Result<(), Fault>;
}

/// How a command is announced.
pub(crate) struct Spec {
    /// `GPULOCK.…`
    pub(crate) name: &'static CStr,
    /// As `RedisModule_CreateCommand` takes them.
    pub(crate) flags: &'static CStr,
    /// Access categories, where the server lets a module say them.
    pub(crate) acl: &'static CStr,
    /// Number of words, the name included; negative: at least so many.
    pub(crate) arity: c_int,
    /// Where its keys stand.
    pub(crate) keys: Keys,
    /// What it does, in a line.
    pub(crate) summary: &'static CStr,
    /// How its work grows.
    pub(crate) complexity: &'static CStr,
    /// Hints for clients and proxies.
    pub(crate) tips: Option<&'static CStr>,
    /// Its arguments.
    pub(crate) arguments: &'static [Argument],
}

/// Where a command's key stands, and what is done to it.
#[derive(Clone, Copy)]
pub(crate) enum Keys {
    /// It has none.
    None,
    /// The first argument, used so.
    First(u32),
    /// As many as the first argument says, behind it, used so. A cluster finds such keys of
    /// a module's command only by asking for them: with the flag `getkeys-api`.
    Counted(u32),
    /// The argument after this word, if it is there; read.
    After(&'static CStr),
}

/// The key's value is read, and may be overwritten, deleted or given another lease.
pub(crate) const MAY_WRITE: u32 = raw::REDISMODULE_CMD_KEY_RW
    | raw::REDISMODULE_CMD_KEY_ACCESS
    | raw::REDISMODULE_CMD_KEY_UPDATE;

/// As [`MAY_WRITE`], for a command that deletes.
pub(crate) const MAY_DELETE: u32 = raw::REDISMODULE_CMD_KEY_RW
    | raw::REDISMODULE_CMD_KEY_ACCESS
    | raw::REDISMODULE_CMD_KEY_DELETE;

/// The key's value is read.
pub(crate) const READS: u32 =
    raw::REDISMODULE_CMD_KEY_RO | raw::REDISMODULE_CMD_KEY_ACCESS;

/// An argument, as `COMMAND DOCS` tells it.
pub(crate) struct Argument {
    name: &'static CStr,
    kind: raw::RedisModuleCommandArgType,
    token: Option<&'static CStr>,
    flags: u32,
    of: &'static [Argument],
}

impl Argument {
    const fn new(name: &'static CStr, kind: raw::RedisModuleCommandArgType) -> Self {
        Self { name, kind, token: None, flags: 0, of: &[] }
    }

    /// The key.
    pub(crate) const KEY: Self =
        Self::new(c"key", raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_KEY);

    /// Text.
    pub(crate) const fn text(name: &'static CStr) -> Self {
        Self::new(name, raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_STRING)
    }

    /// An integer.
    pub(crate) const fn integer(name: &'static CStr) -> Self {
        Self::new(name, raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_INTEGER)
    }

    /// A pattern.
    pub(crate) const fn pattern(name: &'static CStr) -> Self {
        Self::new(name, raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_PATTERN)
    }

    /// A word that stands for itself.
    pub(crate) const fn word(name: &'static CStr, word: &'static CStr) -> Self {
        let kind = raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_PURE_TOKEN;
        Self::new(name, kind).after(word)
    }

    /// One of several.
    pub(crate) const fn one_of(name: &'static CStr, of: &'static [Argument]) -> Self {
        let kind = raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_ONEOF;
        Self { of, ..Self::new(name, kind) }
    }

    /// Several that go together.
    pub(crate) const fn block(name: &'static CStr, of: &'static [Argument]) -> Self {
        let kind = raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_BLOCK;
        Self { of, ..Self::new(name, kind) }
    }

    /// The same, behind a word.
    pub(crate) const fn after(self, word: &'static CStr) -> Self {
        Self { token: Some(word), ..self }
    }

    /// The same, which may be left out.
    pub(crate) const fn optional(self) -> Self {
        Self { flags: self.flags | raw::REDISMODULE_CMD_ARG_OPTIONAL, ..self }
    }

    /// The same, given once or more.
    pub(crate) const fn several(self) -> Self {
        Self { flags: self.flags | raw::REDISMODULE_CMD_ARG_MULTIPLE, ..self }
    }
}

/// `[EX seconds | PX milliseconds]`
pub(crate) const LEASE: Argument = Argument::one_of(
    c"lease",
    &[
        Argument::integer(c"seconds").after(c"EX"),
        Argument::integer(c"milliseconds").after(c"PX"),
    ],
)
.optional();

/// `[BLOCK milliseconds]`
pub(crate) const BLOCK: Argument =
    Argument::integer(c"milliseconds").after(c"BLOCK").optional();

/// `[UNIQUE]`
pub(crate) const UNIQUE: Argument = Argument::word(c"unique", c"UNIQUE").optional();

/// `[SESSION [GRACE milliseconds]]`
pub(crate) const SESSION: Argument = Argument::block(
    c"session",
    &[
        Argument::word(c"session", c"SESSION"),
        Argument::integer(c"milliseconds").after(c"GRACE").optional(),
    ],
)
.optional();

/// `[TOKEN n]`
pub(crate) const TOKEN: Argument = Argument::integer(c"n").after(c"TOKEN").optional();

/// `[REASON text]`
pub(crate) const REASON: Argument = Argument::text(c"text").after(c"REASON").optional();

/// The release of the module that brought a command.
const SINCE: &CStr = c"0.1.0";

/// Announces a command.
///
/// # Errors
/// When the server refuses it.
pub(crate) fn announce<C: Command>(context: Context<'_>) -> Result<(), String> {
    let spec = &C::SPEC;
    let (ctx, name) = (context.as_ptr(), spec.name.as_ptr());
    let (first, last, step) = match spec.keys {
        Keys::First(_) => (1, 1, 1),
        Keys::None | Keys::Counted(_) | Keys::After(_) => (0, 0, 0),
    };
    let refused = |what| format!("the server refuses the {what} of {:?}", spec.name);
    let flags = spec.flags.as_ptr();
    let entry: raw::RedisModuleCmdFunc = Some(entry::<C>);
    // SAFETY: the context is valid, the texts are static.
    unsafe {
        if api!(RedisModule_CreateCommand(ctx, name, entry, flags, first, last, step))
            != OK
        {
            return Err(refused("name"));
        }
        let command = api!(RedisModule_GetCommand(ctx, name));
        if !describe(command, spec) {
            return Err(refused("description"));
        }
        if let Some(categorize) = optional!(RedisModule_SetCommandACLCategories)
            && categorize(command, spec.acl.as_ptr()) != OK
        {
            return Err(refused("access categories"));
        }
    }
    Ok(())
}

/// Where the server enters a command.
unsafe extern "C" fn entry<C: Command>(
    ctx: *mut raw::RedisModuleCtx,
    argv: *mut *mut raw::RedisModuleString,
    argc: c_int,
) -> c_int {
    let answered = contained(|| {
        // SAFETY: the server handed us these for the time of the call.
        let call = unsafe { Call::new(ctx, argv, argc) };
        if matches!(C::SPEC.keys, Keys::Counted(_)) && call.asks_for_keys() {
            call.tell_keys();
            return;
        }
        if write_permission::is_question() {
            call.reply().null();
            return;
        }
        crate::waiting::run_deferred_around_command(call.context());
        if let Some(name) = call.arguments_from(0).next() {
            crate::injected::panic_at(crate::injected::IN_COMMAND, name);
        }
        if let Err(fault) = C::run(call) {
            call.reply().fault(fault);
        }
        crate::waiting::run_deferred_around_command(call.context());
        crate::news::tell(call.context());
    });
    if answered.is_none() {
        // SAFETY: as above.
        let context = unsafe { Context::new(ctx) };
        contained(|| Reply::new(context).fault(Fault::Internal));
    }
    OK
}

/// # Safety
/// `command` is a command of this module, while it is being loaded.
unsafe fn describe(command: *mut raw::RedisModuleCommand, spec: &Spec) -> bool {
    let version = raw::RedisModuleCommandInfoVersion {
        version: 1,
        sizeof_historyentry: size_of::<raw::RedisModuleCommandHistoryEntry>(),
        sizeof_keyspec: size_of::<raw::RedisModuleCommandKeySpec>(),
        sizeof_arg: size_of::<raw::RedisModuleCommandArg>(),
    };
    let mut key_specs = key_specs(spec.keys);
    let mut lists = Vec::new();
    let arguments = arguments(spec.arguments, &mut lists);
    let info = raw::RedisModuleCommandInfo {
        version: &raw const version,
        summary: spec.summary.as_ptr(),
        complexity: spec.complexity.as_ptr(),
        since: SINCE.as_ptr(),
        history: null_mut(),
        tips: start_or_null(spec.tips),
        arity: spec.arity,
        key_specs: key_specs.as_mut_ptr(),
        args: arguments,
    };
    // SAFETY: every list ends with a zeroed element; the server copies all of it, and
    // what `info` points to lives until the end of this function.
    unsafe { api!(RedisModule_SetCommandInfo(command, &raw const info)) == OK }
}

fn start_or_null(text: Option<&CStr>) -> *const c_char {
    text.map_or(null(), CStr::as_ptr)
}

/// The places of the keys, and a zeroed element behind them.
fn key_specs(keys: Keys) -> Vec<raw::RedisModuleCommandKeySpec> {
    // SAFETY: of pointers, integers and unions of them, for which zero is a value.
    let zeroed = || unsafe { std::mem::zeroed::<raw::RedisModuleCommandKeySpec>() };
    let mut spec = zeroed();
    spec.find_keys_type = raw::RedisModuleKeySpecFindKeysType_REDISMODULE_KSPEC_FK_RANGE;
    spec.fk.range.keystep = 1;
    match keys {
        Keys::None => return vec![zeroed()],
        Keys::First(flags) => {
            spec.flags = u64::from(flags);
            spec.begin_search_type =
                raw::RedisModuleKeySpecBeginSearchType_REDISMODULE_KSPEC_BS_INDEX;
            spec.bs.index.pos = 1;
        }
        Keys::Counted(flags) => {
            spec.flags = u64::from(flags);
            spec.begin_search_type =
                raw::RedisModuleKeySpecBeginSearchType_REDISMODULE_KSPEC_BS_INDEX;
            spec.bs.index.pos = 1;
            spec.find_keys_type =
                raw::RedisModuleKeySpecFindKeysType_REDISMODULE_KSPEC_FK_KEYNUM;
            spec.fk.keynum = raw::RedisModuleCommandKeySpec__bindgen_ty_2__bindgen_ty_2 {
                keynumidx: 0,
                firstkey: 1,
                keystep: 1,
            };
        }
        Keys::After(word) => {
            spec.flags = u64::from(READS);
            spec.begin_search_type =
                raw::RedisModuleKeySpecBeginSearchType_REDISMODULE_KSPEC_BS_KEYWORD;
            spec.bs.keyword =
                raw::RedisModuleCommandKeySpec__bindgen_ty_1__bindgen_ty_2 {
                    keyword: word.as_ptr(),
                    startfrom: 1,
                };
        }
    }
    vec![spec, zeroed()]
}

/// The arguments as the server takes them: a list that ends with a zeroed element, kept
/// alive in `lists`. Null when there are none.
fn arguments(
    arguments: &[Argument],
    lists: &mut Vec<Vec<raw::RedisModuleCommandArg>>,
) -> *mut raw::RedisModuleCommandArg {
    if arguments.is_empty() {
        return null_mut();
    }
    // SAFETY: of pointers and integers, for which zero is a value.
    let zeroed = || unsafe { std::mem::zeroed::<raw::RedisModuleCommandArg>() };
    let is_key = |argument: &Argument| {
        argument.kind == raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_KEY
    };
    let mut list = Vec::new();
    for argument in arguments {
        list.push(raw::RedisModuleCommandArg {
            name: argument.name.as_ptr(),
            type_: argument.kind,
            key_spec_index: if is_key(argument) { 0 } else { -1 },
            token: start_or_null(argument.token),
            flags: argument.flags.cast_signed(),
            subargs: self::arguments(argument.of, lists),
            ..zeroed()
        });
    }
    list.push(zeroed());
    let start = list.as_mut_ptr();
    lists.push(list);
    start
}
