//! The options of `gpulock run`, and what follows from them.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::process;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::error::ErrorKind;
use nix::sys::utsname::uname;

use crate::clock;
use crate::run::locks::LockRequest;
use crate::run::targets::Targets;
use crate::run::wait_budget::WaitBudget;

/// The system's random number generator.
const RANDOM: &str = "/dev/urandom";

/// The options of `gpulock run`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("locks").required(true))]
pub(crate) struct Args {
    /// Lock to acquire
    #[arg(long, value_name = "KEY", group = "locks")]
    pub(super) key: Option<OsString>,
    /// Comma-separated locks to choose from, in order of preference
    #[arg(long, value_name = "KEY,…", value_delimiter = ',', group = "locks")]
    pub(super) keys: Vec<OsString>,
    /// Choose from the GPUs of this host; the locks are named {NAME:host}:gpu:0, …
    #[arg(long, value_name = "NAME", group = "locks")]
    pub(super) pool: Option<String>,
    /// Number of locks to acquire
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    count: u16,
    /// How long the locks stay held after the last successful contact with the server
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = lease)]
    lease: Duration,
    /// Maximum time to wait for the locks [default: wait indefinitely]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    wait: Option<Duration>,
    /// Do not wait
    #[arg(long, conflicts_with = "wait")]
    no_wait: bool,
    /// How long the locks stay held after the connection breaks
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    grace: Duration,
    /// Prefix of the owner name [default: name of the command]
    #[arg(long, value_name = "TEXT")]
    owner: Option<String>,
    /// Skip GPUs with less free memory than this
    #[arg(long, value_name = "MIB", conflicts_with_all = ["key", "keys"])]
    pub(super) min_free_mib: Option<u64>,
    /// Shell command to run if the locks were lost, after the command has ended
    #[arg(long, value_name = "COMMAND")]
    pub(super) on_lost: Option<OsString>,
    /// Print errors only
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// Command to run
    #[arg(last = true, required = true)]
    pub(super) command: Vec<OsString>,
}

impl Args {
    /// Ends the process with a usage error if more locks are requested than there are.
    pub(super) fn check_count(&self, available: usize) {
        if usize::from(self.count) > available {
            let locks = if available == 1 { "lock" } else { "locks" };
            let why = format!(
                "invalid --count {}: only {available} {locks} to choose from\n",
                self.count
            );
            clap::Error::raw(ErrorKind::ValueValidation, why).exit();
        }
    }

    /// The locks to acquire from these targets.
    ///
    /// # Errors
    /// If the system provides no random number.
    pub(super) fn request(&self, targets: &Targets) -> Result<LockRequest> {
        Ok(LockRequest {
            keys: targets.all_keys(),
            count: usize::from(self.count),
            owner: self.unique_owner()?,
            lease: self.lease,
            grace: self.grace,
        })
    }

    /// How long to wait, from now on.
    pub(super) fn wait_budget(&self) -> WaitBudget {
        match (self.no_wait, self.wait) {
            (true, _) => WaitBudget::NoWait,
            (false, Some(wait)) => WaitBudget::Until(clock::now().saturating_add(wait)),
            (false, None) => WaitBudget::Unlimited,
        }
    }

    /// An owner that no other run has.
    fn unique_owner(&self) -> Result<String> {
        let command = self.command.first().map(Path::new).and_then(Path::file_name);
        let prefix = match &self.owner {
            Some(prefix) => prefix.clone(),
            None => command.unwrap_or_default().to_string_lossy().into_owned(),
        };
        let random = random().context(RANDOM)?;
        Ok(format!("{prefix}-{}-{}-{random:016x}", host(), process::id()))
    }
}

/// A random number.
fn random() -> io::Result<u64> {
    let mut bytes = [0; size_of::<u64>()];
    File::open(RANDOM)?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// The name of this host.
pub(super) fn host() -> String {
    uname().expect("a host name").nodename().to_string_lossy().into_owned()
}

/// A shorter lease would leave no time to act before it expires.
fn lease(text: &str) -> Result<Duration> {
    const MIN: Duration = Duration::from_secs(1);
    let lease = humantime::parse_duration(text)?;
    ensure!(lease >= MIN, "must be at least 1s");
    Ok(lease)
}
