//! The registration of commands: name, flags, keys, and the documentation for `COMMAND DOCS` and
//! the hints of `redis-cli`.

use std::borrow::Cow;
use std::ffi::{CStr, c_char, c_int};
use std::ptr::{null, null_mut};

use gpulock_core::CommandError;

use super::api::{OK, api, optional, raw};
use super::call::Call;
use super::context::Context;
use super::panic_boundary::catch_panics;
use super::reply::Reply;
use super::string::c_string;
use super::write_permission;

/// A command.
pub(crate) trait Command {
    /// Its registration.
    const SPEC: Spec;

    /// Executes a call: replies, or returns the error to reply with.
    fn run(call: Call<'_>) -> Result<(), CommandError>;
}

/// The work around each call.
pub(crate) trait Dispatch {
    /// Executes a call of a command.
    fn dispatch<C: Command>(call: Call<'_>);
}

/// The registration of a command.
pub(crate) struct Spec {
    /// The name, `GPULOCK.…`.
    pub(crate) name: &'static CStr,
    /// The flags for `RedisModule_CreateCommand`.
    pub(crate) flags: &'static CStr,
    /// The ACL categories, for servers that let a module set them.
    pub(crate) acl: &'static CStr,
    /// The number of words, including the name; if negative, the minimum.
    pub(crate) arity: c_int,
    /// The positions of its keys.
    pub(crate) keys: Keys,
    /// A summary in one line.
    pub(crate) summary: &'static CStr,
    /// Its time complexity.
    pub(crate) complexity: &'static CStr,
    /// Hints for clients and proxies.
    pub(crate) tips: Option<&'static CStr>,
    /// Its arguments.
    pub(crate) arguments: &'static [Argument],
}

/// The positions of a command's keys, and how it accesses them.
#[derive(Clone, Copy)]
pub(crate) enum Keys {
    /// The command has no keys.
    None,
    /// The first argument, with these flags.
    First(u32),
    /// The first argument is the number of keys that follow it, with these flags.
    Counted(u32),
    /// The argument after this word, if it is given; the key is read.
    After(&'static CStr),
}

/// The command reads the key, and may overwrite it, delete it, or change its expiry.
pub(crate) const MAY_WRITE: u32 = raw::REDISMODULE_CMD_KEY_RW
    | raw::REDISMODULE_CMD_KEY_ACCESS
    | raw::REDISMODULE_CMD_KEY_UPDATE;

/// The command reads the key, and may delete it.
pub(crate) const MAY_DELETE: u32 = raw::REDISMODULE_CMD_KEY_RW
    | raw::REDISMODULE_CMD_KEY_ACCESS
    | raw::REDISMODULE_CMD_KEY_DELETE;

/// The command reads the key.
pub(crate) const READS: u32 =
    raw::REDISMODULE_CMD_KEY_RO | raw::REDISMODULE_CMD_KEY_ACCESS;

/// An argument in `COMMAND DOCS`.
pub(crate) struct Argument {
    name: &'static CStr,
    kind: raw::RedisModuleCommandArgType,
    token: Option<&'static CStr>,
    flags: u32,
    subarguments: &'static [Argument],
}

impl Argument {
    const fn new(name: &'static CStr, kind: raw::RedisModuleCommandArgType) -> Self {
        Self { name, kind, token: None, flags: 0, subarguments: &[] }
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

    /// A keyword without a value.
    pub(crate) const fn word(name: &'static CStr, word: &'static CStr) -> Self {
        let kind = raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_PURE_TOKEN;
        Self::new(name, kind).after(word)
    }

    /// One of several arguments.
    pub(crate) const fn one_of(
        name: &'static CStr,
        subarguments: &'static [Argument],
    ) -> Self {
        let kind = raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_ONEOF;
        Self { subarguments, ..Self::new(name, kind) }
    }

    /// A group of arguments.
    pub(crate) const fn block(
        name: &'static CStr,
        subarguments: &'static [Argument],
    ) -> Self {
        let kind = raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_BLOCK;
        Self { subarguments, ..Self::new(name, kind) }
    }

    /// The same argument after a keyword.
    pub(crate) const fn after(self, word: &'static CStr) -> Self {
        Self { token: Some(word), ..self }
    }

    /// The same argument, optional.
    pub(crate) const fn optional(self) -> Self {
        Self { flags: self.flags | raw::REDISMODULE_CMD_ARG_OPTIONAL, ..self }
    }

    /// The same argument, given once or more.
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

/// `[UNIQUE [KEEP milliseconds]]`
pub(crate) const UNIQUE: Argument = Argument::block(
    c"unique",
    &[
        Argument::word(c"unique", c"UNIQUE"),
        Argument::integer(c"milliseconds").after(c"KEEP").optional(),
    ],
)
.optional();

/// `[PRIORITY n]`
pub(crate) const PRIORITY: Argument =
    Argument::integer(c"priority").after(c"PRIORITY").optional();

/// `[SHARE name]`
pub(crate) const SHARE: Argument = Argument::text(c"share").after(c"SHARE").optional();

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

/// The release of the module that introduced the commands.
const SINCE: &CStr = c"0.1.0";

/// Registers a command. `D` dispatches its calls.
///
/// # Errors
/// When the server rejects it.
pub(crate) fn register<C: Command, D: Dispatch>(
    context: Context<'_>,
) -> Result<(), String> {
    let spec = &C::SPEC;
    let (ctx, name) = (context.as_ptr(), spec.name.as_ptr());
    let (first, last, step) = match spec.keys {
        Keys::First(_) => (1, 1, 1),
        Keys::None | Keys::Counted(_) | Keys::After(_) => (0, 0, 0),
    };
    let rejected = |what| format!("the server rejected the {what} of {:?}", spec.name);
    let flags = flags(spec, context.flags().in_cluster());
    let flags = flags.as_ptr();
    let entry: raw::RedisModuleCmdFunc = Some(entry::<C, D>);
    // SAFETY: the context is valid, and the strings are static.
    unsafe {
        if api!(RedisModule_CreateCommand(ctx, name, entry, flags, first, last, step))
            != OK
        {
            return Err(rejected("name"));
        }
        let command = api!(RedisModule_GetCommand(ctx, name));
        if !describe(command, spec) {
            return Err(rejected("description"));
        }
        if let Some(categorize) = optional!(RedisModule_SetCommandACLCategories)
            && categorize(command, spec.acl.as_ptr()) != OK
        {
            return Err(rejected("ACL categories"));
        }
    }
    Ok(())
}

/// The flags of a command. In a cluster the server finds counted keys of a module's command only with
/// the flag `getkeys-api`, by requesting them from the command. Elsewhere the key specification is
/// enough for permissions, and Valkey 9 would request the keys of each pipelined call, and look them
/// up in advance, although most of them may not be read.
fn flags(spec: &Spec, in_cluster: bool) -> Cow<'static, CStr> {
    match spec.keys {
        Keys::Counted(_) if in_cluster => {
            Cow::Owned(c_string(format!("{} getkeys-api", spec.flags.to_string_lossy())))
        }
        _ => Cow::Borrowed(spec.flags),
    }
}

/// The server calls this function for each call of the command.
unsafe extern "C" fn entry<C: Command, D: Dispatch>(
    ctx: *mut raw::RedisModuleCtx,
    argv: *mut *mut raw::RedisModuleString,
    argc: c_int,
) -> c_int {
    let replied = catch_panics(|| {
        // SAFETY: what the server passes is valid for the duration of the call.
        let call = unsafe { Call::new(ctx, argv, argc) };
        if matches!(C::SPEC.keys, Keys::Counted(_)) && call.is_key_request() {
            call.report_keys();
        } else if write_permission::is_check() {
            call.reply().null();
        } else {
            D::dispatch::<C>(call);
        }
    });
    if replied.is_none() {
        // SAFETY: as above.
        let context = unsafe { Context::new(ctx) };
        catch_panics(|| Reply::new(context).error(CommandError::Internal));
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
    // SAFETY: every list ends with a zeroed element. The server copies everything, and what `info`
    // points to lives until the end of this function.
    unsafe { api!(RedisModule_SetCommandInfo(command, &raw const info)) == OK }
}

fn start_or_null(text: Option<&CStr>) -> *const c_char {
    text.map_or(null(), CStr::as_ptr)
}

/// The key specifications, followed by a zeroed element.
fn key_specs(keys: Keys) -> Vec<raw::RedisModuleCommandKeySpec> {
    // SAFETY: the struct consists of pointers, integers and unions of them, for which zero is
    // valid.
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

/// Builds the list of arguments for the server. It ends with a zeroed element, and `lists` keeps it
/// alive. Null when there are no arguments.
fn arguments(
    arguments: &[Argument],
    lists: &mut Vec<Vec<raw::RedisModuleCommandArg>>,
) -> *mut raw::RedisModuleCommandArg {
    if arguments.is_empty() {
        return null_mut();
    }
    // SAFETY: the struct consists of pointers and integers, for which zero is valid.
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
            subargs: self::arguments(argument.subarguments, lists),
            ..zeroed()
        });
    }
    list.push(zeroed());
    let start = list.as_mut_ptr();
    lists.push(list);
    start
}
