//! `--gpus`: how many processes use each GPU of this host, with and without its lock.
//!
//! A separate thread asks the driver: if it hangs, `/metrics` does not, and lacks these series
//! until it responds again.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::unistd::getpid;

use super::families::Families;
use crate::gpus::{self, Gpu, Gpus};
use crate::run::gpu_users::{Claim, GpuUser};

/// Pause between two checks.
const INTERVAL: Duration = Duration::from_secs(5);

/// The age at which a result is no longer exported.
const MAX_AGE: Duration = Duration::from_secs(30);

/// The processes on the GPUs, as the thread has last seen them.
#[derive(Clone, Default)]
pub(crate) struct GpuWatch(Arc<Mutex<Option<Seen>>>);

/// Result of a check.
struct Seen {
    at: Instant,
    gpus: Vec<Users>,
}

/// The processes that use a GPU.
struct Users {
    gpu: String,
    with_lock: usize,
    without_lock: usize,
    unknown: usize,
}

impl GpuWatch {
    /// Starts the thread.
    ///
    /// # Errors
    /// If there is no driver, or the driver's process numbers mean other processes here.
    pub(crate) fn start() -> Result<Self> {
        ensure!(
            gpus::sees_all_processes(),
            "--gpus needs the processes of the host: start the container with --pid=host"
        );
        let gpus = gpus::of_this_host()?;
        gpus.all()?;
        let watch = Self::default();
        let seen = watch.clone();
        let thread = thread::Builder::new().name("gpus".to_owned());
        let check = move || {
            loop {
                seen.check(&*gpus);
                sleep(INTERVAL);
            }
        };
        thread.spawn(check).context("failed to start a thread")?;
        Ok(watch)
    }

    fn check(&self, gpus: &dyn Gpus) {
        let users = gpus.all().unwrap_or_default();
        let users = users.iter().filter_map(|gpu| Users::of(gpu, gpus).ok()).collect();
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = Some(Seen { at: Instant::now(), gpus: users });
    }

    /// Adds the series of the last check, if it is not too old.
    pub(crate) fn write(&self, families: &mut Families) {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = seen.as_ref().filter(|seen| seen.at.elapsed() < MAX_AGE);
        for users in recent.iter().flat_map(|seen| &seen.gpus) {
            for (lock, count) in [
                ("held", users.with_lock),
                ("none", users.without_lock),
                ("unknown", users.unknown),
            ] {
                families.gauge(
                    "gpulock_gpu_processes",
                    "How many processes use the GPU; lock: whether they hold its lock.",
                    &format!("gpu=\"{}\",lock=\"{lock}\"", users.gpu),
                    &count,
                );
            }
        }
    }
}

impl Users {
    fn of(gpu: &Gpu, gpus: &dyn Gpus) -> Result<Self> {
        let (mut with_lock, mut without_lock, mut unknown) = (0, 0, 0);
        for number in gpus.processes(gpu)? {
            let Some(user) = GpuUser::of(number) else { continue };
            match user.claim(|key| gpu.has_key(key), getpid()) {
                Claim::Valid => with_lock += 1,
                Claim::None => without_lock += 1,
                Claim::Unreadable => unknown += 1,
                Claim::Ended => {}
            }
        }
        Ok(Self { gpu: gpu.id(), with_lock, without_lock, unknown })
    }
}
