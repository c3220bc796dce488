//! `--exit-code`: the exit status shows whether a lock is held.

use std::process::ExitCode;

use anyhow::Result;

use crate::exit;

/// No lock is held, as `grep` reports that no line matches.
const NOT_HELD: u8 = 1;

/// An error that otherwise has the status of a lock that is not held.
const ERROR: u8 = 2;

/// The option.
#[derive(Debug, clap::Args)]
pub(super) struct ExitCodeOption {
    /// Exit with status 1 if no lock is held, and with 2 after an error reply of the server
    #[arg(long)]
    exit_code: bool,
}

impl ExitCodeOption {
    /// Runs a command that returns whether a lock is held, and returns the exit status.
    ///
    /// # Errors
    /// Without the option, those of the command. With it, they are reported here.
    pub(super) fn apply(&self, show: impl FnOnce() -> Result<bool>) -> Result<ExitCode> {
        match show() {
            Ok(is_held) if is_held || !self.exit_code => Ok(ExitCode::SUCCESS),
            Ok(_) => Ok(ExitCode::from(NOT_HELD)),
            Err(error) if self.exit_code && exit::status(&error) == NOT_HELD => {
                exit::report(&error);
                Ok(ExitCode::from(ERROR))
            }
            Err(error) => Err(error),
        }
    }
}
