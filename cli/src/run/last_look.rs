//! The last look at the memory of the granted GPUs (`--min-free-mib`), right before the command
//! is started. The session's thread looks, since it knows the GPUs, and can go on to acquire
//! others. Until then, nothing else has begun that would have to be ended.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result};

/// How long the driver may take. It has just responded to the same query.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The side that starts the command.
#[derive(Debug)]
pub(crate) struct LastLook {
    question: SyncSender<()>,
    answer: Receiver<bool>,
}

/// The side that knows the GPUs.
#[derive(Debug)]
pub(crate) struct Looker {
    question: Receiver<()>,
    answer: SyncSender<bool>,
}

/// Both sides.
pub(crate) fn pair() -> (LastLook, Looker) {
    let (question, asked) = sync_channel(1);
    let (answer, answered) = sync_channel(1);
    (LastLook { question, answer: answered }, Looker { question: asked, answer })
}

impl LastLook {
    /// Whether the granted GPUs are still usable. If not, the other side releases their
    /// locks, and acquires others.
    ///
    /// # Errors
    /// If the driver hangs.
    pub(crate) fn finds_usable(&self) -> Result<bool> {
        let _ended = self.question.send(());
        self.answer
            .recv_timeout(TIMEOUT)
            .context("the driver of the GPUs does not respond")
    }
}

impl Looker {
    /// Waits for the question. False: the run is over.
    pub(crate) fn is_asked(&self) -> bool {
        self.question.recv().is_ok()
    }

    pub(crate) fn answer(&self, is_usable: bool) {
        // The receiver is gone when the run is over.
        let _gone = self.answer.send(is_usable);
    }
}
