//! The terminal: taken for the picture, and given back as it was however it ends; by
//! return, error, panic, or one of the signals that end a program.

use std::io;
use std::process;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use ratatui::{DefaultTerminal, Frame};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

/// How long a signal waits for a picture that is being drawn, in steps of a few ms.
const STEPS: usize = 100;
const STEP: Duration = Duration::from_millis(5);

/// The terminal in raw mode, on its other screen. Dropping it gives it back.
pub(crate) struct Screen {
    terminal: DefaultTerminal,
    /// Whose turn it is to write to the terminal.
    turn: Arc<Mutex<()>>,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// When there is none, or the signals cannot be caught.
    pub(crate) fn take() -> io::Result<Self> {
        let signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM])?;
        let turn = Arc::new(Mutex::new(()));
        match ratatui::try_init() {
            Ok(terminal) => {
                end_at_a_signal(signals, Arc::clone(&turn));
                Ok(Self { terminal, turn })
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
        let _turn = self.turn.lock().map_err(|_| io::Error::other("a picture broke"))?;
        self.terminal.draw(picture).map(|_| ())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// A thread of its own, for the main one may be kept by a terminal that is gone: crossterm
/// reads there without an end.
fn end_at_a_signal(mut signals: Signals, turn: Arc<Mutex<()>>) {
    thread::spawn(move || {
        let Some(signal) = signals.forever().next() else { return };
        // What is drawn now goes first, and nothing is drawn after.
        let _turn = (0..STEPS).find_map(|_| {
            let turn = turn.try_lock().ok();
            if turn.is_none() {
                thread::sleep(STEP);
            }
            turn
        });
        give_back();
        process::exit(128 + signal);
    });
}

fn give_back() {
    // A terminal that is gone cannot be given back, and nobody is there to be told.
    let _ = ratatui::try_restore();
}
