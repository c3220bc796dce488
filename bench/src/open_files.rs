//! The limit of open files: each connection is one.

use anyhow::{Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of open files to at least `needed`, for this process and the
/// servers that it starts.
pub(crate) fn raise_limit(needed: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|soft| soft >= needed) {
        return Ok(());
    }
    if let Some(hard) = limit.maximum.filter(|hard| *hard < needed) {
        bail!(
            "needs {needed} open files, but the hard limit is {hard}: \
             raise it as root with \"ulimit -Hn {needed}\""
        );
    }
    let raised = Rlimit { current: Some(needed), maximum: limit.maximum };
    Ok(setrlimit(Resource::Nofile, raised)?)
}
