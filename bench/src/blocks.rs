//! The module that only blocks its clients (`bench/blocks.c`): built when it is needed,
//! and spoken to in as many bytes as ours.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use gpulock_testkit::workspace;
use tempfile::TempDir;

use crate::link::packed;

/// A build of it, which goes when this is dropped. Servers that loaded it run on.
pub(crate) struct Blocks {
    folder: TempDir,
}

impl Blocks {
    /// Builds it with the C compiler of the machine.
    pub(crate) fn build() -> Result<Self> {
        let built = Self { folder: TempDir::with_prefix("gpulock-bench-")? };
        let status = Command::new("cc")
            .args(["-O2", "-shared", "-fPIC", "-o"])
            .arg(built.module())
            .arg(workspace().join("bench/blocks.c"))
            .status()
            .context("the bench needs a C compiler, cc")?;
        ensure!(status.success(), "cc: {status}");
        Ok(built)
    }

    /// The file to load.
    pub(crate) fn module(&self) -> PathBuf {
        self.folder.path().join("blocks.so")
    }
}

/// Its command in place of one of ours: to wait in place of `GPULOCK.ACQUIRE … BLOCK`, to
/// let the next go on in place of `GPULOCK.RELEASE`. It heeds no arguments; the key is
/// longer by as much as the name is shorter.
pub(crate) fn packed_in_place_of(ours: &[&str]) -> Vec<u8> {
    let name = match ours[0] {
        "GPULOCK.ACQUIRE" => "BLOCKS.WAIT",
        _ => "BLOCKS.PASS",
    };
    let longer = ours[0].len() - name.len();
    let key = format!("{}{}", ours[1], "-".repeat(longer));
    packed(&[&[name, &key], &ours[2..]].concat())
}
