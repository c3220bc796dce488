//! The environment variables that describe the locks to the command.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use crate::locks::{Lock, Variable, Variables};
use crate::run::nested::OuterHold;

/// The variable that contains the owner.
pub(crate) const OWNER: &str = "GPULOCK_OWNER";

/// The variable that contains the keys, separated by commas.
pub(crate) const KEYS: &str = "GPULOCK_KEYS";

/// The variable that contains the tokens, separated by commas.
pub(crate) const TOKENS: &str = "GPULOCK_TOKENS";

/// The variable that describes the runs around the innermost one, for inner runs. Each line has
/// an owner, keys and tokens.
pub(crate) const OUTER: &str = "GPULOCK_OUTER";

/// The variable that contains the reason of a loss.
pub(crate) const LOST: &str = "GPULOCK_LOST";

/// What the command does not inherit from `gpulock` as it is.
pub(crate) type Environment = Vec<Variable>;

/// The variables for these locks.
pub(crate) fn of(owner: &str, locks: &[Lock], variables: &Variables) -> Environment {
    let keys: Vec<&[u8]> = locks.iter().map(|lock| &*lock.key.0).collect();
    let tokens: Vec<String> = locks.iter().map(|lock| lock.token.to_string()).collect();
    let set = |name: &str, value: OsString| (name.to_owned(), Some(value));
    let mut all = vec![
        set(OWNER, owner.into()),
        set(KEYS, OsString::from_vec(keys.join(&b','))),
        set(TOKENS, tokens.join(",").into()),
        // Inherited if this process was started by `--on-lost`.
        (LOST.to_owned(), None),
        (OUTER.to_owned(), OuterHold::for_command()),
    ];
    all.extend(variables.of(locks));
    all
}
