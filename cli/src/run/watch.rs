//! What goes on while the command runs: events come in, signals go on to the command, and
//! what is due is done. The only place that ends a command; when, stands in [`Dues`].

use std::sync::mpsc::Receiver;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{Signal, raise};
use redis::RedisError;

use crate::clock;
use crate::run::Event;
use crate::run::child::{Change, Group};
use crate::run::deadlines::{Dues, Hold};
use crate::run::guard::Guard;
use crate::run::say::Voice;
use crate::run::strays;
use crate::run::terminal::Terminal;

/// How long to sleep at most: a machine that was suspended does not count the sleep.
const TICK: Duration = Duration::from_secs(1);

/// How long to sleep while others than the command itself are to end: those that are not its
/// children tell nobody.
const BRIEF: Duration = Duration::from_millis(20);

/// Longer than a process takes to become another program.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// What is said of a server that takes everything and answers nothing.
const SILENT: &str = "no answer";

/// A command under locks.
pub(crate) struct Watch {
    group: Group,
    /// Whom those carry in their environment whom the command started.
    owner: String,
    guard: Guard,
    terminal: Terminal,
    voice: Voice,
    hold: Hold,
    /// The command's own status, once it has ended.
    status: Option<u8>,
    ending: Option<Ending>,
    /// Why the locks were lost.
    lost: Option<String>,
    /// Why the server could not be asked, the last time that it could not.
    trouble: Option<String>,
    /// What the command left running is being ended.
    leftovers: bool,
    /// What is to be told when what is due has been done.
    unsaid: Vec<Line>,
}

/// A line for standard error.
enum Line {
    Note(String),
    Complaint(String),
}

/// An end that is under way.
struct Ending {
    dues: Dues,
    told: bool,
    killed: bool,
}

/// How it ended.
#[derive(Debug)]
pub(crate) struct End {
    /// The command's own status.
    pub(crate) status: u8,
    /// Why they were lost, if they were.
    pub(crate) lost: Option<String>,
}

impl Watch {
    /// Over a command that was just started.
    ///
    /// # Errors
    /// When its guard cannot be started.
    pub(crate) fn over(
        group: Group,
        owner: &str,
        hold: Hold,
        voice: Voice,
    ) -> anyhow::Result<Self> {
        let terminal = Terminal::open();
        terminal.offer(group);
        let guard = Guard::start(group, owner, hold.dues().guard)?;
        let (status, ending, lost, trouble) = (None, None, None, None);
        let owner = owner.to_owned();
        Ok(Self {
            group,
            owner,
            guard,
            terminal,
            voice,
            hold,
            status,
            ending,
            lost,
            trouble,
            leftovers: false,
            unsaid: Vec::new(),
        })
    }

    /// Watches until nobody is left whom the command started.
    pub(crate) fn until_the_end(mut self, events: &Receiver<Event>) -> End {
        loop {
            events.try_iter().for_each(|event| self.take_in(event));
            self.do_what_is_due();
            self.reap();
            if let Some(status) = self.status {
                if !self.is_anybody_left() {
                    self.terminal.take_back(self.group);
                    self.guard.dismiss();
                    return End { status, lost: self.lost };
                }
                self.end_leftovers();
            }
            if let Ok(event) = events.recv_timeout(self.sleep()) {
                self.take_in(event);
            }
        }
    }

    fn take_in(&mut self, event: Event) {
        match event {
            Event::Signal(Signal::SIGCHLD) => {}
            Event::Signal(Signal::SIGCONT) => self.go_on(),
            Event::Signal(signal) => self.group.signal(signal),
            Event::Renewed(at) => {
                self.hold.renewed(at);
                self.trouble = None;
            }
            Event::Heard(at, left) => self.hold.heard(at, left),
            Event::Broken => self.hold.broken = true,
            Event::Trouble(error) => self.trouble = Some(told(&error)),
            Event::Lost => {
                self.lose(
                    "the server says that the lock is not held any more".to_owned(),
                );
                self.end_by(Dues::of_lost(clock::now()));
            }
            Event::Granted(..) | Event::TimeOver | Event::Failed(_) | Event::Note(_) => {}
        }
    }

    /// Looks what happened to the command, and to what it left running.
    fn reap(&mut self) {
        while let Some(change) = self.group.change() {
            match change {
                Change::Ended(status) => self.status = Some(status),
                Change::Stopped(signal) => self.stopped(signal),
            }
        }
    }

