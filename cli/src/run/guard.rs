//! The guard: a process that kills the command's group when `gpulock` does not, because it
//! was killed, stopped or hangs. It learns over a pipe until when the group may run; the
//! end of the pipe without a goodbye is the end of `gpulock`.
//!
//! ```text
//! gpulock ──8 bytes: the moment to kill──> guard        0: goodbye
//!    └──────────── starts ──> command <──── KILL ──┘
//! ```

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionbio;

use crate::clock::{self, Moment};
use crate::run::child::{Group, THIS_PROGRAM, group};
use crate::run::{signals, strays};

/// The name of the hidden subcommand that is the guard.
pub(crate) const HELPER: &str = "__guard";

/// Said when the group needs no guard any more.
const GOODBYE: u64 = 0;

/// How long the guard sleeps at most: a machine that was suspended does not count the
/// sleep.
const TICK: Duration = Duration::from_secs(1);

/// The arguments of the hidden subcommand.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The process group to kill
    group: u32,
    /// The owner that others to kill have in their environment
    owner: String,
}

/// `gpulock`'s end of the pipe.
#[derive(Debug)]
pub(crate) struct Guard {
    pipe: PipeWriter,
    told: u64,
}

impl Guard {
    /// Starts the guard of a group that may run until `kill`.
    ///
    /// # Errors
    /// When no process can be started.
    pub(crate) fn start(over: Group, owner: &str, kill: Moment) -> Result<Self> {
        let (theirs, ours) = io::pipe().context("no pipe")?;
        // A guard that is stopped reads nothing: never wait for it.
        ioctl_fionbio(&ours, true)?;
        Command::new(THIS_PROGRAM)
            .arg0("gpulock")
            .arg(HELPER)
            .arg("--")
            .arg(over.pid().as_raw_nonzero().to_string())
            .arg(owner)
            .process_group(0)
            // Nobody else's guard is to take this one for one of those whom it kills.
            .env_clear()
            .current_dir("/")
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("no process")?;
        let mut guard = Self { pipe: ours, told: GOODBYE };
        guard.tell(kill);
        Ok(guard)
    }

    /// Tells until when the group may run.
    pub(crate) fn tell(&mut self, kill: Moment) {
        let millis = u64::try_from(kill.as_millis()).unwrap_or(u64::MAX);
        self.say(millis.max(1));
    }

    /// Tells that the group has ended.
    pub(crate) fn dismiss(mut self) {
        self.say(GOODBYE);
    }

    fn say(&mut self, word: u64) {
        if word != self.told || word == GOODBYE {
            // Should the guard be gone, the command still dies with `gpulock`.
            let _gone = self.pipe.write_all(&word.to_ne_bytes());
            self.told = word;
        }
    }
}

/// Stands guard over a group, with standard input as the pipe.
///
/// # Errors
/// When signals cannot be blocked, or the group is none.
pub(crate) fn stand(args: &Args) -> Result<ExitCode> {
    // What ends `gpulock` or the command must not end this first.
    signals::block()?;
    let over = group(args.group)?;
    // Not through `Stdin`, whose buffer `poll` knows nothing of.
    let pipe = PipeReader::from(io::stdin().as_fd().try_clone_to_owned()?);
    if !is_dismissed(pipe) {
        end(over, &args.owner);
    }
    Ok(ExitCode::SUCCESS)
}

/// Kills, again for those that were just being started.
fn end(group: Group, owner: &str) {
    const ROUNDS: u32 = 50;
    for _ in 0..ROUNDS {
        group.signal(Signal::SIGKILL);
        strays::signal(owner, Signal::SIGKILL);
        if !group.is_alive() && strays::of(owner).next().is_none() {
            return;
        }
        sleep(TICK / ROUNDS);
    }
}

/// Listens until the goodbye; false: the time is over, or `gpulock` is gone.
fn is_dismissed(mut pipe: PipeReader) -> bool {
    let mut kill = Moment::MAX;
    loop {
        let left = kill.saturating_sub(clock::now());
        if left.is_zero() {
            return false;
        }
        if !is_readable(&pipe, left.min(TICK)) {
            continue;
        }
        let mut word = [0; size_of::<u64>()];
        match pipe.read_exact(&mut word).map(|()| u64::from_ne_bytes(word)) {
            Ok(GOODBYE) => return true,
            Ok(millis) => kill = Moment::from_millis(millis),
            Err(_) => return false,
        }
    }
}

fn is_readable(pipe: &PipeReader, within: Duration) -> bool {
    let within = Timespec::try_from(within).ok();
    let mut polled = [PollFd::new(pipe, PollFlags::IN)];
    poll(&mut polled, within.as_ref()).is_ok_and(|ready| ready > 0)
}
