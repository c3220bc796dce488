//! The messages of `gpulock run` on standard error: lines, and on a terminal one progress
//! line that is redrawn in place.
//!
//! A separate thread writes them: standard error may be a pipe that is not read or a terminal
//! that is stopped, and nothing else may block on that.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::write;
use ratatui::crossterm::terminal::window_size;

use crate::fit::fitting;
use crate::term;

/// Number of lines that may be pending; further lines are dropped.
const MAX_PENDING: usize = 64;

/// How long [`Stderr::flush`] waits at most.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// Standard error, shared by threads.
#[derive(Clone, Debug)]
pub(crate) struct Stderr {
    quiet: bool,
    progress: Arc<Mutex<Progress>>,
    writer: SyncSender<Job>,
}

/// State of the progress line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    None,
    Drawn,
    /// The wait is over; no more progress is shown.
    Finished,
}

/// A job of the writer thread.
enum Job {
    Write(String),
    /// Send a message back once all earlier jobs are done.
    Flush(SyncSender<()>),
}

impl Stderr {
    /// Starts the writer. With `quiet`, only errors are written.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(crate) fn start(quiet: bool) -> Result<Self> {
        let (writer, jobs) = sync_channel(MAX_PENDING);
        let thread = thread::Builder::new().name("writer".to_owned());
        thread.spawn(move || write_all(&jobs)).context("failed to start a thread")?;
        let progress = Arc::new(Mutex::new(Progress::None));
        Ok(Self { quiet, progress, writer })
    }

    /// Writes a line, unless `quiet`.
    pub(crate) fn info(&self, line: &str) {
        if !self.quiet {
            self.error(line);
        }
    }

    /// Writes a line even with `quiet`.
    pub(crate) fn error(&self, line: &str) {
        self.update(|progress| {
            let cleared = progress.clear();
            format!("{cleared}gpulock: {line}\n")
        });
    }

    /// Shows progress: on a terminal that can erase, it replaces the last progress line, elsewhere
    /// it is written only once. `short` is for a narrow terminal. Returns whether more progress is
    /// wanted.
    pub(crate) fn progress(&self, line: &str, short: &str) -> bool {
        if self.quiet {
            return false;
        }
        let is_redrawn = io::stderr().is_terminal() && !term::is_dumb();
        let text = match is_redrawn {
            true => cut_to_terminal(line, short),
            false => format!("gpulock: {line}\n"),
        };
        let mut more = false;
        self.update(|progress| {
            if *progress == Progress::Finished {
                return String::new();
            }
            more = is_redrawn;
            let cleared = progress.clear();
            *progress = if is_redrawn { Progress::Drawn } else { Progress::Finished };
            format!("{cleared}{text}")
        });
        more
    }

    /// Erases the progress line; the next [`Stderr::progress`] draws it again.
    pub(crate) fn clear_progress(&self) {
        self.update(|progress| progress.clear().to_owned());
        self.flush();
    }

    /// A new wait begins: its progress is shown.
    pub(crate) fn begin_progress(&self) {
        self.update(|progress| {
            let cleared = progress.clear();
            *progress = Progress::None;
            cleared.to_owned()
        });
    }

    /// Erases the progress line for good. Returns whether a line remains that reported the
    /// beginning of the wait.
    pub(crate) fn end_progress(&self) -> bool {
        let mut remains = false;
        self.update(|progress| {
            let cleared = progress.clear();
            remains = *progress == Progress::Finished;
            *progress = Progress::Finished;
            cleared.to_owned()
        });
        self.flush();
        remains
    }

    /// Waits until everything is written, but not indefinitely: standard error may not be
    /// read.
    pub(crate) fn flush(&self) {
        let (done, is_done) = sync_channel(1);
        if self.writer.try_send(Job::Flush(done)).is_ok() {
            let _timed_out = is_done.recv_timeout(FLUSH_TIMEOUT);
        }
    }

    fn update(&self, text: impl FnOnce(&mut Progress) -> String) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let text = text(&mut progress);
        if !text.is_empty() {
            let _dropped = self.writer.try_send(Job::Write(text));
        }
    }
}

impl Progress {
    /// Returns the text that erases the line.
    fn clear(&mut self) -> &'static str {
        match self {
            Self::Drawn => {
                *self = Self::None;
                "\r\x1b[K"
            }
            Self::None | Self::Finished => "",
        }
    }
}

fn write_all(jobs: &Receiver<Job>) {
    for job in jobs {
        match job {
            Job::Write(text) => write_text(text.as_bytes()),
            // The receiver may have timed out.
            Job::Flush(done) => drop(done.send(())),
        }
    }
}

/// Writes a line from the calling thread, unless that would block.
pub(crate) fn write_line_if_ready(line: &str) {
    let stderr = io::stderr();
    let mut polled = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut polled, PollTimeout::ZERO).is_ok_and(|ready| ready > 0) {
        write_text(format!("gpulock: {line}\n").as_bytes());
    }
}

/// Bypasses `std::io::Stderr`, whose lock would be held while the write blocks.
fn write_text(mut text: &[u8]) {
    while !text.is_empty() {
        match write(io::stderr(), text) {
            Ok(written) => text = text.get(written..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            // Standard error is closed.
            Err(_) => return,
        }
    }
}

/// The part of the line that fits the terminal's width; of `short` if the terminal is narrow.
fn cut_to_terminal(line: &str, short: &str) -> String {
    const UNKNOWN: usize = 80;
    const NARROW: usize = 40;
    let width = window_size().map_or(0, |size| usize::from(size.columns));
    let width = if width == 0 { UNKNOWN } else { width };
    let line = if width < NARROW { short } else { &format!("gpulock: {line}") };
    // The cursor stays on the line.
    fitting(line.chars(), width.saturating_sub(1))
}
