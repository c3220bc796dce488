//! All processes of the command: those of its process group, and others that it started,
//! wherever they moved. `gpulock` finds these as its descendants, since it adopts orphans; the
//! watchdog, which outlives `gpulock`, finds them by the owner in their environment.

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::getpid;

use crate::clock;
use crate::run::environment::OWNER;
use crate::run::process_group::{ProcessGroup, reap};
use crate::run::processes::Process;

/// How long after its start a process may still execute its first program.
const STARTING: Duration = Duration::from_secs(1);

/// The processes of a command that is a child of this process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProcessTree {
    group: ProcessGroup,
    /// When the command was started. Older processes are not part of it.
    since: u64,
}

/// Classification of a descendant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Member,
    /// It left the group and removed the owner from its environment, which exempts it. A
    /// process that overwrote its environment to change its title is still a member.
    Exempt,
    /// It is executing another program at this moment, or may be, and has no readable environment.
    Unclear,
    /// It has ended. Its children may not have been seen yet.
    Dead,
}

impl ProcessTree {
    /// The processes of a command whose leader was not reaped yet.
    pub(crate) fn of(group: ProcessGroup) -> Self {
        let since = Process::of(group.pid()).map_or(0, |leader| leader.started);
        Self { group, since }
    }

    /// The members that are alive.
    pub(crate) fn alive(&self) -> Vec<Process> {
        self.classified()
            .filter(|(kind, _)| *kind == Kind::Member)
            .map(|(_, one)| one)
            .collect()
    }

    /// Whether no member is left.
    ///
    /// A scan of all processes is not atomic: during the scan a process may start another one
    /// and end before it is scanned. Orphans become our children and stay visible until we reap
    /// them, so the tree is empty only if a scan also finds no dead process.
    pub(crate) fn is_empty(&self) -> bool {
        const SCANS: u32 = 200;
        const PAUSE: Duration = Duration::from_millis(2);
        for _ in 0..SCANS {
            let seen: Vec<(Kind, Process)> = self.classified().collect();
            let has = |wanted| seen.iter().any(|(kind, _)| *kind == wanted);
            let dead = seen.iter().filter(|(kind, _)| *kind == Kind::Dead);
            dead.for_each(|(_, process)| reap(process.pid));
            if has(Kind::Member) {
                return false;
            }
            if !has(Kind::Unclear) && !has(Kind::Dead) {
                return true;
            }
            sleep(PAUSE);
        }
        false
    }

    /// Sends a signal to all members. Those of the group get it in one system call, so that
    /// none can escape by forking.
    pub(crate) fn signal(&self, signal: Signal) {
        self.group.signal(signal);
        let outside = |process: &Process| process.group != self.group.number();
        self.alive().into_iter().filter(outside).for_each(|one| one.signal(signal));
    }

    fn classified(&self) -> impl Iterator<Item = (Kind, Process)> {
        self.descendants().into_iter().map(|process| (self.kind(&process), process))
    }

    fn kind(&self, process: &Process) -> Kind {
        match process {
            _ if process.is_dead => Kind::Dead,
            _ if process.group == self.group.number() => Kind::Member,
            _ => kind_outside_group(process),
        }
    }

    /// Everything that the command started, without the leader once it is dead, and without
    /// dead processes that others have yet to reap.
    fn descendants(&self) -> Vec<Process> {
        let mut rest: Vec<Process> =
            Process::all().filter(|process| process.started >= self.since).collect();
        let mut parents = HashSet::from([getpid().as_raw()]);
        let mut found = Vec::new();
        loop {
            let (children, others): (Vec<_>, Vec<_>) =
                rest.into_iter().partition(|process| parents.contains(&process.parent));
            if children.is_empty() {
                return found;
            }
            parents.extend(children.iter().map(|child| child.pid.as_raw()));
            let counts = |child: &Process| {
                !child.is_dead || child.is_our_child() && child.pid != self.group.pid()
            };
            found.extend(children.into_iter().filter(counts));
            rest = others;
        }
    }
}

/// Kills the processes of a command whose `gpulock` is gone or hangs. Returns whether there were
/// any, and whether some were in the group: the number of an empty group may be reused.
pub(crate) fn kill_orphans(group: Option<ProcessGroup>, owner: &str) -> (bool, bool) {
    let is_in_group =
        |process: &Process| group.is_some_and(|group| process.group == group.number());
    let alive = Process::all().filter(|process| !process.is_dead);
    let (in_group, others): (Vec<_>, Vec<_>) = alive.partition(is_in_group);
    if let Some(group) = group.filter(|_| !in_group.is_empty()) {
        // In one system call, so that none can escape by forking; and before any environment is
        // read, which blocks for a process that hangs.
        group.signal(Signal::SIGKILL);
    }
    let mark = format!("{OWNER}={owner}").into_bytes();
    let is_marked =
        |process: &Process| variables(process).is_ok_and(|all| all.contains(&mark));
    let outside: Vec<Process> = others.into_iter().filter(is_marked).collect();
    outside.iter().for_each(|process| process.signal(Signal::SIGKILL));
    (!in_group.is_empty() || !outside.is_empty(), !in_group.is_empty())
}

fn kind_outside_group(process: &Process) -> Kind {
    let variables_again = |process: &Process| variables(process).unwrap_or_default();
    match variables(process) {
        Ok(some) if !some.is_empty() => kind_by_variables(&some),
        // Without permission to read it, assume that the owner is still there.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Kind::Member,
        // It may have executed another program since the scan: look again.
        none => match Process::of(process.pid) {
            Some(now) if now.is_dead => Kind::Dead,
            None => Kind::Dead,
            // It hangs while it exits, and its environment is gone already.
            Some(_) if none.is_err() => Kind::Member,
            Some(now) if now.is_in_exec => Kind::Unclear,
            // The kernel sets the end of the environment last, when it executes a program.
            Some(now) if now.has_no_environment => match now.age(clock::now()) < STARTING
            {
                true => Kind::Unclear,
                false => Kind::Exempt,
            },
            Some(now) => kind_by_variables(&variables_again(&now)),
        },
    }
}

fn kind_by_variables(variables: &[Vec<u8>]) -> Kind {
    let are_variables = variables.iter().all(|one| is_variable(one));
    let have_owner = variables.iter().any(|one| is_owner(one));
    match variables {
        // It has hidden them.
        [] => Kind::Member,
        _ if are_variables && !have_owner => Kind::Exempt,
        _ => Kind::Member,
    }
}

/// The variables of its environment, or whatever it wrote over them.
fn variables(process: &Process) -> io::Result<Vec<Vec<u8>>> {
    let environment = process.environment()?;
    if environment.is_empty() {
        return Ok(Vec::new());
    }
    let trimmed = environment.strip_suffix(b"\0").unwrap_or(&environment);
    Ok(trimmed.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect())
}

/// Whether the entry has a name, unlike parts of a process title, even one with options in it.
fn is_variable(entry: &[u8]) -> bool {
    let name = entry.split(|byte| *byte == b'=').next().unwrap_or_default();
    name.len() < entry.len() && !name.is_empty() && !name.contains(&b' ')
}

fn is_owner(variable: &[u8]) -> bool {
    variable.strip_prefix(OWNER.as_bytes()).is_some_and(|rest| rest.starts_with(b"="))
}