    fn end_leftovers(&mut self) {
        if !self.leftovers {
            self.leftovers = true;
            self.end_by(Dues::of_leftovers(clock::now()));
            self.unsaid
                .push(Line::Note("ending what the command left running".to_owned()));
        }
    }

    /// Job control: a command that stops for the terminal gets it; another stop of that kind
    /// stops this process as well, so that the shell sees it. The guard goes on, and kills
    /// the command should the lease be over before it does. SIGSTOP is left alone: whoever
    /// stops the command itself lets it go on itself, and its locks are to be there then.
    fn stopped(&mut self, signal: Signal) {
        let wants_terminal = matches!(signal, Signal::SIGTTIN | Signal::SIGTTOU);
        if self.ending.is_some() || wants_terminal && self.terminal.lend(self.group) {
            self.group.signal(Signal::SIGCONT);
        } else if wants_terminal || signal == Signal::SIGTSTP {
            // It cannot fail: the signal is one, and nobody can refuse it.
            let _stopped = raise(Signal::SIGSTOP);
        }
    }

    /// Continues the command, if its locks are still there.
    fn go_on(&mut self) {
        self.do_what_is_due();
        self.terminal.offer(self.group);
        self.group.signal(Signal::SIGCONT);
    }

    fn do_what_is_due(&mut self) {
        let now = clock::now();
        let due = self.hold.dues();
        if now >= due.term && self.lost.is_none() {
            let why = self.trouble.take().unwrap_or_else(|| SILENT.to_owned());
            self.lose(format!("the server could not be asked in time: {why}"));
            self.end_by(due);
        }
        let Some(ending) = &mut self.ending else { return self.guard.tell(due.guard) };
        self.guard.tell(ending.dues.guard);
        let (kill, told) = (now >= ending.dues.kill, ending.told);
        (ending.told, ending.killed) = (true, kill);
        if kill {
            // Again and again, for those that were just being started.
            self.signal_all(Signal::SIGKILL);
        } else if !told {
            self.signal_all(Signal::SIGTERM);
            // One that is stopped does not hear it otherwise.
            self.signal_all(Signal::SIGCONT);
        }
        self.say_what_is_unsaid();
    }

    /// Only now that the guard knows the end and the command was told: standard error may
    /// be a pipe that nobody reads.
    fn say_what_is_unsaid(&mut self) {
        for line in std::mem::take(&mut self.unsaid) {
            match line {
                Line::Note(text) => self.voice.say(&text),
                Line::Complaint(text) => self.voice.complain(&text),
            }
        }
    }

    /// Signals all whom the command started, wherever they went.
    fn signal_all(&self, signal: Signal) {
        self.group.signal(signal);
        strays::signal(&self.owner, signal);
    }

    /// A process shows no environment while it becomes another program: who is not seen
    /// at the first look is at the second.
    fn is_anybody_left(&self) -> bool {
        let is_seen =
            || self.group.is_alive() || strays::of(&self.owner).next().is_some();
        is_seen() || {
            sleep(BETWEEN_LOOKS);
            is_seen()
        }
    }

    fn lose(&mut self, why: String) {
        if self.lost.is_none() {
            let line = format!("lock lost: {why}; ending the command");
            self.unsaid.push(Line::Complaint(line));
            self.lost = Some(why);
        }
    }

    /// Ends all by then, or sooner if it is to end sooner already.
    fn end_by(&mut self, dues: Dues) {
        let dues = dues.sooner(self.hold.dues());
        match &mut self.ending {
            Some(ending) => ending.dues = ending.dues.sooner(dues),
            None => self.ending = Some(Ending { dues, told: false, killed: false }),
        }
    }

    /// How long nothing is due.
    fn sleep(&self) -> Duration {
        let due = match &self.ending {
            Some(_) if self.status.is_some() => return BRIEF,
            Some(ending) if ending.killed => return BRIEF,
            Some(ending) => ending.dues.kill,
            None => self.hold.dues().term,
        };
        due.saturating_sub(clock::now()).min(TICK)
    }
}

/// An error in few words.
fn told(error: &anyhow::Error) -> String {
    match error.downcast_ref::<RedisError>() {
        Some(error) if error.is_timeout() => SILENT.to_owned(),
        _ => error.to_string(),
    }
}
