//! The command as a process group of its own: how it starts, gets signals, stops and ends.
//! When it is told what stands in [`super::watch`].

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal};
use rustix::process::{
    Pid, WaitOptions, WaitStatus, getpid, getppid, kill_process_group,
    set_child_subreaper, set_parent_process_death_signal, test_kill_process_group, wait,
};

use crate::run::environment::Environment;

/// The name of the hidden subcommand that becomes the command.
pub(crate) const HELPER: &str = "__child";

/// This program, whatever has become of its file.
pub(crate) const THIS_PROGRAM: &str = "/proc/self/exe";

/// As a shell says that a command is not there, and that it is none.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// The process group of the command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group(Pid);

/// What happened to the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It ended, with the status that a shell would show.
    Ended(u8),
    /// This signal stopped it.
    Stopped(Signal),
}

/// The arguments of the hidden subcommand.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The process that must not die
    parent: i32,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Starts a command in a process group of its own, with these variables on top of the
/// environment. It dies with the calling thread. What it leaves behind becomes a child of
/// this process.
///
/// # Errors
/// When no process can be started. That the command is not there is its status later on.
pub(crate) fn start(command: &[OsString], env: &Environment) -> Result<Group> {
    set_child_subreaper(Some(getpid())).context("becoming the reaper of orphans")?;
    let mut helper = Command::new(THIS_PROGRAM);
    helper.arg0("gpulock").arg(HELPER);
    helper.arg(getpid().as_raw_nonzero().to_string()).arg("--").args(command);
    helper.envs(env.iter().map(|(name, value)| (name, value)));
    let child = helper.process_group(0).spawn().context("no process")?;
    group(child.id())
}

/// Turns this process into the command, unless its parent is gone.
///
/// # Errors
/// When the parent is gone, or a parameter is none.
pub(crate) fn become_command(args: &Args) -> Result<ExitCode> {
    // The signal is sent when the parent ends from now on; so look whether it is there.
    set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    if getppid() != Pid::from_raw(args.parent) {
        bail!("its parent is gone");
    }
    // A signal that came meanwhile has its effect now.
    SigSet::empty().thread_set_mask().context("unblocking signals")?;
    let Some((program, rest)) = args.command.split_first() else { bail!("no command") };
    let error = Command::new(program).args(rest).exec();
    eprintln!("gpulock: {}: {error}", program.display());
    Ok(ExitCode::from(match error.kind() {
        ErrorKind::NotFound => NOT_FOUND,
        _ => NOT_EXECUTABLE,
    }))
}

impl Group {
    /// The next thing that happened to the command itself, if something did. Whatever else
    /// ended is reaped on the way.
    pub(crate) fn change(self) -> Option<Change> {
        loop {
            let (pid, status) =
                wait(WaitOptions::NOHANG | WaitOptions::UNTRACED).ok()??;
            let change = (pid == self.0).then(|| Change::of(status)).flatten();
            if change.is_some() {
                return change;
            }
        }
    }

    /// Sends it a signal. A group that is gone takes none.
    pub(crate) fn signal(self, signal: Signal) {
        if let Some(signal) = rustix::process::Signal::from_named_raw(signal as i32) {
            let _gone = kill_process_group(self.0, signal);
        }
    }

    /// Whether anybody is left in it.
    pub(crate) fn is_alive(self) -> bool {
        test_kill_process_group(self.0) != Err(rustix::io::Errno::SRCH)
    }

    /// Its number.
    pub(crate) fn pid(self) -> Pid {
        self.0
    }
}

impl Change {
    fn of(status: WaitStatus) -> Option<Self> {
        if let Some(signal) = status.stopping_signal() {
            return Signal::try_from(signal).ok().map(Self::Stopped);
        }
        let killed = || status.terminating_signal().map(by_signal);
        let ended = status.exit_status().and_then(|status| u8::try_from(status).ok());
        ended.or_else(killed).map(Self::Ended)
    }
}

/// The status that a shell shows of what a signal ended.
pub(crate) fn by_signal(signal: i32) -> u8 {
    u8::try_from(signal).map_or(u8::MAX, |signal| signal.saturating_add(128))
}

/// The group that a child leads.
///
/// # Errors
/// When the number is none that a process can have.
pub(crate) fn group(leader: u32) -> Result<Group> {
    let pid = i32::try_from(leader).ok().and_then(Pid::from_raw);
    Ok(Group(pid.ok_or_else(|| io::Error::other("no process"))?))
}
