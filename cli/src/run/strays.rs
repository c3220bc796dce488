//! Processes of the command that left its group, as the workers of many launchers do. They
//! are known by the owner in their environment, which no other process has, and which
//! nobody takes off by chance.

use std::fs;

use nix::sys::signal::Signal;
use rustix::process::{Pid, kill_process};

use crate::run::environment::OWNER;

/// The processes with this owner in their environment that this process may see.
pub(crate) fn of(owner: &str) -> impl Iterator<Item = Pid> {
    let mark = format!("{OWNER}={owner}").into_bytes();
    let folders = fs::read_dir("/proc").into_iter().flatten().flatten();
    folders.filter_map(move |folder| {
        let pid = folder.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)?;
        let environment = fs::read(folder.path().join("environ")).ok()?;
        environment.split(|byte| *byte == 0).any(|entry| entry == mark).then_some(pid)
    })
}

/// Sends each of them a signal.
pub(crate) fn signal(owner: &str, signal: Signal) {
    let Some(signal) = rustix::process::Signal::from_named_raw(signal as i32) else {
        return;
    };
    for pid in of(owner) {
        let _gone = kill_process(pid, signal);
    }
}
