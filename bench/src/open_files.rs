//! The limit of open files: each connection is one.

use std::io;

use anyhow::{Result, bail};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

/// Raises the soft limit of open files to at least `needed`, for this process and the
/// servers that it starts.
pub(crate) fn raise_limit(needed: u64) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(io::Error::from)?;
    if soft == RLIM_INFINITY || soft >= needed {
        return Ok(());
    }
    if hard != RLIM_INFINITY && hard < needed {
        bail!(
            "needs {needed} open files, but the hard limit is {hard}: \
             raise it as root with \"ulimit -Hn {needed}\""
        );
    }
    Ok(setrlimit(Resource::RLIMIT_NOFILE, needed, hard).map_err(io::Error::from)?)
}
