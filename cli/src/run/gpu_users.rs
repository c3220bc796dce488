//! Processes that use a GPU: whether they hold its lock.

use nix::unistd::Pid;

use crate::run::environment::KEYS;
use crate::run::processes::Process;

/// The daemon through which the processes of a CUDA multi-process service use a GPU.
const MPS: &str = "nvidia-cuda-mps";

/// A process that uses a GPU.
pub(crate) struct GpuUser(pub(crate) Process);

/// What is known about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It holds the lock, or needs none.
    Valid,
    /// It does not hold the lock.
    None,
    /// Its environment cannot be read, so it may hold the lock.
    Unreadable,
    /// It has ended.
    Ended,
}

impl GpuUser {
    /// The process with this number of the driver.
    pub(crate) fn of(number: u32) -> Option<Self> {
        Process::of(Pid::from_raw(i32::try_from(number).ok()?)).map(Self)
    }

    /// Whether it, or a process that it descends from, holds a key of the GPU, according to its
    /// environment; or descends from the process `trusted`.
    pub(crate) fn claim(&self, is_key: impl Fn(&[u8]) -> bool, trusted: Pid) -> Claim {
        if self.0.is_dead {
            return Claim::Ended;
        }
        if self.0.name() == MPS {
            return Claim::Valid;
        }
        let (mut process, mut is_readable) = (self.0, true);
        loop {
            if process.pid == trusted {
                return Claim::Valid;
            }
            match process.environment() {
                Ok(environment) if has_key(&environment, &is_key) => return Claim::Valid,
                Ok(_) => {}
                // Those above may be daemons of the system, which hold no locks.
                Err(_) => is_readable &= process.pid != self.0.pid,
            }
            if process.parent == 0 {
                return if is_readable { Claim::None } else { Claim::Unreadable };
            }
            match Process::of(Pid::from_raw(process.parent)) {
                Some(parent) => process = parent,
                None => return Claim::Ended,
            }
        }
    }
}

/// Whether an environment names such a key as held.
fn has_key(environment: &[u8], is_key: impl Fn(&[u8]) -> bool) -> bool {
    let mut variables = environment.split(|byte| *byte == 0);
    let value =
        variables.find_map(|one| one.strip_prefix(KEYS.as_bytes())?.strip_prefix(b"="));
    value.unwrap_or_default().split(|byte| *byte == b',').any(is_key)
}
