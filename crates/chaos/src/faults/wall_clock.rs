//! A steppable wall clock for one server, through a small library loaded before the C
//! library. Needs a C compiler, and a server whose modules see the same clock: Valkey 8.1
//! and later bind modules to the C library itself.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use gpulock_testkit::Flavour;
use gpulock_testkit::server::Builder;
use tempfile::TempDir;

const SHIM: &str = include_str!("clock_shim.c");

/// A wall clock.
pub(crate) struct WallClock {
    folder: TempDir,
}

impl WallClock {
    /// Builds one for a server.
    pub(crate) fn make(flavour: &Flavour) -> Result<Self, String> {
        if flavour.is_valkey() && flavour.version() >= (8, 1, 0) {
            return Err("Valkey 8.1 and later bind modules to the C library".to_owned());
        }
        let folder = TempDir::new().map_err(|error| error.to_string())?;
        let clock = Self { folder };
        let source = clock.path("shim.c");
        fs::write(&source, SHIM).map_err(|error| error.to_string())?;
        compile(&source, &clock.path("shim.so"))?;
        clock.step(0)?;
        Ok(clock)
    }

    /// Configures a server to use it.
    pub(crate) fn configure(&self, builder: Builder) -> Builder {
        let path = |name| self.path(name).display().to_string();
        builder.env("LD_PRELOAD", &path("shim.so")).env("GPULOCK_CLOCK", &path("offset"))
    }

    /// Sets it ahead of the machine's clock by this many seconds.
    pub(crate) fn step(&self, seconds: i64) -> Result<(), String> {
        // In place and never shorter, because the server has the file mapped.
        let mut open = File::options();
        let file =
            open.write(true).create(true).truncate(false).open(self.path("offset"));
        file.and_then(|file| file.write_all_at(&seconds.to_ne_bytes(), 0))
            .map_err(|error| error.to_string())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn compile(source: &Path, library: &Path) -> Result<(), String> {
    let cc = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-o"])
        .args([library, source])
        .output()
        .map_err(|error| format!("cc: {error}"))?;
    match cc.status.success() {
        true => Ok(()),
        false => Err(format!("cc: {}", String::from_utf8_lossy(&cc.stderr))),
    }
}
