//! Foreign use: processes that use a GPU of this run although they do not hold its lock. A
//! separate thread looks for them, so that a driver that hangs does not delay the supervision of
//! the command. It can delay the end of this process: a thread ends only when the kernel returns
//! from the driver.
//!
//! Not foreign are descendants of this process, and processes with a key of the GPU in their
//! environment: those of another run that shares the GPU, or of a run around this one.

use std::collections::HashSet;
use std::sync::mpsc::Sender;
use std::thread::{self, sleep};
use std::time::Duration;

use nix::unistd::getpid;

use crate::gpus::{self, Gpu, Gpus};
use crate::locks::Lock;
use crate::run::Event;
use crate::run::gpu_users::{Claim, GpuUser};
use crate::run::processes::Process;
use crate::text::Text;

/// Time before the first check: most commands that fail do so before.
const DELAY: Duration = Duration::from_secs(1);

/// Pause between two checks.
const INTERVAL: Duration = Duration::from_secs(5);

/// A GPU that this run holds.
struct Card {
    gpu: Gpu,
    /// All its keys in the pool.
    keys: HashSet<Vec<u8>>,
    /// Other runs may hold some of the keys.
    is_shared: bool,
}

/// Starts the thread. `gpus` are the keys of the pool with their GPUs. Each GPU is reported at
/// most once. In a container with a process namespace of its own, nothing is reported: the
/// driver's numbers mean other processes there.
pub(crate) fn watch(locks: &[Lock], gpus: &[(Text, Gpu)], events: Sender<Event>) {
    let cards = Card::held(locks, gpus);
    if cards.is_empty() || !gpus::sees_all_processes() {
        return;
    }
    let thread = thread::Builder::new().name("foreign-use".to_owned());
    let check = move || {
        sleep(DELAY);
        // The pool was found: if the driver fails now, there is nothing to report.
        if let Ok(gpus) = gpus::of_this_host() {
            check_repeatedly(&*gpus, cards, &events);
        }
    };
    // The command runs already, and needs no such report.
    let _not_started = thread.spawn(check);
}

fn check_repeatedly(gpus: &dyn Gpus, mut unreported: Vec<Card>, events: &Sender<Event>) {
    while !unreported.is_empty() {
        unreported.retain(|card| {
            let foreign = card.foreign(gpus);
            if !foreign.is_empty() {
                let note = message(&card.gpu, &foreign);
                // The receiver is gone when the run is over.
                let _gone = events.send(Event::Note(note));
            }
            foreign.is_empty()
        });
        sleep(INTERVAL);
    }
}

impl Card {
    /// The GPUs of these locks.
    fn held(locks: &[Lock], gpus: &[(Text, Gpu)]) -> Vec<Self> {
        let is_held = |key: &Text| locks.iter().any(|lock| lock.key == *key);
        let mut cards: Vec<Self> = Vec::new();
        for (_, gpu) in gpus.iter().filter(|(key, _)| is_held(key)) {
            if cards.iter().any(|card| card.gpu == *gpu) {
                continue;
            }
            let keys =
                || gpus.iter().filter(|(_, other)| other == gpu).map(|(key, _)| key);
            cards.push(Self {
                gpu: gpu.clone(),
                keys: keys().map(|key| key.0.clone()).collect(),
                is_shared: !keys().all(is_held),
            });
        }
        cards
    }

    fn foreign(&self, gpus: &dyn Gpus) -> Vec<Process> {
        let users = gpus.processes(&self.gpu).unwrap_or_default();
        let users = users.into_iter().filter_map(GpuUser::of);
        users.filter(|user| self.is_foreign(user)).map(|user| user.0).collect()
    }

    fn is_foreign(&self, user: &GpuUser) -> bool {
        match user.claim(|key| self.keys.contains(key), getpid()) {
            Claim::None => true,
            // If the whole GPU is held, another user's process cannot hold a lock of it.
            Claim::Unreadable => !self.is_shared,
            Claim::Valid | Claim::Ended => false,
        }
    }
}

fn message(gpu: &Gpu, foreign: &[Process]) -> String {
    let name = |process: &Process| format!("{} ({})", process.pid, process.name());
    let names: Vec<String> = foreign.iter().map(name).collect();
    let gpu = match &gpu.uuid {
        Some(uuid) => uuid.clone(),
        None => format!("GPU {}", gpu.index),
    };
    let (processes, do_not) = match foreign {
        [_] => ("process", "does not"),
        _ => ("processes", "do not"),
    };
    format!(
        "{gpu} is used by {processes} {}, which {do_not} hold its lock",
        names.join(", ")
    )
}
