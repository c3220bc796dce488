//! What goes on while the command runs: events come in, signals go on to the command, and
//! what is due is done. The only place that ends a command; when, stands in [`Dues`].

use std::sync::mpsc::Receiver;
use std::time::Duration;

use nix::sys::signal::Signal;
use redis::RedisError;

use crate::clock::{self, Moment};
use crate::exit::sentence;
use crate::run::Event;
use crate::run::child::{Change, Group};
use crate::run::crew::Crew;
use crate::run::deadlines::{Dues, Hold};
use crate::run::guard::Guard;
use crate::run::say::Voice;
use crate::run::terminal::Terminal;

/// How long to sleep at most: a machine that was suspended does not count the sleep.
const TICK: Duration = Duration::from_secs(1);

/// How long to sleep between blows: those that are just being started tell nobody.
const BRIEF: Duration = Duration::from_millis(20);

/// How long those that were killed may take to die before a word is said of it.
const DYING: Duration = Duration::from_secs(1);

/// What is said of a server that takes everything and answers nothing.
const SILENT: &str = "no answer";

/// A command under locks.
pub(crate) struct Watch {
    group: Group,
    crew: Crew,
    guard: Guard,
    /// Before that, it is not started again.
    next_guard: Option<Moment>,
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
}

/// An end that is under way.
struct Ending {
    dues: Dues,
    told: bool,
    /// Since when they are killed.
    killed: Option<Moment>,
    /// It was said who does not die.
    is_said: bool,
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
    pub(crate) fn over(group: Group, mut guard: Guard, hold: Hold, voice: Voice) -> Self {
        guard.watch_over(group);
        let terminal = Terminal::open();
        terminal.offer(group);
        let (status, ending, lost, trouble) = (None, None, None, None);
        Self {
            group,
            crew: Crew::of(group),
            guard,
            next_guard: None,
            terminal,
            voice,
            hold,
            status,
            ending,
            lost,
            trouble,
            leftovers: false,
        }
    }

    /// Watches until nobody is left whom the command started.
    pub(crate) fn until_the_end(mut self, events: &Receiver<Event>) -> End {
        loop {
            events.try_iter().for_each(|event| self.take_in(event));
            self.reap();
            // Before its end is looked at: the guard may have ended it, while this process was
            // stopped. Whether it ended by itself in time nobody knows then.
            self.see_whether_it_is_lost();
            if let Some(status) = self.status {
                if self.crew.is_gone() {
                    self.terminal.take_back(self.group);
                    self.guard.dismiss();
                    self.group.give_up();
                    return End { status, lost: self.lost };
                }
                self.end_leftovers();
            }
            self.do_what_is_due();
            self.look_after_the_guard();
            if let Ok(event) = events.recv_timeout(self.sleep()) {
                self.take_in(event);
            }
        }
    }

    fn take_in(&mut self, event: Event) {
        match event {
            Event::Signal(Signal::SIGCHLD) => {}
            // The one by which a shell continued this process may arrive after a next Control-Z,
            // which it is not to undo.
            Event::Signal(Signal::SIGCONT) if self.terminal.has_stopped(self.group) => {}
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
            Event::Found(_)
            | Event::Granted(..)
            | Event::TimeOver
            | Event::Failed(_)
            | Event::Note(_) => {}
        }
    }

    /// Looks what happened to the command, and to what it left running.
    fn reap(&mut self) {
        while self.status.is_none() {
            match self.group.change() {
                None => return self.group.reap_others(),
                Some(Change::Ended(status)) => self.status = Some(status),
                // One that is to end has to go on for that.
                Some(Change::Stopped(_)) if self.ending.is_some() => {
                    self.group.signal(Signal::SIGCONT);
                }
                Some(Change::Stopped(signal)) => {
                    if self.terminal.stopped(self.group, signal) {
                        self.go_on();
                    }
                }
            }
        }
    }

