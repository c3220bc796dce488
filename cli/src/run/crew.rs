//! The crew: all the processes that the command consists of, wherever they went. Those of its
//! group are, and others that it started. `gpulock` knows these as its descendants, since
//! orphans become its children; the guard, who survives it, by the owner in their environment.
//! When they are to end stands elsewhere.

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;
use rustix::process::getpid;

use crate::run::child::Group;
use crate::run::environment::OWNER;
use crate::run::processes::Process;

/// Whom the command consists of, as `gpulock` sees it, whose child the command is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crew {
    group: Group,
    /// When the command was started. Who is older was there before it.
    since: u64,
}

/// Whether a process that the command started, and that left its group, is of the crew.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Member,
    /// It took the owner off its environment: that is how a process is told to stay. One that
    /// wrote over its environment, as those do which change their title, took nothing off.
    Leaver,
    /// It shows no environment while it becomes another program.
    Unclear,
}

impl Crew {
    /// That of a command which was not reaped yet.
    pub(crate) fn of(group: Group) -> Self {
        let since = Process::of(group.pid()).map_or(0, |leader| leader.started);
        Self { group, since }
    }

    /// Those who live.
    pub(crate) fn alive(&self) -> Vec<Process> {
        self.kinds()
            .filter(|(kind, _)| *kind == Kind::Member)
            .map(|(_, one)| one)
            .collect()
    }

    /// Whether nobody is left.
    pub(crate) fn is_gone(&self) -> bool {
        const LOOKS: u32 = 200;
        const BETWEEN: Duration = Duration::from_millis(5);
        for _ in 0..LOOKS {
            let kinds: Vec<Kind> = self.kinds().map(|(kind, _)| kind).collect();
            if !kinds.contains(&Kind::Unclear) {
                return !kinds.contains(&Kind::Member);
            }
            sleep(BETWEEN);
        }
        false
    }

    /// Sends all of them a signal: those of the group in one go, so that none can evade it
    /// by starting another.
    pub(crate) fn signal(&self, signal: Signal) {
        self.group.signal(signal);
        let outside = |process: &Process| process.group != self.group.number();
        self.alive().into_iter().filter(outside).for_each(|one| one.signal(signal));
    }

    fn kinds(&self) -> impl Iterator<Item = (Kind, Process)> {
        let group = self.group.number();
        self.descendants().into_iter().map(move |process| match process.group == group {
            true => (Kind::Member, process),
            false => (kind(&process), process),
        })
    }

    fn descendants(&self) -> Vec<Process> {
        let mut rest: Vec<Process> =
            Process::all().filter(|process| process.started >= self.since).collect();
        let mut parents = HashSet::from([getpid().as_raw_nonzero().get()]);
        let mut found = Vec::new();
        loop {
            let (children, others): (Vec<_>, Vec<_>) =
                rest.into_iter().partition(|process| parents.contains(&process.parent));
            if children.is_empty() {
                return found;
            }
            parents.extend(children.iter().map(|child| child.pid.as_raw_nonzero().get()));
            found.extend(children.into_iter().filter(|child| !child.is_dead));
            rest = others;
        }
    }
}

/// Kills those of a command whose parent is gone or hangs, and answers whether some were there.
pub(crate) fn kill_orphans(group: Option<Group>, owner: &str) -> bool {
    let mark = format!("{OWNER}={owner}").into_bytes();
    let is_ours = |process: &Process| {
        let is_of_group = group.is_some_and(|group| process.group == group.number());
        is_of_group || variables(process).is_ok_and(|all| all.contains(&mark))
    };
    if let Some(group) = group {
        group.signal(Signal::SIGKILL);
    }
    let alive = Process::all().filter(|process| !process.is_dead);
    let ours: Vec<Process> = alive.filter(is_ours).collect();
    ours.iter().for_each(|process| process.signal(Signal::SIGKILL));
    !ours.is_empty()
}

fn kind(process: &Process) -> Kind {
    match variables(process) {
        Ok(none) if none.is_empty() => match Process::of(process.pid) {
            Some(process) if process.is_becoming => Kind::Unclear,
            // It may have become it between the two looks.
            Some(process) => kind_of(&variables(&process).unwrap_or_default()),
            None => Kind::Leaver,
        },
        Ok(some) => kind_of(&some),
        // What may not be looked at is not known to have taken it off.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Kind::Member,
        // It is gone.
        Err(_) => Kind::Leaver,
    }
}

fn kind_of(variables: &[Vec<u8>]) -> Kind {
    let are_variables = variables.iter().all(|one| one.contains(&b'='));
    let have_owner = variables.iter().any(|one| is_owner(one));
    if are_variables && !have_owner { Kind::Leaver } else { Kind::Member }
}

/// The variables of its environment, or whatever it wrote over them.
fn variables(process: &Process) -> io::Result<Vec<Vec<u8>>> {
    let environment = process.environment()?;
    if environment.is_empty() {
        return Ok(Vec::new());
    }
    let ended = environment.strip_suffix(b"\0").unwrap_or(&environment);
    Ok(ended.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect())
}

fn is_owner(variable: &[u8]) -> bool {
    variable.strip_prefix(OWNER.as_bytes()).is_some_and(|rest| rest.starts_with(b"="))
}
