//! A limit of the CPU time of one command, for work whose cost the module does not control.

use std::time::{Duration, Instant};

/// A limit that starts now. It counts CPU time, so that the result of a command does not depend on
/// other programs that the machine runs meanwhile.
pub(crate) struct CpuLimit {
    limit: Duration,
    started: Instant,
    cpu_at_start: Duration,
}

impl CpuLimit {
    /// Starts counting.
    pub(crate) fn start(limit: Duration) -> Self {
        Self { limit, started: Instant::now(), cpu_at_start: cpu_time() }
    }

    /// Whether the limit is reached. The CPU time, which takes a system call to read, is read only
    /// when the time that has passed allows that.
    pub(crate) fn is_reached(&self) -> bool {
        self.started.elapsed() >= self.limit
            && cpu_time().saturating_sub(self.cpu_at_start) >= self.limit
    }
}

/// The CPU time that this thread has used.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the function only writes `time`. It cannot fail: Linux has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos))
}
