//! Processes as `/proc` shows them, and signals that reach nobody else. Whose they are is
//! decided elsewhere.

use std::fs;
use std::io;

use nix::sys::signal::Signal;
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, getpid, kill_process, pidfd_open, pidfd_send_signal,
};

/// A process that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    /// When it was started, in ticks since the machine was. With its number it is told from
    /// a later one.
    pub(crate) started: u64,
    /// It only waits to be reaped.
    pub(crate) is_dead: bool,
    /// It is becoming another program, or is another user's.
    pub(crate) is_becoming: bool,
    /// It was started without any environment.
    pub(crate) is_bare: bool,
}

impl Process {
    /// All that may be seen.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let folders = fs::read_dir("/proc").into_iter().flatten().flatten();
        folders.filter_map(|folder| {
            let pid = folder.file_name().to_str()?.parse().ok()?;
            Self::of(Pid::from_raw(pid)?)
        })
    }

    /// The one with this number.
    pub(crate) fn of(pid: Pid) -> Option<Self> {
        let stat = fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
        Self::read(pid, &String::from_utf8_lossy(&stat))
    }

    /// Reads a line of `/proc/PID/stat`, as proc(5) has it. The name in it may hold anything.
    fn read(pid: Pid, stat: &str) -> Option<Self> {
        let (_, after_name) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse().ok();
        Some(Self {
            pid,
            parent: number(1)?,
            group: number(2)?,
            started: fields.get(19)?.parse().ok()?,
            // The first thread of several may be dead for itself.
            is_dead: matches!(*fields.first()?, "Z" | "X") && number(17)? < 2,
            // Where its environment ends, and where it begins.
            is_becoming: *fields.get(48)? == "0",
            is_bare: fields.get(47)? == fields.get(48)?,
        })
    }

    /// What it was started with as environment, as far as it left that alone: a process
    /// that changes its title writes over it.
    ///
    /// # Errors
    /// When it is gone, or another user's.
    pub(crate) fn environment(&self) -> io::Result<Vec<u8>> {
        let folder = format!("/proc/{}", self.pid.as_raw_nonzero());
        let of_process = fs::read(format!("{folder}/environ"));
        if tells(&of_process) {
            return of_process;
        }
        // Its first thread may have ended, and others go on.
        let threads =
            fs::read_dir(format!("{folder}/task")).into_iter().flatten().flatten();
        let of_threads = threads.map(|thread| fs::read(thread.path().join("environ")));
        of_threads.into_iter().find(tells).unwrap_or(of_process)
    }

    /// Whether its parent is this process.
    pub(crate) fn is_our_child(&self) -> bool {
        self.parent == getpid().as_raw_nonzero().get()
    }

    /// Its name.
    pub(crate) fn name(&self) -> String {
        let name = fs::read(format!("/proc/{}/comm", self.pid.as_raw_nonzero()));
        String::from_utf8_lossy(&name.unwrap_or_default()).trim_end().to_owned()
    }

    /// Sends a signal to this very process, and to none that has its number by now.
    pub(crate) fn signal(&self, signal: Signal) {
        let Some(signal) = rustix::process::Signal::from_named_raw(signal as i32) else {
            return;
        };
        match pidfd_open(self.pid, PidfdFlags::empty()) {
            Ok(process) if self.is_still_there() => {
                let _gone = pidfd_send_signal(process, signal);
            }
            // Before Linux 5.3.
            Err(Errno::NOSYS) if self.is_still_there() => {
                let _gone = kill_process(self.pid, signal);
            }
            Ok(_) | Err(_) => {}
        }
    }

    fn is_still_there(&self) -> bool {
        Self::of(self.pid).is_some_and(|other| other.started == self.started)
    }
}

/// Whether that is an answer. A thread that has ended has none: by an error, or in older
/// kernels nothing.
fn tells(environment: &io::Result<Vec<u8>>) -> bool {
    match environment {
        Ok(bytes) => !bytes.is_empty(),
        Err(error) => Errno::from_io_error(error) != Some(Errno::SRCH),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_pass_for_what_follows_it() {
        let numbers: Vec<String> = (4..=52).map(|field| field.to_string()).collect();
        let stat = format!("7 (a) Z 1 1 (b) S {}", numbers.join(" "));
        let pid = Pid::from_raw(7).expect("a number");
        let process = Process::read(pid, &stat).expect("a process");
        assert_eq!((process.parent, process.group, process.started), (4, 5, 22));
        assert!(!process.is_dead && !process.is_becoming && !process.is_bare);
    }

    #[test]
    fn this_process_is_seen() {
        let this = Process::of(rustix::process::getpid()).expect("this process");
        assert!(Process::all().any(|process| process == this));
        assert!(!this.is_dead && !this.is_becoming && this.is_still_there());
    }
}
