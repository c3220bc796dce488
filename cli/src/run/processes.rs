//! Processes as `/proc` shows them, and signals that cannot reach another process with the
//! same number.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid};
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};

use crate::clock::Moment;

/// The flag `PF_EXITING` of the kernel.
const EXITING: i32 = 0x4;

/// Checks that `/proc` shows the processes of this process's own PID namespace. Otherwise the
/// numbers in it mean other processes.
///
/// # Errors
/// If `/proc` is not mounted, belongs to another namespace, or lacks fields that are used.
pub(crate) fn check_proc() -> Result<()> {
    const MOUNT: &str = "mount -t proc proc /proc";
    let number = fs::read_link("/proc/self")
        .with_context(|| format!("/proc shows no processes; mount it (`{MOUNT}`)"))?;
    let (ours, number) = (getpid().to_string(), number.display().to_string());
    ensure!(
        number == ours,
        "/proc shows another PID namespace, in which this process is {number}, not {ours}; \
         mount it for this one (`{MOUNT}`, `unshare --mount-proc`)"
    );
    Process::of(getpid()).context("failed to read /proc/self/stat")?;
    Ok(())
}

/// A process at the time of the scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    /// When it was started, in ticks since boot. Distinguishes it from a later process with
    /// the same number.
    pub(crate) started: u64,
    /// It has ended and was not reaped yet.
    pub(crate) is_dead: bool,
    /// It has ended already, except for the rest of its work in the kernel.
    pub(crate) is_ending: bool,
    /// It is executing another program at this moment, or is another user's.
    pub(crate) is_in_exec: bool,
    /// It was started without any environment variable.
    pub(crate) has_no_environment: bool,
}

impl Process {
    /// All processes that are visible to this user.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let folders = fs::read_dir("/proc").into_iter().flatten().flatten();
        folders.filter_map(|folder| {
            let pid = folder.file_name().to_str()?.parse().ok()?;
            Self::of(Pid::from_raw(pid))
        })
    }

    /// The process with this number.
    pub(crate) fn of(pid: Pid) -> Option<Self> {
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        Self::parse(pid, &String::from_utf8_lossy(&stat))
    }

    /// Parses a line of `/proc/PID/stat` (see proc(5)). The name in it may contain any byte.
    fn parse(pid: Pid, stat: &str) -> Option<Self> {
        let (_, after_name) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse().ok();
        Some(Self {
            pid,
            parent: number(1)?,
            group: number(2)?,
            started: fields.get(19)?.parse().ok()?,
            // The first thread may have ended while others go on.
            is_dead: matches!(*fields.first()?, "Z" | "X") && number(17)? < 2,
            is_ending: number(6)? & EXITING != 0 && number(17)? < 2,
            // The addresses at which its environment begins and ends. qemu-user leaves them out of
            // its own /proc/self/stat.
            is_in_exec: fields.get(48).is_some_and(|end| *end == "0"),
            has_no_environment: fields
                .get(48)
                .is_some_and(|end| fields.get(47) == Some(end)),
        })
    }

    /// The environment that it was started with. A process that changes its title may have
    /// overwritten it.
    ///
    /// # Errors
    /// If the process is gone, or another user's.
    pub(crate) fn environment(&self) -> io::Result<Vec<u8>> {
        let folder = self.folder();
        let of_process = fs::read(folder.join("environ"));
        if is_readable(&of_process) {
            return of_process;
        }
        // The first thread may have ended while others go on.
        let threads = fs::read_dir(folder.join("task")).into_iter().flatten().flatten();
        let of_threads = threads.map(|thread| fs::read(thread.path().join("environ")));
        of_threads.into_iter().find(is_readable).unwrap_or(of_process)
    }

    /// Its folder in `/proc`.
    pub(crate) fn folder(&self) -> PathBuf {
        format!("/proc/{}", self.pid).into()
    }

    /// The time since its start.
    pub(crate) fn age(&self, now: Moment) -> Duration {
        // USER_HZ is 100 on all architectures except Alpha and IA-64.
        const TICK: Duration = Duration::from_millis(10);
        let ticks = u32::try_from(self.started).unwrap_or(u32::MAX);
        now.saturating_sub(TICK.saturating_mul(ticks))
    }

    /// Whether its parent is this process.
    pub(crate) fn is_our_child(&self) -> bool {
        self.parent == getpid().as_raw()
    }

    /// The name of its program.
    pub(crate) fn name(&self) -> String {
        let name = fs::read(self.folder().join("comm"));
        String::from_utf8_lossy(&name.unwrap_or_default()).trim_end().to_owned()
    }

    /// Sends a signal to this process, but not to a later one with the same number.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid.as_raw());
        let named = rustix::process::Signal::from_named_raw(signal as i32);
        let (Some(pid), Some(named)) = (pid, named) else { return };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) if self.still_exists() => {
                let _gone = pidfd_send_signal(process, named);
            }
            // Before Linux 5.3, or denied by a container's filter of system calls.
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM)
                if self.still_exists() =>
            {
                let _gone = kill(self.pid, signal);
            }
            Ok(_) | Err(_) => {}
        }
    }

    /// Whether it has not ended, and is not about to end, in the meantime.
    pub(crate) fn is_running(&self) -> bool {
        Self::of(self.pid).is_some_and(|other| {
            other.started == self.started && !other.is_dead && !other.is_ending
        })
    }

    fn still_exists(&self) -> bool {
        Self::of(self.pid).is_some_and(|other| other.started == self.started)
    }
}

/// Whether the environment could be read. For a thread that has ended the kernel returns an
/// error, or in older versions nothing.
fn is_readable(environment: &io::Result<Vec<u8>>) -> bool {
    match environment {
        Ok(bytes) => !bytes.is_empty(),
        Err(error) => error.raw_os_error() != Some(Errno::ESRCH as i32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_is_not_parsed_as_fields() {
        let numbers: Vec<String> = (4..=52).map(|field| field.to_string()).collect();
        let stat = format!("7 (a) Z 1 1 (b) S {}", numbers.join(" "));
        let pid = Pid::from_raw(7);
        let process = Process::parse(pid, &stat).expect("a process");
        assert_eq!((process.parent, process.group, process.started), (4, 5, 22));
        assert!(!process.is_dead && !process.is_in_exec && !process.has_no_environment);
    }

    #[test]
    fn the_addresses_of_the_environment_can_be_missing() {
        let numbers: Vec<String> = (4..=44).map(|field| field.to_string()).collect();
        let stat = format!("7 (qemu) R {}", numbers.join(" "));
        let process = Process::parse(Pid::from_raw(7), &stat).expect("a process");
        assert_eq!((process.parent, process.started), (4, 22));
        assert!(!process.is_in_exec && !process.has_no_environment);
    }

    #[test]
    fn this_process_is_listed() {
        let this = Process::of(getpid()).expect("this process");
        assert!(Process::all().any(|process| process == this));
        assert!(!this.is_dead && !this.is_in_exec && this.still_exists());
    }
}
