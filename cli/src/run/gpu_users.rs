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
            process = match parent(&process, Process::of) {
                Parent::Seen(parent) => parent,
                Parent::None if is_readable => return Claim::None,
                Parent::None => return Claim::Unreadable,
                Parent::Ended => return Claim::Ended,
            };
        }
    }
}

/// The parent of a process.
#[derive(Debug, PartialEq, Eq)]
enum Parent {
    Seen(Process),
    /// There is none, or it is not visible: another user's, where `/proc` hides these (`hidepid`).
    None,
    /// The process has ended.
    Ended,
}

fn parent(of: &Process, find: impl Fn(Pid) -> Option<Process>) -> Parent {
    let parent = |of: &Process| match of.parent {
        0 => None,
        number => find(Pid::from_raw(number)),
    };
    if let Some(parent) = parent(of) {
        return Parent::Seen(parent);
    }
    // If the parent has ended meanwhile, the process has another one.
    match find(of.pid).filter(|now| now.started == of.started) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32) -> Process {
        Process {
            pid: Pid::from_raw(pid),
            parent,
            group: pid,
            started: 1,
            is_dead: false,
            is_in_exec: false,
            is_ending: false,
            has_no_environment: false,
        }
    }

    #[test]
    fn a_parent_that_is_not_visible_is_told_from_a_process_that_has_ended() {
        let child = process(9, 5);
        let another = Process { started: 2, ..child };
        for (visible, expected) in [
            (vec![child, process(5, 1)], Parent::Seen(process(5, 1))),
            (vec![child], Parent::None),
            (vec![process(9, 1), process(1, 0)], Parent::Seen(process(1, 0))),
            (vec![process(9, 1)], Parent::None),
            (vec![], Parent::Ended),
            (vec![another], Parent::Ended),
        ] {
            let find = |pid| visible.iter().find(|one| one.pid == pid).copied();
            assert_eq!(parent(&child, find), expected, "{visible:?}");
        }
        assert_eq!(parent(&process(1, 0), |_| Some(process(1, 0))), Parent::None);
    }
}
