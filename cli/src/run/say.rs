//! What `gpulock run` itself says, on standard error: lines, and on a terminal one line of
//! progress that is drawn anew in place. What it is about stands elsewhere.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::termios::tcgetwinsize;

/// Standard error, shared by threads.
#[derive(Clone, Debug)]
pub(crate) struct Voice {
    quiet: bool,
    progress: Arc<Mutex<Progress>>,
}

/// The line of progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    None,
    Drawn,
    /// There is nothing to wait for any more.
    Over,
}

impl Voice {
    /// One that says nothing when it is `quiet`.
    pub(crate) fn new(quiet: bool) -> Self {
        Self { quiet, progress: Arc::new(Mutex::new(Progress::None)) }
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
    }

    /// Ends the reports, and takes the line of progress away.
    pub(crate) fn end_reports(&self) {
        self.change(|progress| {
            let cleared = progress.clear();
            *progress = Progress::Over;
            cleared.to_owned()
        });
    }

    fn change(&self, text: impl FnOnce(&mut Progress) -> String) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever closed standard error wants to hear nothing.
        let _closed = io::stderr().write_all(text(&mut progress).as_bytes());
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

/// As much as fits into one line.
fn cut_to_terminal(line: &str) -> String {
    let width = tcgetwinsize(io::stderr()).map_or(0, |size| usize::from(size.ws_col));
    line.chars().take(width.saturating_sub(1)).collect()
}