    /// Another one, if somebody killed it; not too often, should they all end at once, and not
    /// when it has done all that it can.
    fn look_after_the_guard(&mut self) {
        let now = clock::now();
        let is_due = self.next_guard.is_none_or(|next| now >= next);
        if is_due && now < self.dues().guard && self.guard.has_ended() {
            self.next_guard = Some(now.saturating_add(TICK));
            if let Err(error) = self.guard.start_again() {
                self.voice.complain(&format!("the guard is gone: {}", sentence(&error)));
            }
        }
    }

    fn end_leftovers(&mut self) {
        if !self.leftovers {
            self.leftovers = true;
            self.end_by(Dues::of_leftovers(clock::now()));
            self.voice.say("ending what the command left running");
        }
    }

    /// Continues the command, if its locks are still there.
    fn go_on(&mut self) {
        self.see_whether_it_is_lost();
        self.do_what_is_due();
        self.terminal.go_on(self.group);
    }

    fn see_whether_it_is_lost(&mut self) {
        let due = self.hold.dues();
        if self.lost.is_none() && clock::now() >= due.term {
            let why = self.trouble.take().unwrap_or_else(|| SILENT.to_owned());
            self.lose(format!("the server could not be asked in time: {why}"));
            self.end_by(due);
        }
    }

    fn do_what_is_due(&mut self) {
        let (now, dues) = (clock::now(), self.dues());
        self.guard.tell(dues.guard);
        let Some(ending) = &mut self.ending else { return };
        let told = std::mem::replace(&mut ending.told, true);
        if now >= dues.kill {
            let killed = *ending.killed.get_or_insert(now);
            // Again and again, for those that were just being started.
            self.crew.signal(Signal::SIGKILL);
            if now.saturating_sub(killed) >= DYING {
                self.say_who_does_not_die();
            }
        } else if !told {
            self.crew.signal(Signal::SIGTERM);
            // One that is stopped does not hear it otherwise.
            self.crew.signal(Signal::SIGCONT);
        }
    }

    /// What is due. The hold may end sooner than what is being ended was given.
    fn dues(&self) -> Dues {
        let hold = self.hold.dues();
        self.ending.as_ref().map_or(hold, |ending| ending.dues.sooner(hold))
    }

    /// Another user's process cannot be killed, and one that waits for its device dies when
    /// the device answers. The locks are theirs until then.
    fn say_who_does_not_die(&mut self) {
        let is_said = self.ending.as_mut().map(|ending| &mut ending.is_said);
        if is_said.is_none_or(|is_said| std::mem::replace(is_said, true)) {
            return;
        }
        for process in self.crew.alive() {
            let (pid, name) = (process.pid.as_raw_nonzero(), process.name());
            self.voice.complain(&format!(
                "process {pid} ({name}) does not die: it is another user's, or waits for a device"
            ));
        }
    }

    fn lose(&mut self, why: String) {
        if self.lost.is_none() {
            self.voice.complain(&format!("lock lost: {why}; ending the command"));
            self.lost = Some(why);
        }
    }

    /// Ends all by then, or sooner if it is to end sooner already.
    fn end_by(&mut self, dues: Dues) {
        let dues = dues.sooner(self.hold.dues());
        match &mut self.ending {
            Some(ending) => ending.dues = ending.dues.sooner(dues),
            None => {
                let (told, killed, is_said) = (false, None, false);
                self.ending = Some(Ending { dues, told, killed, is_said });
            }
        }
    }

    /// How long nothing is due. The end of any process of the command is an event, since it is
    /// a child of this one, or becomes one.
    fn sleep(&self) -> Duration {
        let (now, dues) = (clock::now(), self.dues());
        let due = match &self.ending {
            Some(Ending { killed: Some(killed), .. }) => {
                let is_dying = now.saturating_sub(*killed) < DYING;
                return if is_dying { BRIEF } else { TICK };
            }
            Some(_) if self.lost.is_some() => dues.kill,
            Some(_) => dues.kill.min(self.hold.dues().term),
            None => dues.term,
        };
        due.saturating_sub(now).min(TICK)
    }
}

/// An error in few words.
fn told(error: &anyhow::Error) -> String {
    match error.downcast_ref::<RedisError>() {
        Some(error) if error.is_timeout() => SILENT.to_owned(),
        _ => error.to_string(),
    }
}
