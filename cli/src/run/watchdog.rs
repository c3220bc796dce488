//! The watchdog: a process that kills the command if `gpulock` does not, because it was killed,
//! stopped, or hangs. It starts before the command, and receives over a pipe the process group
//! and the time at which to kill it. The end of the pipe means that `gpulock` has ended.
//!
//! Neither its name nor its command line contains `gpulock` or the name of the command:
//! `pkill -9 gpulock` and `pkill -9 -f train.py` must not kill it together with `gpulock`.
//!
//! ```text
//! gpulock ──16 bytes: process group, time──> watchdog
//!    └──────────── starts ──> command <──── KILL ──┘
//! ```

use std::ffi::{CStr, OsStr};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::prctl::set_name;
use nix::sys::signal::{self, Signal};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::clock::{self, Moment};
use crate::run::child::THIS_PROGRAM;
use crate::run::process_group::ProcessGroup;
use crate::run::{process_tree, signals};

/// Name of the hidden subcommand that is the watchdog.
pub(crate) const HELPER: &str = "__watchdog";

/// Name of the process.
const NAME: &CStr = c"lock-watchdog";

/// The environment variable with the owner.
const WATCHED: &str = "GPULOCK_WATCHED";

/// Maximum length of a sleep: time that the machine is suspended does not count towards it.
const TICK: Duration = Duration::from_secs(1);

/// The arguments of the hidden subcommand.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The owner in the environment of the processes to kill
    #[arg(long, env = WATCHED)]
    owner: String,
}

/// `gpulock`'s side of the watchdog.
#[derive(Debug)]
pub(crate) struct Watchdog {
    owner: String,
    pipe: PipeWriter,
    pid: Pid,
    sent: Message,
}

/// The content of the pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Message {
    /// The command's process group, once it is started.
    group: Option<ProcessGroup>,
    kill_at: Moment,
}

impl Watchdog {
    /// Starts a watchdog that kills at `kill_at`.
    ///
    /// # Errors
    /// If no process can be started.
    pub(crate) fn start(owner: &str, kill_at: Moment) -> Result<Self> {
        let (reader, writer) = io::pipe().context("failed to create a pipe")?;
        // A stopped watchdog does not read: a write must not block.
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(io::Error::from)?;
        let process = Command::new(THIS_PROGRAM)
            .arg0(OsStr::from_bytes(NAME.to_bytes()))
            .arg(HELPER)
            .process_group(0)
            // The environment marks the processes to kill: this one must not have the mark, and
            // must not be empty.
            .env_clear()
            .env(WATCHED, owner)
            .current_dir("/")
            .stdin(reader)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("failed to start the watchdog")?;
        let (owner, pid) = (owner.to_owned(), Pid::from_raw(process.id().cast_signed()));
        let mut watchdog = Self { owner, pipe: writer, pid, sent: Message::EMPTY };
        watchdog.send(Message { group: None, kill_at });
        Ok(watchdog)
    }

    /// Whether the process has ended.
    pub(crate) fn has_ended(&self) -> bool {
        let peek = WaitPidFlag::WNOHANG | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        waitid(Id::Pid(self.pid), peek) != Ok(WaitStatus::StillAlive)
    }

    /// Replaces a process that has ended.
    ///
    /// # Errors
    /// If no process can be started.
    pub(crate) fn restart(&mut self) -> Result<()> {
        let sent = self.sent;
        *self = Self::start(&self.owner, sent.kill_at)?;
        self.send(sent);
        Ok(())
    }

    /// Sets the process group to kill.
    pub(crate) fn watch(&mut self, group: ProcessGroup) {
        self.send(Message { group: Some(group), ..self.sent });
    }

    /// Sets the time of the kill. Later times are not all sent: the messages that a stopped
    /// watchdog does not read must fit into the pipe.
    pub(crate) fn set_deadline(&mut self, kill_at: Moment) {
        let left = |at: Moment| at.saturating_sub(clock::now());
        if kill_at < self.sent.kill_at || left(self.sent.kill_at) <= left(kill_at) / 2 {
            self.send(Message { kill_at, ..self.sent });
        }
    }

