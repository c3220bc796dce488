//! Commands that show what the server knows: tables for people, with `--json` one document
//! for programs. They change nothing.

pub(crate) mod inspect;
pub(crate) mod line;
pub(crate) mod log;
pub(crate) mod ls;
pub(crate) mod out;
pub(crate) mod stats;
mod waiters;
