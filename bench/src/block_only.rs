//! The module that only blocks clients (`bench/block_only.c`): built on demand; its
//! commands have as many bytes as those of GPULOCK.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use gpulock_testkit::workspace;
use tempfile::TempDir;

use crate::raw_connection::encode;

/// A build of the module. Dropping it deletes the file; servers that loaded it keep running.
pub(crate) struct BlockOnly {
    folder: TempDir,
}

impl BlockOnly {
    /// Builds the module with the C compiler `cc`.
    pub(crate) fn build() -> Result<Self> {
        let built = Self { folder: TempDir::with_prefix("gpulock-bench-")? };
        let status = Command::new("cc")
            .args(["-O2", "-shared", "-fPIC", "-o"])
            .arg(built.module())
            .arg(workspace().join("bench/block_only.c"))
            .status()
            .context("failed to start the C compiler cc")?;
        ensure!(status.success(), "cc failed: {status}");
        Ok(built)
    }

    /// The file to load.
    pub(crate) fn module(&self) -> PathBuf {
        self.folder.path().join("block_only.so")
    }
}

/// Encodes the module's counterpart of a GPULOCK command: `BLOCK.WAIT` for
/// `GPULOCK.ACQUIRE … BLOCK`, `BLOCK.WAKE` for `GPULOCK.RELEASE`. The module ignores the
/// arguments; the key is padded to make up for the shorter name.
pub(crate) fn encode_substitute(command: &[&str]) -> Vec<u8> {
    let name = match command[0] {
        "GPULOCK.ACQUIRE" => "BLOCK.WAIT",
        _ => "BLOCK.WAKE",
    };
    let padding = command[0].len() - name.len();
    let key = format!("{}{}", command[1], "-".repeat(padding));
    encode(&[&[name, &key], &command[2..]].concat())
}
