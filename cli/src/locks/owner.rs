//! Owners: each hold gets one that no other hold has.

use std::fs::File;
use std::io::{self, Read};
use std::process;

use anyhow::{Context, Result};
use nix::sys::utsname::uname;

/// The system's random number generator.
const RANDOM: &str = "/dev/urandom";

/// An owner with this prefix that no other process has.
///
/// # Errors
/// If the system provides no random number.
pub(crate) fn unique(prefix: &str) -> Result<String> {
    with_random_number(&format!("{prefix}-{}-{}", host(), process::id()))
}

/// An owner with this prefix and a random number.
///
/// # Errors
/// If the system provides no random number.
pub(crate) fn with_random_number(prefix: &str) -> Result<String> {
    let random = random().context(RANDOM)?;
    Ok(format!("{prefix}-{random:016x}"))
}

/// The name of this host.
pub(crate) fn host() -> String {
    uname().expect("a host name").nodename().to_string_lossy().into_owned()
}

/// A random number.
fn random() -> io::Result<u64> {
    let mut bytes = [0; size_of::<u64>()];
    File::open(RANDOM)?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}
