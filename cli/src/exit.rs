//! The exit statuses, and which of them an error leads to. Those of `gpulock run` that are
//! its child's own stand with it.

use std::io::{self, Write};
use std::process::ExitCode;

/// Anything that has no status of its own.
const FAILED: u8 = 1;

/// The server cannot be reached, or went away (`EX_UNAVAILABLE` of sysexits.h).
pub(crate) const UNREACHABLE: u8 = 69;

/// Tells an error on standard error, and answers its status.
pub(crate) fn told(error: &anyhow::Error) -> ExitCode {
    // Whoever closed standard error wants to hear nothing.
    let _unheard = writeln!(io::stderr(), "gpulock: {}", sentence(error));
    ExitCode::from(status(error))
}

/// An error and what caused it, without what a cause repeats.
pub(crate) fn sentence(error: &anyhow::Error) -> String {
    let mut told = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if told.is_empty() {
            told = cause;
        } else if !told.ends_with(&cause) {
            told = format!("{told}: {cause}");
        }
    }
    told
}

/// The status of an error.
pub(crate) fn status(error: &anyhow::Error) -> u8 {
    let is_of_the_way =
        |error: &redis::RedisError| error.is_io_error() || error.is_connection_dropped();
    match error.downcast_ref() {
        Some(error) if is_of_the_way(error) => UNREACHABLE,
        _ => FAILED,
    }
}
