//! Starts the command, through a helper process that makes sure that it cannot outlive
//! `gpulock` and is not started too late.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::prctl::{set_child_subreaper, set_pdeathsig};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getpid, getppid};

use crate::act::reservation::RESERVED;
use crate::clock::{self, Moment};
use crate::locks::Variable;
use crate::run::environment::Environment;
use crate::run::process_group::ProcessGroup;
use crate::run::stderr::write_line_if_ready;
use crate::server::credentials::secret_variables;

/// Name of the hidden subcommand that becomes the command.
pub(crate) const HELPER: &str = "__child";

/// This program, even if its file was replaced or deleted.
pub(crate) const THIS_PROGRAM: &str = "/proc/self/exe";

/// Exit statuses as in a shell.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// The arguments of the hidden subcommand.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The process that must be alive
    parent: i32,
    /// The latest start, in milliseconds of the clock
    latest_start: u64,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Starts a command in a new process group, with these changes to the environment, and without
/// passwords in it, unless `latest_start` has passed. The command is killed when the calling thread
/// ends.
/// Processes that it orphans become children of this process.
///
/// # Errors
/// If no process can be started. If the command does not exist, it ends with status 127.
pub(crate) fn start(
    command: &[OsString],
    env: &Environment,
    latest_start: Moment,
) -> Result<ProcessGroup> {
    set_child_subreaper(true)
        .map_err(io::Error::from)
        .context("failed to become a subreaper")?;
    let mut helper = Command::new(THIS_PROGRAM);
    helper.arg0("gpulock").arg(HELPER);
    helper.arg(getpid().to_string());
    helper.arg(clock::millis(latest_start).to_string());
    helper.arg("--").args(command);
    // The locks in the environment of the command are not those of a reservation.
    helper.env_remove(RESERVED);
    change_environment(&mut helper, secret_variables().iter().chain(env));
    let child = helper.process_group(0).spawn().context("failed to start a process")?;
    Ok(ProcessGroup::led_by(Pid::from_raw(child.id().cast_signed())))
}

/// Replaces this process with the command, unless the parent is gone or it is too late.
///
/// # Errors
/// If the arguments are invalid or the parent is gone.
pub(crate) fn become_command(args: &Args) -> Result<ExitCode> {
    // The kernel sends the signal only for a parent that ends from now on: check it afterwards.
    set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from)?;
    if getppid() != Pid::from_raw(args.parent) {
        bail!("the parent process is gone");
    }
    unblock_signals()?;
    let Some(program) = args.command.first() else { bail!("no command") };
    // This process, or the machine, may have been stopped in the meantime.
    if clock::now() >= Duration::from_millis(args.latest_start) {
        let name = program.display();
        write_line_if_ready(&format!("{name} not started: the locks may be lost"));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::from(execute(&args.command)))
}

/// Unblocks all signals, so that the command starts with none blocked. Signals that came in the
/// meantime take effect now.
///
/// # Errors
/// If that fails.
pub(crate) fn unblock_signals() -> Result<()> {
    SigSet::empty().thread_set_mask().context("failed to unblock signals")
}

/// Replaces this process with the command, which inherits the blocked signals, but no passwords.
/// Returns the status of a shell if that fails.
pub(crate) fn execute(command: &[OsString]) -> u8 {
    let Some((program, rest)) = command.split_first() else { return NOT_FOUND };
    let mut command = Command::new(program);
    change_environment(&mut command, &secret_variables());
    let error = command.args(rest).exec();
    let name = program.display();
    write_line_if_ready(&format!("failed to start {name}: {error}"));
    match error.kind() {
        ErrorKind::NotFound => NOT_FOUND,
        _ => NOT_EXECUTABLE,
    }
}

fn change_environment<'a>(
    command: &mut Command,
    changes: impl IntoIterator<Item = &'a Variable>,
) {
    for (name, value) in changes {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
}
