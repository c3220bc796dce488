//! Processes that the command left running and that only read its output, such as
//! `exec > >(gzip >log.gz)`: they end by themselves once they have read everything.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;
use rustix::io::ioctl_fionread;

use crate::clock::Moment;
use crate::run::processes::Process;

/// How long a process may take from its start until its standard input is a pipe.
const START: Duration = Duration::from_secs(2);

/// The permission of an entry in `/proc/PID/fd` whose file is open for reading.
const READABLE: u32 = 0o400;

/// The processes that the command left running.
#[derive(Debug)]
pub(crate) struct Remaining {
    /// Those that end by themselves.
    pub(crate) readers: Vec<Process>,
    pub(crate) others: Vec<Process>,
}

/// Device and inode of a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Pipe(u64, u64);

impl Remaining {
    /// Finds the readers among these processes. Those that are about to end are neither.
    pub(crate) fn of(mut processes: Vec<Process>, now: Moment) -> Self {
        processes.retain(|process| !process.is_ending);
        let foreign: HashSet<Pipe> = pipes(Path::new("/proc/self/fd"), 0).collect();
        let reads = |process: &Process| reads_pipe_other_than(&foreign, process, now);
        let none = Self { readers: Vec::new(), others: processes };
        let mut found = none.with_readers(reads);
        // The files of a process that has ended in the meantime are not known.
        found.others.retain(Process::is_running);
        found
    }

    /// Moves some of the others to the readers, with the processes that these started.
    pub(crate) fn with_readers(self, is_reader: impl Fn(&Process) -> bool) -> Self {
        let Self { mut readers, others } = self;
        let (mut found, mut others): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|one| is_reader(one));
        while !found.is_empty() {
            readers.append(&mut found);
            let of_reader = |one: &Process| {
                readers.iter().any(|reader| reader.pid.as_raw() == one.parent)
            };
            (found, others) = others.into_iter().partition(of_reader);
        }
        Self { readers, others }
    }

    /// The number of bytes that the readers have yet to read, for each pipe.
    pub(crate) fn unread(&self) -> Vec<(Pipe, u64)> {
        let inputs = self.readers.iter().map(standard_input);
        inputs.filter_map(|input| Some((Pipe::at(&input)?, unread(&input)?))).collect()
    }
}

impl Pipe {
    fn at(path: &Path) -> Option<Self> {
        let file = fs::metadata(path).ok()?;
        file.file_type().is_fifo().then(|| Self(file.dev(), file.ino()))
    }
}

/// Pipes that `gpulock` was started with are excluded: they are written to by other programs,
/// which may not end.
fn reads_pipe_other_than(
    foreign: &HashSet<Pipe>,
    process: &Process,
    now: Moment,
) -> bool {
    let is_own = |pipe: &Pipe| !foreign.contains(pipe);
    let is_reader = Pipe::at(&standard_input(process)).as_ref().is_some_and(is_own);
    is_reader
        // A shell has yet to make the pipe the standard input of the process.
        || process.age(now) < START
            && pipes(&process.folder().join("fd"), READABLE).any(|pipe| is_own(&pipe))
}

/// The pipes among the open files in such a folder that have these permissions.
fn pipes(folder: &Path, permissions: u32) -> impl Iterator<Item = Pipe> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files.map(|file| file.path()).filter_map(move |file| {
        let mode = fs::symlink_metadata(&file).ok()?.permissions().mode();
        Pipe::at(&file).filter(|_| mode & permissions == permissions)
    })
}

fn standard_input(process: &Process) -> PathBuf {
    process.folder().join("fd/0")
}

fn unread(pipe: &Path) -> Option<u64> {
    let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    let pipe = File::options().read(true).custom_flags(flags).open(pipe).ok()?;
    ioctl_fionread(pipe).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};
    use std::thread::sleep;
    use std::time::Instant;

    use nix::sys::signal::{Signal, killpg};
    use nix::unistd::Pid;

    use super::*;
    use crate::clock;

    /// Waits until a child was classified as expected, and ends it.
    #[track_caller]
    fn check(mut child: Child, expected: fn(&Remaining) -> bool) {
        let started = Instant::now();
        let family = |parent: &Process| {
            Process::all()
                .filter(|one| one.parent == parent.pid.as_raw())
                .collect::<Vec<_>>()
        };
        loop {
            let parent = Process::of(Pid::from_raw(child.id().cast_signed()));
            let parent = parent.expect("the child");
            let processes = [family(&parent), vec![parent]].concat();
            // Not as one that has just started.
            let now = clock::now().saturating_add(START);
            if expected(&Remaining::of(processes, now)) {
                break;
            }
            assert!(started.elapsed() < Duration::from_secs(60), "not as expected");
            sleep(Duration::from_millis(10));
        }
        killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL)
            .expect("a group");
        child.wait().expect("a child");
    }

    fn command(program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        command
    }

    #[test]
    fn a_process_reads_the_pipe_of_another_one() {
        let shell = command("sh", &["-c", "sleep 600 | cat"]).spawn().expect("a shell");
        check(shell, |remaining| {
            let names = remaining.readers.iter().map(Process::name);
            names.eq(["cat"]) && !remaining.others.is_empty()
        });
    }

    /// This process has opened the other end.
    #[test]
    fn a_process_that_reads_a_pipe_of_gpulock_is_not_a_reader() {
        let mut cat = command("cat", &[]);
        let cat = cat.stdin(Stdio::piped()).spawn().expect("a process");
        check(cat, |remaining| {
            remaining.readers.is_empty() && remaining.others.len() == 1
        });
    }
}
