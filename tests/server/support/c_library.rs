//! Libraries in C that tests load into servers.

use std::path::{Path, PathBuf};
use std::process::Command;

use gpulock_testkit::workspace;

/// Builds `tests/server/support/NAME.c` into a folder.
#[track_caller]
pub(crate) fn build_c_library(name: &str, folder: &Path) -> PathBuf {
    let built = folder.join(format!("{name}.so"));
    let source = workspace().join(format!("tests/server/support/{name}.c"));
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&built, &source])
        .status()
        .expect("cc is installed: building the module needs it");
    assert!(status.success());
    built
}