    /// Ends the watchdog after the command's processes have ended, before their numbers can be
    /// reused.
    pub(crate) fn dismiss(self) {
        if !self.has_ended() {
            // The process is not reaped yet, so its number is still its own.
            let _ended = signal::kill(self.pid, Signal::SIGKILL);
            let _reaped = waitid(Id::Pid(self.pid), WaitPidFlag::WEXITED);
        }
    }

    fn send(&mut self, message: Message) {
        if message != self.sent && self.pipe.write_all(&message.to_bytes()).is_ok() {
            self.sent = message;
        }
    }
}

impl Message {
    const SIZE: usize = 2 * size_of::<u64>();
    const EMPTY: Self = Self { group: None, kill_at: Moment::MAX };

    fn to_bytes(self) -> [u8; Self::SIZE] {
        let group = self.group.map_or(0, ProcessGroup::number);
        let kill_at = clock::millis(self.kill_at);
        (u128::from(kill_at) << 64 | u128::from(group.unsigned_abs())).to_ne_bytes()
    }

    fn read(from: &mut PipeReader) -> io::Result<Self> {
        let mut bytes = [0; Self::SIZE];
        from.read_exact(&mut bytes)?;
        let message = u128::from_ne_bytes(bytes);
        let (kill_at, group) = ((message >> 64) as u64, message as u32);
        let leader = i32::try_from(group).ok().filter(|group| *group > 0);
        let group = leader.map(Pid::from_raw).map(ProcessGroup::led_by);
        Ok(Self { group, kill_at: Moment::from_millis(kill_at) })
    }
}

/// Runs the watchdog, with standard input as the pipe.
///
/// # Errors
/// If signals cannot be blocked, or standard input cannot be duplicated.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    // A signal that ends `gpulock` or the command must not end the watchdog first.
    signals::block()?;
    set_name(NAME).map_err(io::Error::from)?;
    // Without the buffer of `Stdin`, which `poll` does not see.
    let pipe = PipeReader::from(io::stdin().as_fd().try_clone_to_owned()?);
    let last = receive(pipe);
    kill(last.group, &args.owner);
    Ok(ExitCode::SUCCESS)
}

/// Receives until the deadline passes or `gpulock` is gone. Returns the last message.
fn receive(mut pipe: PipeReader) -> Message {
    let mut last = Message::EMPTY;
    loop {
        // Read everything first: after a stop of this process, outdated messages are followed by
        // newer ones.
        while is_readable(&pipe, Duration::ZERO) {
            match Message::read(&mut pipe) {
                Ok(message) => last = message,
                Err(_) => return last,
            }
        }
        let left = last.kill_at.saturating_sub(clock::now());
        if left.is_zero() {
            return last;
        }
        is_readable(&pipe, left.min(TICK));
    }
}

fn is_readable(pipe: &PipeReader, within: Duration) -> bool {
    let mut polled = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    ppoll(&mut polled, Some(within.into()), None).is_ok_and(|ready| ready > 0)
}

/// Kills repeatedly, until no process was seen for several rounds: processes that are being
/// started, or are executing another program, may be invisible for a moment.
fn kill(mut group: Option<ProcessGroup>, owner: &str) {
    const MAX_ROUNDS: u32 = 100;
    const EMPTY_ROUNDS: u32 = 10;
    let mut empty = 0;
    for _ in 0..MAX_ROUNDS {
        let (some, some_in_group) = process_tree::kill_orphans(group, owner);
        group = group.filter(|_| some_in_group);
        empty = if some { 0 } else { empty + 1 };
        if empty == EMPTY_ROUNDS {
            return;
        }
        sleep(TICK / MAX_ROUNDS);
    }
}
