//! The environment of a run: machine, load, date and versions.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::fs;
use std::process::Command;
use std::thread::available_parallelism;

use anyhow::{Context, Result, ensure};
use redis::cmd;

use crate::callgrind;
use crate::measure::Setup;
use crate::names;
use crate::server::BenchServer;

/// Processor, number of cores, memory and kernel.
pub(crate) fn machine() -> Result<String> {
    // Not all processors have a model name.
    let processor =
        field("/proc/cpuinfo", "model name").unwrap_or_else(|_| ARCH.to_owned());
    let cores = available_parallelism()?;
    let memory = field("/proc/meminfo", "MemTotal")?;
    let kib: f64 = memory.trim_end_matches(" kB").parse().context("MemTotal")?;
    let gib = kib / 1024.0 / 1024.0;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(format!("{processor}, {cores} cores, {gib:.0} GiB, Linux {}", kernel.trim()))
}

/// One-minute load average.
pub(crate) fn load() -> Result<f64> {
    let loadavg = fs::read_to_string("/proc/loadavg")?;
    loadavg.split(' ').next().unwrap_or_default().parse().context("/proc/loadavg")
}

/// The current date, as `2026-11-23`.
pub(crate) fn date() -> Result<String> {
    let output = Command::new("date").arg("+%F").output().context("date")?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// The versions of the module and of the peers, by name.
pub(crate) fn versions(setup: &Setup) -> Result<BTreeMap<String, String>> {
    let mut versions = BTreeMap::from([(names::OURS.to_owned(), module(setup)?)]);
    if let Ok(version) = callgrind::version() {
        versions.insert("valgrind".to_owned(), version);
    }
    for peer in ["redis", "python-redis-lock"] {
        versions.insert(format!("{peer} (Python)"), package(setup, peer)?);
    }
    Ok(versions)
}

/// The version of a Python package.
fn package(setup: &Setup, name: &str) -> Result<String> {
    let script = format!("import importlib.metadata as m; print(m.version('{name}'))");
    let output = Command::new(&setup.python).args(["-c", &script]).output()?;
    let version = String::from_utf8(output.stdout)?.trim().to_owned();
    ensure!(
        !version.is_empty(),
        "{name} is not installed for {}",
        setup.python.display()
    );
    Ok(version)
}

/// The module's version from INFO: 10203 is 1.2.3.
fn module(setup: &Setup) -> Result<String> {
    let server =
        BenchServer::start(&setup.flavour, Some(&setup.module), |builder| builder)?;
    let info: String = cmd("INFO").arg("modules").query(&mut server.connect()?)?;
    let (_, after) = info.split_once("name=gpulock,ver=").context("INFO modules")?;
    let digits = after.split(',').next().unwrap_or_default();
    let number: u32 = digits.parse().context("INFO modules")?;
    Ok(format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100))
}

/// The value of the first line `name: value` in a file.
fn field(file: &str, name: &str) -> Result<String> {
    let text = fs::read_to_string(file)?;
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(key, _)| key.trim() == name);
    let (_, value) = found.with_context(|| format!("{name} is missing in {file}"))?;
    Ok(value.trim().to_owned())
}
