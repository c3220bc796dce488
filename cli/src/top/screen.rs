//! The terminal: set up for the screen, and restored however the program ends: by return, error,
//! panic, or a signal.

use std::io::{self, stdout};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::{DefaultTerminal, Frame};

use super::signals;

/// How long a signal waits for a frame that is being drawn: this number of steps.
const STEPS: usize = 100;
const STEP: Duration = Duration::from_millis(5);

/// The terminal in raw mode, on the alternate screen. Dropping it restores the terminal.
pub(crate) struct Screen {
    terminal: DefaultTerminal,
    shared: Arc<Shared>,
}

/// Shared by drawing and signal handling.
#[derive(Default)]
pub(crate) struct Shared {
    /// Locked while writing to the terminal.
    writing: Mutex<()>,
    /// Whether the screen may show something other than the last frame.
    is_dirty: AtomicBool,
}

/// While this exists, the terminal is restored and nothing is drawn. None inside: a frame that
/// was being drawn did not complete in time.
pub(crate) struct Released<'a> {
    _writing: Option<MutexGuard<'a, ()>>,
}

impl Screen {
    /// Sets up the terminal. Threads that were started earlier do not block the signals.
    ///
    /// # Errors
    /// If there is no terminal, or the signals cannot be blocked.
    pub(crate) fn open() -> io::Result<Self> {
        let blocked = signals::block()?;
        let shared = Arc::new(Shared::default());
        match ratatui::try_init() {
            Ok(terminal) => {
                signals::handle(blocked, Arc::clone(&shared));
                Ok(Self { terminal, shared })
            }
            Err(error) => {
                restore();
                Err(error)
            }
        }
    }

    /// Draws a frame.
    ///
    /// # Errors
    /// If the terminal is gone.
    pub(crate) fn draw(&mut self, frame: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        let panicked = |_| io::Error::other("drawing panicked");
        let _writing = self.shared.writing.lock().map_err(panicked)?;
        if self.shared.is_dirty.swap(false, Ordering::Relaxed) {
            // Unlike `clear`, this does not query the terminal.
            self.terminal.resize(self.terminal.size()?.into())?;
        }
        self.terminal.draw(frame).map(|_| ())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

impl Shared {
    /// Restores the terminal, after the frame that is being drawn.
    pub(crate) fn release(&self) -> Released<'_> {
        let released = self.stop_drawing();
        restore();
        released
    }

    /// Sets up the terminal again, also if it was not released before.
    pub(crate) fn resume<'a>(&'a self, released: Option<Released<'a>>) {
        let _released = released.unwrap_or_else(|| self.stop_drawing());
        set_up_again();
        self.is_dirty.store(true, Ordering::Relaxed);
    }

    fn stop_drawing(&self) -> Released<'_> {
        let _writing = (0..STEPS).find_map(|_| {
            let writing = self.writing.try_lock().ok();
            if writing.is_none() {
                thread::sleep(STEP);
            }
            writing
        });
        Released { _writing }
    }
}

fn set_up_again() {
    // After SIGSTOP the terminal was not restored, and its mode may have changed since: disable
    // raw mode first so that crossterm sets it again. Errors mean that the terminal is gone.
    let _ = disable_raw_mode();
    let _ = enable_raw_mode();
    let _ = execute!(stdout(), EnterAlternateScreen);
}

fn restore() {
    // Errors mean that the terminal is gone.
    let _ = ratatui::try_restore();
    let _ = execute!(stdout(), Show);
}
