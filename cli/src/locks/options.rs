//! The options that name the locks to acquire.

use std::ffi::OsString;

use clap::error::ErrorKind;

use super::targets::Targets;

/// Which locks to acquire, and how many.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("locks").required(true))]
pub(crate) struct LockOptions {
    /// Lock to acquire
    #[arg(long, value_name = "KEY", group = "locks")]
    pub(crate) key: Option<OsString>,
    /// Comma-separated locks to choose from, in order of preference
    #[arg(long, value_name = "KEY,…", value_delimiter = ',', group = "locks")]
    pub(crate) keys: Vec<OsString>,
    /// Choose from the GPUs of this host; the locks are named {NAME:host}:gpu:0, …
    #[arg(long, value_name = "NAME", group = "locks")]
    pub(crate) pool: Option<String>,
    /// Number of locks to acquire
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) count: u16,
    /// Skip GPUs with less free memory than this
    #[arg(long, value_name = "MIB", conflicts_with_all = ["key", "keys"])]
    pub(crate) min_free_mib: Option<u64>,
}

impl LockOptions {
    /// The locks that the user has named; None for a pool, whose locks are named by its GPUs.
    pub(crate) fn named(&self) -> Option<Targets> {
        if self.pool.is_some() {
            return None;
        }
        let named = self.key.as_ref().map_or(&self.keys[..], std::slice::from_ref);
        Some(Targets::named(named))
    }

    /// Ends the process with a usage error if more locks are requested than there are.
    pub(crate) fn check_count(&self, targets: &Targets) {
        let available = targets.all_keys().len();
        if usize::from(self.count) > available {
            let locks = if available == 1 { "lock" } else { "locks" };
            let why = format!(
                "invalid --count {}: only {available} {locks} to choose from\n",
                self.count
            );
            clap::Error::raw(ErrorKind::ValueValidation, why).exit();
        }
    }
}
