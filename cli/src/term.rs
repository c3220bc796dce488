//! What the terminal can do.

use std::env;

/// Whether the terminal cannot move its cursor: it would show escape sequences as garbage.
pub(crate) fn is_dumb() -> bool {
    env::var_os("TERM").is_some_and(|term| term == "dumb")
}
