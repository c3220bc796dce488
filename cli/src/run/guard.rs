//! The guard: a process that kills the command when `gpulock` does not, because it was killed,
//! stopped or hangs. It is there before the command is, and learns over a pipe whom to kill
//! and until when they may run; the end of the pipe is the end of `gpulock`.
//!
//! ```text
//! gpulock ──16 bytes: whom, and when to kill──> guard
//!    └──────────── starts ──> command <──── KILL ──┘
//! ```

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionbio;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use rustix::thread::set_name;

use crate::clock::{self, Moment};
use crate::run::child::{Group, THIS_PROGRAM};
use crate::run::{crew, signals};

/// The name of the hidden subcommand that is the guard.
pub(crate) const HELPER: &str = "__guard";

/// How long the guard sleeps at most: a machine that was suspended does not count the
/// sleep.
const TICK: Duration = Duration::from_secs(1);

/// The arguments of the hidden subcommand.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The owner that others to kill have in their environment
    owner: String,
}

/// `gpulock`'s end of the pipe.
#[derive(Debug)]
pub(crate) struct Guard {
    owner: String,
    pipe: PipeWriter,
    pid: Pid,
    told: Word,
}

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word {
    /// The command's, once it is there.
    group: Option<Group>,
    kill: Moment,
}

impl Guard {
    /// Starts the guard of a command that may run until `kill`.
    ///
    /// # Errors
    /// When no process can be started.
    pub(crate) fn start(owner: &str, kill: Moment) -> Result<Self> {
        let (theirs, ours) = io::pipe().context("no pipe")?;
        // A guard that is stopped reads nothing: never wait for it.
        ioctl_fionbio(&ours, true)?;
        let process = Command::new(THIS_PROGRAM)
            .arg0("gpulock")
            .arg(HELPER)
            .arg("--")
            .arg(owner)
            .process_group(0)
            // Nobody is to take it for one of those whom it kills: it has an environment, and no
            // owner in it.
            .env_clear()
            .env("GPULOCK", "guard")
            .current_dir("/")
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("no process")?;
        let (owner, pid) = (owner.to_owned(), Pid::from_child(&process));
        let mut guard = Self { owner, pipe: ours, pid, told: Word::NOTHING };
        guard.say(Word { group: None, kill });
        Ok(guard)
    }

    /// Whether somebody killed it.
    pub(crate) fn has_ended(&self) -> bool {
        let look = WaitIdOptions::NOHANG | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        !matches!(waitid(WaitId::Pid(self.pid), look), Ok(None))
    }

    /// Starts another one in place of one that has ended.
    ///
    /// # Errors
    /// When no process can be started.
    pub(crate) fn start_again(&mut self) -> Result<()> {
        let told = self.told;
        *self = Self::start(&self.owner, told.kill)?;
        self.say(told);
        Ok(())
    }

    /// Tells whose end it is about.
    pub(crate) fn watch_over(&mut self, group: Group) {
        self.say(Word { group: Some(group), ..self.told });
    }

    /// Tells until when they may run. Not each moment more: what a guard that is stopped does
    /// not read is to fit into the pipe.
    pub(crate) fn tell(&mut self, kill: Moment) {
        let left = |kill: Moment| kill.saturating_sub(clock::now());
        if kill < self.told.kill || left(self.told.kill) <= left(kill) / 2 {
            self.say(Word { kill, ..self.told });
        }
    }

    /// Ends it, now that all have ended: it is not to meet who comes after them.
    pub(crate) fn dismiss(self) {
        if !self.has_ended() {
            // Not reaped yet, and so nobody else.
            let _ended = kill_process(self.pid, Signal::KILL);
            let _reaped = waitid(WaitId::Pid(self.pid), WaitIdOptions::EXITED);
        }
    }

    fn say(&mut self, word: Word) {
        if word != self.told && self.pipe.write_all(&word.bytes()).is_ok() {
            self.told = word;
        }
    }
}

impl Word {
    const SIZE: usize = 2 * size_of::<u64>();
    const NOTHING: Self = Self { group: None, kill: Moment::MAX };

    fn bytes(self) -> [u8; Self::SIZE] {
        let group = self.group.map_or(0, Group::number);
        let kill = clock::millis(self.kill);
        (u128::from(kill) << 64 | u128::from(group.unsigned_abs())).to_ne_bytes()
    }

    fn read(from: &mut PipeReader) -> io::Result<Self> {
        let mut bytes = [0; Self::SIZE];
        from.read_exact(&mut bytes)?;
        let word = u128::from_ne_bytes(bytes);
        let (kill, group) = ((word >> 64) as u64, word as u32);
        let leader = i32::try_from(group).ok().and_then(Pid::from_raw);
        Ok(Self { group: leader.map(Group::led_by), kill: Moment::from_millis(kill) })
    }
}

/// Stands guard, with standard input as the pipe.
///
/// # Errors
/// When signals cannot be blocked, or there is no pipe.
pub(crate) fn stand(args: &Args) -> Result<ExitCode> {
    // What ends `gpulock` or the command must not end this first.
    signals::block()?;
    set_name(c"gpulock")?;
    // Not through `Stdin`, whose buffer `poll` knows nothing of.
    let pipe = PipeReader::from(io::stdin().as_fd().try_clone_to_owned()?);
    let last = listen(pipe);
    end(last.group, &args.owner);
    Ok(ExitCode::SUCCESS)
}

/// Listens until the time is over or `gpulock` is gone, and answers what it said last.
fn listen(mut pipe: PipeReader) -> Word {
    let mut last = Word::NOTHING;
    loop {
        // All of it first: who was stopped meanwhile has old words before new ones.
        while is_readable(&pipe, Duration::ZERO) {
            match Word::read(&mut pipe) {
                Ok(word) => last = word,
                Err(_) => return last,
            }
        }
        let left = last.kill.saturating_sub(clock::now());
        if left.is_zero() {
            return last;
        }
        is_readable(&pipe, left.min(TICK));
    }
}

fn is_readable(pipe: &PipeReader, within: Duration) -> bool {
    let within = Timespec::try_from(within).ok();
    let mut polled = [PollFd::new(pipe, PollFlags::IN)];
    poll(&mut polled, within.as_ref()).is_ok_and(|ready| ready > 0)
}

/// Kills, again for those that were just being started and those that show nothing while they
/// become another program, until nobody was seen for a while.
fn end(mut group: Option<Group>, owner: &str) {
    const ROUNDS: u32 = 100;
    const UNSEEN: u32 = 10;
    let mut unseen = 0;
    for _ in 0..ROUNDS {
        let (some, of_group) = crew::kill_orphans(group, owner);
        group = group.filter(|_| of_group);
        unseen = if some { 0 } else { unseen + 1 };
        if unseen == UNSEEN {
            return;
        }
        sleep(TICK / ROUNDS);
    }
}
