//! The options of `gpulock run`, and what follows from them.

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::builder::{NonEmptyStringValueParser, OsStringValueParser, TypedValueParser};
use clap::error::ErrorKind;

use crate::exit;
use crate::locks::{self, LockOptions, LockRequest, Targets, TurnOptions};
use crate::run::NOT_ACQUIRED;
use crate::run::event_sink::Sink;
use crate::run::wait_budget::WaitOptions;

/// The options of `gpulock run`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(super) locks: LockOptions,
    #[command(flatten)]
    turn: TurnOptions,
    /// How long the locks stay held after the last successful contact with the server
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = lease)]
    lease: Duration,
    #[command(flatten)]
    pub(super) wait: WaitOptions,
    /// Exit status if the locks were not acquired in time
    #[arg(long, value_name = "N", default_value_t = NOT_ACQUIRED)]
    pub(super) status_busy: u8,
    /// How long the locks stay held after the connection breaks
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    grace: Duration,
    /// Prefix of the owner name [default: name of the command]
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    owner: Option<String>,
    /// Shell command to run if the locks were lost, after the command has ended
    #[arg(long, value_name = "COMMAND")]
    pub(super) on_lost: Option<OsString>,
    /// Append the events of the run as JSON lines to a file, or write them to an open file
    /// descriptor
    #[arg(long, value_name = "FILE|FD", value_parser = OsStringValueParser::new().try_map(Sink::parse))]
    pub(super) events: Option<Sink>,
    /// Print errors only
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// Command to run
    #[arg(last = true, required = true)]
    pub(super) command: Vec<OsString>,
}

impl Args {
    /// The locks to acquire from these targets.
    ///
    /// # Errors
    /// If the system provides no random number.
    pub(super) fn request(&self, targets: &Targets) -> Result<LockRequest> {
        let (keys, count, groups) = targets.requested(usize::from(self.locks.count));
        Ok(LockRequest {
            keys,
            count,
            groups,
            turn: self.turn.turn(),
            owner: self.unique_owner()?,
            lease: self.lease,
            is_tied: true,
            grace: self.grace,
        })
    }

    /// Opens `--events`. Ends the process with a usage error if it cannot be written to. Must be
    /// called before this process opens anything else.
    pub(super) fn open_events(&self) -> Option<File> {
        let open = |sink: &Sink| {
            sink.open().unwrap_or_else(|error| {
                let why = format!("invalid --events {sink}: {}\n", exit::message(&error));
                clap::Error::raw(ErrorKind::ValueValidation, why).exit()
            })
        };
        self.events.as_ref().map(open)
    }

    /// An owner that no other run has.
    fn unique_owner(&self) -> Result<String> {
        let command = self.command.first().map(Path::new).and_then(Path::file_name);
        let prefix = match &self.owner {
            Some(prefix) => prefix.clone(),
            None => command.unwrap_or_default().to_string_lossy().into_owned(),
        };
        locks::unique(&prefix)
    }
}

/// A shorter lease would leave no time to act before it expires.
fn lease(text: &str) -> Result<Duration> {
    const MIN: Duration = Duration::from_secs(1);
    let lease = humantime::parse_duration(text)?;
    ensure!(lease >= MIN, "must be at least 1s");
    Ok(lease)
}
