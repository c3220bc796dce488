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

use crate::run::child::{Group, reap};
use crate::run::environment::OWNER;
use crate::run::processes::Process;

/// Whom the command consists of, as `gpulock` sees it, whose child the command is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crew {
    group: Group,
    /// When the command was started. Who is older was there before it.
    since: u64,
}

/// What a process that the command started is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Member,
    /// It left the group, and took the owner off its environment: that is how a process is
    /// told to stay. One that wrote over its environment, as those do which change their title,
    /// took nothing off.
    Leaver,
    /// It shows no environment while it becomes another program.
    Unclear,
    /// It died lately. Whom it started may not have been seen.
    Dead,
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
    ///
    /// A look at all processes takes its time. Somebody may be started meanwhile by another who
    /// dies before it is looked at; but orphans are our children, and stay to be seen until we
    /// reap them. So a look tells that nobody is left when it also sees nobody who has died.
    pub(crate) fn is_gone(&self) -> bool {
        const LOOKS: u32 = 200;
        const BETWEEN: Duration = Duration::from_millis(2);
        for _ in 0..LOOKS {
            let seen: Vec<(Kind, Process)> = self.kinds().collect();
            let has = |wanted| seen.iter().any(|(kind, _)| *kind == wanted);
            let dead = seen.iter().filter(|(kind, _)| *kind == Kind::Dead);
            dead.for_each(|(_, process)| reap(process.pid));
            if has(Kind::Member) {
                return false;
            }
            if !has(Kind::Unclear) && !has(Kind::Dead) {
                return true;
            }
            sleep(BETWEEN);
        }
        false
    }

    /// Sends all of them a signal: those of the group in one go, so that none can evade it by
    /// starting another.
    pub(crate) fn signal(&self, signal: Signal) {
        self.group.signal(signal);
        let outside = |process: &Process| process.group != self.group.number();
        self.alive().into_iter().filter(outside).for_each(|one| one.signal(signal));
    }

    fn kinds(&self) -> impl Iterator<Item = (Kind, Process)> {
        self.descendants().into_iter().map(|process| (self.kind(&process), process))
    }

    fn kind(&self, process: &Process) -> Kind {
        match process {
            _ if process.is_dead => Kind::Dead,
            _ if process.group == self.group.number() => Kind::Member,
            _ => kind(process),
        }
    }

    /// All that the command started, but for itself when it is dead, and for what others have
    /// yet to reap.
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
            let counts = |child: &Process| {
                !child.is_dead || child.is_our_child() && child.pid != self.group.pid()
            };
            found.extend(children.into_iter().filter(counts));
            rest = others;
        }
    }
}

/// Kills those of a command whose parent is gone or hangs. Answers whether some were there, and
/// whether some of them were of the group: the number of one that is empty may be another's.
pub(crate) fn kill_orphans(group: Option<Group>, owner: &str) -> (bool, bool) {
    let is_of_group =
        |process: &Process| group.is_some_and(|group| process.group == group.number());
    let alive = Process::all().filter(|process| !process.is_dead);
    let (of_group, others): (Vec<_>, Vec<_>) = alive.partition(is_of_group);
    if let Some(group) = group.filter(|_| !of_group.is_empty()) {
        // In one go, so that none can evade it by starting another; and before anybody's
        // environment is looked at, for which one that hangs lets wait.
        group.signal(Signal::SIGKILL);
    }
    let mark = format!("{OWNER}={owner}").into_bytes();
    let is_marked =
        |process: &Process| variables(process).is_ok_and(|all| all.contains(&mark));
    let strays: Vec<Process> = others.into_iter().filter(is_marked).collect();
    strays.iter().for_each(|process| process.signal(Signal::SIGKILL));
    (!of_group.is_empty() || !strays.is_empty(), !of_group.is_empty())
}

fn kind(process: &Process) -> Kind {
    let variables_again = |process: &Process| variables(process).unwrap_or_default();
    match variables(process) {
        Ok(some) if !some.is_empty() => kind_of(&some),
        // What may not be looked at is not known to have taken the owner off.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Kind::Member,
        // It may have become another program between the two looks.
        none => match Process::of(process.pid) {
            Some(now) if now.is_dead => Kind::Dead,
            None => Kind::Dead,
            // It hangs in its last moments, and shows nothing any more.
            Some(_) if none.is_err() => Kind::Member,
            Some(now) if now.is_becoming => Kind::Unclear,
            Some(now) if now.is_bare => Kind::Leaver,
            Some(now) => kind_of(&variables_again(&now)),
        },
    }
}

fn kind_of(variables: &[Vec<u8>]) -> Kind {
    let are_variables = variables.iter().all(|one| is_variable(one));
    let have_owner = variables.iter().any(|one| is_owner(one));
    match variables {
        // It has hidden them.
        [] => Kind::Member,
        _ if are_variables && !have_owner => Kind::Leaver,
        _ => Kind::Member,
    }
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

/// Whether it has a name, as what a title has over it does not, even one with options in it.
fn is_variable(entry: &[u8]) -> bool {
    let name = entry.split(|byte| *byte == b'=').next().unwrap_or_default();
    name.len() < entry.len() && !name.is_empty() && !name.contains(&b' ')
}

fn is_owner(variable: &[u8]) -> bool {
    variable.strip_prefix(OWNER.as_bytes()).is_some_and(|rest| rest.starts_with(b"="))
}
