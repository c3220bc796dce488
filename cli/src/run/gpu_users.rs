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
            process = match parent(&process) {
                Parent::Seen(parent) => parent,
                Parent::None if is_readable => return Claim::None,
                Parent::None => return Claim::Unreadable,
                Parent::Ended => return Claim::Ended,
            };
        }
    }
}

/// The parent of a process.
enum Parent {
    Seen(Process),
    /// There is none, or it is not visible: another user's, where `/proc` hides these (`hidepid`).
    None,
    /// The process has ended.
    Ended,
}

fn parent(of: &Process) -> Parent {
    let parent = |of: &Process| match of.parent {
        0 => None,
        number => Process::of(Pid::from_raw(number)),
    };
    if let Some(parent) = parent(of) {
        return Parent::Seen(parent);
    }
    // If the parent has ended meanwhile, the process has another one.
    match Process::of(of.pid).filter(|now| now.started == of.started) {
        Some(now) => parent(&now).map_or(Parent::None, Parent::Seen),
        None => Parent::Ended,
    }
}

/// Whether an environment names such a key as held.
fn has_key(environment: &[u8], is_key: impl Fn(&[u8]) -> bool) -> bool {
    let mut variables = environment.split(|byte| *byte == 0);
    let value =
        variables.find_map(|one| one.strip_prefix(KEYS.as_bytes())?.strip_prefix(b"="));
    value.unwrap_or_default().split(|byte| *byte == b',').any(is_key)
}
