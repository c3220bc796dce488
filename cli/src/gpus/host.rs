//! What identifies this host: the same in all its containers, and different on other hosts.
//!
//! The host name and `/etc/machine-id` differ between containers. The kernel's boot id does
//! not: the kernel has a single one. It can be read without permission, and changes with each
//! boot, which no hold of this host survives.

use std::fs;

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
