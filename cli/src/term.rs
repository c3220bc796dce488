//! What the terminal can do.

use std::env;

/// Whether the terminal cannot move its cursor, or is unknown: escape sequences would be shown as
/// garbage.
pub(crate) fn is_dumb() -> bool {
    env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}
