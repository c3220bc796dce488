//! Error messages and exit statuses. Those that only `gpulock run` has are in its module.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::connection::is_connection_error;

/// Any error without a status of its own.
const FAILED: u8 = 1;

/// Invalid options or variables, as with those that the command line's parser rejects.
const USAGE: u8 = 2;

/// The server cannot be reached, or the connection broke (`EX_UNAVAILABLE` of sysexits.h).
pub(crate) const UNREACHABLE: u8 = 69;

/// An error message with an exit status.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    status: u8,
}

impl Failure {
    /// An option or a variable is invalid.
    pub(crate) fn usage(message: String) -> Self {
        Self { message, status: USAGE }
    }

    /// The server cannot be reached.
    pub(crate) fn unreachable(message: String) -> Self {
        Self { message, status: UNREACHABLE }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

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
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return failure.status;
    }
    match error.downcast_ref() {
        Some(error) if is_connection_error(error) => UNREACHABLE,
        _ => FAILED,
    }
}
