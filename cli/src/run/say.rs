//! What `gpulock run` itself says, on standard error: lines, and on a terminal one line of
//! progress that is drawn anew in place. What it is about stands elsewhere.
//!
//! A thread of its own writes: standard error may be a pipe that nobody reads, or a terminal
//! that somebody holds up, and nothing else is to wait for that.

use std::io::{self, IsTerminal};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::write;
use rustix::termios::tcgetwinsize;

use crate::fit::fitting;

/// How many lines may wait to be written; more are dropped.
const WAITING: usize = 64;

/// How long to wait until what was said is written.
const PATIENCE: Duration = Duration::from_millis(500);

/// Standard error, shared by threads.
#[derive(Clone, Debug)]
pub(crate) struct Voice {
    quiet: bool,
    progress: Arc<Mutex<Progress>>,
    writer: SyncSender<Job>,
}

/// The line of progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    None,
    Drawn,
    /// There is nothing to wait for any more.
    Over,
}

/// What the writing thread is to do.
enum Job {
    Write(String),
    /// To answer when all before is written.
    Answer(SyncSender<()>),
}

impl Voice {
    /// One that says nothing but complaints when it is `quiet`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn start(quiet: bool) -> Result<Self> {
        let (writer, jobs) = sync_channel(WAITING);
        let thread = thread::Builder::new().name("writer".to_owned());
        thread.spawn(move || write_all(&jobs)).context("no thread")?;
        let progress = Arc::new(Mutex::new(Progress::None));
        Ok(Self { quiet, progress, writer })
    }

    /// Says a line.
    pub(crate) fn say(&self, line: &str) {
        if !self.quiet {
            self.complain(line);
        }
    }

    /// Says a line even when it is to be quiet.
    pub(crate) fn complain(&self, line: &str) {
        self.change(|progress| {
            let cleared = progress.clear();
            format!("{cleared}gpulock: {line}\n")
        });
    }

    /// Says how far a wait is: on a terminal in place of what was said before. Whether there
    /// is more to be said.
    pub(crate) fn report(&self, line: &str) -> bool {
        if self.quiet {
            return false;
        }
        let line = format!("gpulock: {line}");
        let is_drawn = io::stderr().is_terminal();
        let text = if is_drawn { cut_to_terminal(&line) } else { format!("{line}\n") };
        let mut more = false;
        self.change(|progress| {
            if *progress == Progress::Over {
                return String::new();
            }
            more = is_drawn;
            let cleared = progress.clear();
            *progress = if is_drawn { Progress::Drawn } else { Progress::Over };
            format!("{cleared}{text}")
        });
        more
    }

    /// Takes the line of progress away, until the next report.
    pub(crate) fn clear(&self) {
        self.change(|progress| progress.clear().to_owned());
        self.finish();
    }

    /// Ends the reports, and takes the line of progress away.
    pub(crate) fn end_reports(&self) {
        self.change(|progress| {
            let cleared = progress.clear();
            *progress = Progress::Over;
            cleared.to_owned()
        });
        self.finish();
    }

    /// Waits until what was said is written, but not for somebody who does not read.
    pub(crate) fn finish(&self) {
        let (answer, answered) = sync_channel(1);
        if self.writer.try_send(Job::Answer(answer)).is_ok() {
            let _unread = answered.recv_timeout(PATIENCE);
        }
    }

    fn change(&self, text: impl FnOnce(&mut Progress) -> String) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let text = text(&mut progress);
        if !text.is_empty() {
            let _unread = self.writer.try_send(Job::Write(text));
        }
    }
}

impl Progress {
    /// What takes the line away.
    fn clear(&mut self) -> &'static str {
        match self {
            Self::Drawn => {
                *self = Self::None;
                "\r\x1b[K"
            }
            Self::None | Self::Over => "",
        }
    }
}

fn write_all(jobs: &Receiver<Job>) {
    for job in jobs {
        match job {
            Job::Write(text) => write_text(text.as_bytes()),
            // Who asked may have gone on.
            Job::Answer(written) => drop(written.send(())),
        }
    }
}

/// Says a line at once, unless somebody would have to read before.
pub(crate) fn say_if_read(line: &str) {
    let stderr = io::stderr();
    let mut polled = [PollFd::new(&stderr, PollFlags::OUT)];
    if poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0) {
        write_text(format!("gpulock: {line}\n").as_bytes());
    }
}

/// Not through `Stderr`, whose lock would be held for as long as nobody reads.
fn write_text(mut text: &[u8]) {
    while !text.is_empty() {
        match write(io::stderr(), text) {
            Ok(written) => text = text.get(written..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            // Whoever closed standard error wants to hear nothing.
            Err(_) => return,
        }
    }
}

/// As much as fits into one line.
fn cut_to_terminal(line: &str) -> String {
    const UNKNOWN: usize = 80;
    let width = tcgetwinsize(io::stderr()).map_or(0, |size| usize::from(size.ws_col));
    let room = if width == 0 { UNKNOWN } else { width }.saturating_sub(1);
    fitting(line.chars(), room)
}
