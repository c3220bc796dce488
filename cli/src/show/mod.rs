//! Read-only commands: they print a table, or one JSON document with `--json`.

mod exit_code;
mod follow;
pub(crate) mod inspect;
pub(crate) mod log;
pub(crate) mod ls;
pub(crate) mod out;
pub(crate) mod queue;
pub(crate) mod stats;
mod waiters;
