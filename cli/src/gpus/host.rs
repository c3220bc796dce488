//! This host, as opposed to a container on it.
//!
//! What identifies it is the same in all its containers, and different on other hosts. The host
//! name and `/etc/machine-id` differ between containers. The kernel's boot id does not: the kernel
//! has a single one. It can be read without permission, and changes with each boot, which no hold
//! of this host survives.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The file with the kernel's boot id.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Number of digits that are used: enough that two hosts never have the same.
const DIGITS: usize = 12;

/// A short name of this host that all its containers share.
///
/// # Errors
/// If `/proc` does not show the kernel's boot id.
pub(crate) fn host_id() -> Result<String> {
    let id = fs::read_to_string(BOOT_ID);
    shortened(&id.with_context(|| format!("failed to read {BOOT_ID}"))?)
}

/// The folder that contains the kernel's files. Tests set another one.
pub(super) fn root() -> PathBuf {
    env::var_os("GPULOCK_DEVICE_ROOT").map_or_else(|| "/".into(), PathBuf::from)
}

/// Whether the numbers that a driver has for processes are those of this process's `/proc`. In
/// a container that has a process namespace of its own, they mean other processes.
pub(crate) fn sees_all_processes() -> bool {
    /// The process namespace that the kernel creates first.
    const OF_HOST: &str = "pid:[4026531836]";
    let namespace = fs::read_link(root().join("proc/self/ns/pid"));
    namespace.is_ok_and(|namespace| namespace == Path::new(OF_HOST))
}

fn shortened(boot_id: &str) -> Result<String> {
    let digits: String = boot_id.chars().filter(char::is_ascii_hexdigit).collect();
    ensure!(digits.len() >= DIGITS, "unexpected content of {BOOT_ID}: {boot_id:?}");
    Ok(digits.chars().take(DIGITS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_the_beginning_of_the_boot_id() -> Result<()> {
        let id = shortened("78843640-f115-4e14-9f41-cae8e53c7c91\n")?;
        assert_eq!(id, "78843640f115");
        assert!(shortened("\n").is_err());
        Ok(())
    }
}
