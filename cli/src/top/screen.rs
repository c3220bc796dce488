//! The terminal: taken for the picture, and given back as it was however it ends; by
//! return, error, panic, or one of the signals in signals.rs.

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

/// How long a signal waits for a picture that is being drawn, in steps of a few ms.
const STEPS: usize = 100;
const STEP: Duration = Duration::from_millis(5);

/// The terminal in raw mode, on its other screen. Dropping it gives it back.
pub(crate) struct Screen {
    terminal: DefaultTerminal,
    shared: Arc<Shared>,
}

/// What pictures and signals have in common.
#[derive(Default)]
pub(crate) struct Shared {
    /// Whose turn it is to write to the terminal.
    turn: Mutex<()>,
    /// Whether something else may stand on the screen than what was drawn last.
    is_strange: AtomicBool,
}

/// The terminal is not ours, and nothing is drawn on it. None inside: who draws does not
/// come to an end.
pub(crate) struct Away<'a> {
    _turn: Option<MutexGuard<'a, ()>>,
}

impl Screen {
    /// Takes the terminal. Threads that are started before would not know of the signals.
    ///
    /// # Errors
    /// When there is none, or the signals cannot be held.
    pub(crate) fn take() -> io::Result<Self> {
        let held = signals::hold()?;
        let shared = Arc::new(Shared::default());
        match ratatui::try_init() {
            Ok(terminal) => {
                signals::obey(held, Arc::clone(&shared));
                Ok(Self { terminal, shared })
            }
            Err(error) => {
                give_back();
                Err(error)
            }
        }
    }

    /// Draws a picture.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(crate) fn draw(
        &mut self,
        picture: impl FnOnce(&mut Frame<'_>),
    ) -> io::Result<()> {
        let broke = |_| io::Error::other("a picture broke");
        let _turn = self.shared.turn.lock().map_err(broke)?;
        if self.shared.is_strange.swap(false, Ordering::Relaxed) {
            // Clears it, and asks nothing of the terminal, as `clear` would.
            self.terminal.resize(self.terminal.size()?.into())?;
        }
        self.terminal.draw(picture).map(|_| ())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

impl Shared {
    /// Gives the terminal back, after what is drawn now.
    pub(crate) fn leave(&self) -> Away<'_> {
        let away = self.stand_still();
        give_back();
        away
    }

    /// Takes the terminal again, from where we were if that is known.
    pub(crate) fn come_back<'a>(&'a self, away: Option<Away<'a>>) {
        let _away = away.unwrap_or_else(|| self.stand_still());
        take_again();
        self.is_strange.store(true, Ordering::Relaxed);
    }

    fn stand_still(&self) -> Away<'_> {
        let _turn = (0..STEPS).find_map(|_| {
            let turn = self.turn.try_lock().ok();
            if turn.is_none() {
                thread::sleep(STEP);
            }
            turn
        });
        Away { _turn }
    }
}

fn take_again() {
    // Who stopped us by SIGSTOP left us no time to give the terminal back: what crossterm
    // knows of its mode may be over. And a terminal that is gone cannot be taken.
    let _ = disable_raw_mode();
    let _ = enable_raw_mode();
    let _ = execute!(stdout(), EnterAlternateScreen);
}

fn give_back() {
    // A terminal that is gone cannot be given back, and nobody is there to be told.
    let _ = ratatui::try_restore();
    let _ = execute!(stdout(), Show);
}
