//! The command as a process group of its own: how it starts, gets signals, stops and ends.
//! When it is told what stands in [`super::watch`].

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{Id, WaitPidFlag, waitid as peek};
use rustix::process::{
    Pid, WaitId, WaitIdOptions, WaitIdStatus, WaitOptions, getpid, getppid,
    kill_process_group, set_child_subreaper, set_parent_process_death_signal, wait,
    waitid,
};

use crate::clock::{self, Moment};
use crate::run::environment::Environment;
use crate::run::processes::Process;
use crate::run::say::say_if_read;

/// The name of the hidden subcommand that becomes the command.
pub(crate) const HELPER: &str = "__child";

/// This program, whatever has become of its file.
pub(crate) const THIS_PROGRAM: &str = "/proc/self/exe";

/// As a shell says that a command is not there, and that it is none.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// The process group of the command. Its number is nobody else's as long as its leader, the
/// command itself, is not reaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group(Pid);

/// What happened to a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It ended, with the status that a shell would show.
    Ended(u8),
    /// This signal stopped it.
    Stopped(Signal),
}

/// The next child that has ended.
enum Ended {
    Nobody,
    Other(Pid),
    /// The leader, or somebody of whom no more is known.
    Unclear,
}

/// The arguments of the hidden subcommand.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The process that must not die
    parent: i32,
    /// When it is too late to start, in milliseconds of the clock
    too_late: u64,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Starts a command in a process group of its own, with these variables on top of the
/// environment, but not after a moment. It dies with the calling thread. What it leaves behind
/// becomes a child of this process.
///
/// # Errors
/// When no process can be started. That the command is not there is its status later on.
pub(crate) fn start(
    command: &[OsString],
    env: &Environment,
    too_late: Moment,
) -> Result<Group> {
    set_child_subreaper(Some(getpid())).context("becoming the reaper of orphans")?;
    let mut helper = Command::new(THIS_PROGRAM);
    helper.arg0("gpulock").arg(HELPER);
    helper.arg(getpid().as_raw_nonzero().to_string());
    helper.arg(clock::millis(too_late).to_string());
    helper.arg("--").args(command);
    helper.envs(env.iter().map(|(name, value)| (name, value)));
    let child = helper.process_group(0).spawn().context("no process")?;
    Ok(Group::led_by(Pid::from_child(&child)))
}

/// Turns this process into the command, unless its parent is gone or it is too late.
///
/// # Errors
/// When a parameter is none.
pub(crate) fn become_command(args: &Args) -> Result<ExitCode> {
    // The signal is sent when the parent ends from now on; so look whether it is there.
    set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    if getppid() != Pid::from_raw(args.parent) {
        bail!("its parent is gone");
    }
    // A signal that came meanwhile has its effect now.
    SigSet::empty().thread_set_mask().context("unblocking signals")?;
    let Some((program, rest)) = args.command.split_first() else { bail!("no command") };
    // This process, or the machine, may have been stopped.
    if clock::now() >= Duration::from_millis(args.too_late) {
        let name = program.display();
        say_if_read(&format!("{name} is not started: the locks may be lost"));
        return Ok(ExitCode::FAILURE);
    }
    let error = Command::new(program).args(rest).exec();
    say_if_read(&format!("{}: {error}", program.display()));
    Ok(ExitCode::from(match error.kind() {
        ErrorKind::NotFound => NOT_FOUND,
        _ => NOT_EXECUTABLE,
    }))
}

impl Group {
    /// The group that a process leads.
    pub(crate) fn led_by(leader: Pid) -> Self {
        Self(leader)
    }

    /// Its number, which is that of its leader.
    pub(crate) fn pid(self) -> Pid {
        self.0
    }

    /// The same.
    pub(crate) fn number(self) -> i32 {
        self.0.as_raw_nonzero().get()
    }

    /// Sends it a signal. A group that is gone takes none.
    pub(crate) fn signal(self, signal: Signal) {
        if let Some(signal) = rustix::process::Signal::from_named_raw(signal as i32) {
            let _gone = kill_process_group(self.0, signal);
        }
    }

    /// The next thing that happened to its leader, if something did. One that has ended is not
    /// reaped, so that nobody else gets its number.
    pub(crate) fn change(self) -> Option<Change> {
        let stopped = || self.wait(WaitIdOptions::STOPPED);
        self.ended().or_else(stopped).and_then(Change::of)
    }

    /// What has stopped its leader, if [`Group::change`] has yet to tell.
    pub(crate) fn stopped_by(self) -> Option<Signal> {
        let stopped = self.wait(WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT)?;
        Signal::try_from(stopped.stopping_signal()?).ok()
    }

    fn ended(self) -> Option<WaitIdStatus> {
        self.wait(WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
    }

    fn wait(self, options: WaitIdOptions) -> Option<WaitIdStatus> {
        waitid(WaitId::Pid(self.0), options | WaitIdOptions::NOHANG).ok().flatten()
    }

    /// Reaps the children that have ended and are not the leader.
    pub(crate) fn reap_others(self) {
        loop {
            match self.next_ended() {
                Ended::Nobody => return,
                Ended::Other(pid) => reap(pid),
                Ended::Unclear => return self.reap_hidden(),
            }
        }
    }

    fn next_ended(self) -> Ended {
        const LOOK: WaitPidFlag =
            WaitPidFlag::WEXITED.union(WaitPidFlag::WNOHANG).union(WaitPidFlag::WNOWAIT);
        match peek(Id::All, LOOK).map(|ended| ended.pid()) {
            Ok(Some(pid)) if pid.as_raw() == self.number() => Ended::Unclear,
            Ok(pid) => {
                let pid = pid.and_then(|pid| Pid::from_raw(pid.as_raw()));
                pid.map_or(Ended::Nobody, Ended::Other)
            }
            // By a signal that has no name.
            Err(nix::errno::Errno::EINVAL) => Ended::Unclear,
            Err(_) => Ended::Nobody,
        }
    }

    /// Those whom the kernel does not show, since it shows another one first.
    fn reap_hidden(self) {
        let is_other = |one: &Process| one.is_our_child() && one.pid != self.0;
        let dead = Process::all().filter(|one| one.is_dead && is_other(one));
        dead.for_each(|one| reap(one.pid));
    }

    /// Reaps all that has ended. From now on the number may be another's.
    pub(crate) fn give_up(self) {
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
    }
}

/// Reaps a child that has ended.
pub(crate) fn reap(child: Pid) {
    let _another_did =
        waitid(WaitId::Pid(child), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
}

impl Change {
    fn of(status: WaitIdStatus) -> Option<Self> {
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
