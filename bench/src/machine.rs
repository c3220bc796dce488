//! What a run was made on: the machine, how busy it was, the day, the versions. Nothing is
//! measured here.

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
use crate::served::Served;

/// The processor, how many there are, the memory and the kernel.
pub(crate) fn machine() -> Result<String> {
    // Not every kind of processor has a name of its own here.
    let processor =
        field("/proc/cpuinfo", "model name").unwrap_or_else(|_| ARCH.to_owned());
    let cores = available_parallelism()?;
    let memory = field("/proc/meminfo", "MemTotal")?;
    let kib: f64 = memory.trim_end_matches(" kB").parse().context("MemTotal")?;
    let gib = kib / 1024.0 / 1024.0;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(format!("{processor}, {cores} cores, {gib:.0} GiB, Linux {}", kernel.trim()))
}

/// The load of the last minute.
pub(crate) fn load() -> Result<f64> {
    let said = fs::read_to_string("/proc/loadavg")?;
    said.split(' ').next().unwrap_or_default().parse().context("/proc/loadavg")
}

/// Today, as `2026-11-23`.
pub(crate) fn date() -> Result<String> {
    let said = Command::new("date").arg("+%F").output().context("date")?;
    Ok(String::from_utf8(said.stdout)?.trim().to_owned())
}

/// The versions of what takes part, by name.
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

/// The version of a package of the peers' Python.
fn package(setup: &Setup, name: &str) -> Result<String> {
    let ask = format!("import importlib.metadata as m; print(m.version('{name}'))");
    let said = Command::new(&setup.python).args(["-c", &ask]).output()?;
    let version = String::from_utf8(said.stdout)?.trim().to_owned();
    ensure!(!version.is_empty(), "{} has no {name}", setup.python.display());
    Ok(version)
}

/// The module's version, as it tells a server: 10203 is 1.2.3.
fn module(setup: &Setup) -> Result<String> {
    let served = Served::start(&setup.flavour, Some(&setup.module), |builder| builder)?;
    let said: String = cmd("INFO").arg("modules").query(&mut served.connect()?)?;
    let (_, after) = said.split_once("name=gpulock,ver=").context("INFO modules")?;
    let digits = after.split(',').next().unwrap_or_default();
    let number: u32 = digits.parse().context("INFO modules")?;
    Ok(format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100))
}

/// The value of the first line `name : value` of a file.
fn field(file: &str, name: &str) -> Result<String> {
    let text = fs::read_to_string(file)?;
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(of, _)| of.trim() == name);
    let (_, value) = found.with_context(|| format!("{file} has no {name}"))?;
    Ok(value.trim().to_owned())
}
