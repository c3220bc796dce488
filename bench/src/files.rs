//! How many files the bench may have open: each connection is one.

use anyhow::{Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of open files as far as needed, for this process and the servers
/// that it starts.
pub(crate) fn allow(needed: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|soft| soft >= needed) {
        return Ok(());
    }
    if let Some(hard) = limit.maximum.filter(|hard| *hard < needed) {
        bail!(
            "{needed} files must be open at once, and the hard limit is {hard}: \
             raise it (as root: ulimit -Hn {needed}) and start again"
        );
    }
    let raised = Rlimit { current: Some(needed), maximum: limit.maximum };
    Ok(setrlimit(Resource::Nofile, raised)?)
}
