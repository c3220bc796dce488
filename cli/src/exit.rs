//! Error messages and exit statuses. Those that only `gpulock run` has are in its module.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::connection::is_connection_error;

/// Any error without a status of its own.
const FAILED: u8 = 1;

/// The server cannot be reached, or the connection broke (`EX_UNAVAILABLE` of sysexits.h).
pub(crate) const UNREACHABLE: u8 = 69;

/// Prints an error to standard error, and returns its status.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    note(&message(error));
    ExitCode::from(status(error))
}

/// Prints a line to standard error.
pub(crate) fn note(line: &str) {
    // Standard error may be closed.
    let _closed = writeln!(io::stderr(), "gpulock: {line}");
}

/// The message of an error and its causes, without repetitions.
pub(crate) fn message(error: &anyhow::Error) -> String {
    let mut message = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if message.is_empty() {
            message = cause;
        } else if !message.ends_with(&cause) {
            message = format!("{message}: {cause}");
        }
    }
    message
}

/// The exit status of an error.
pub(crate) fn status(error: &anyhow::Error) -> u8 {
    match error.downcast_ref() {
        Some(error) if is_connection_error(error) => UNREACHABLE,
        _ => FAILED,
    }
}
