//! Supervises the running command: receives events, forwards signals, and terminates the
//! command ([`super::terminate`]) at its [`Deadlines`].

use std::sync::mpsc::Receiver;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use redis::RedisError;

use crate::clock::{self, Moment};
use crate::exit;
use crate::human::Span;
use crate::run::Event;
use crate::run::deadlines::{Deadlines, LastContact};
use crate::run::drain::Drain;
use crate::run::ending::{End, Interrupt};
use crate::run::event_log::EventLog;
use crate::run::process_group::{Change, ProcessGroup};
use crate::run::process_tree::ProcessTree;
use crate::run::readers::Remaining;
use crate::run::stderr::Stderr;
use crate::run::terminal::Terminal;
use crate::run::terminate::Termination;
use crate::run::watchdog::Watchdog;
use crate::text::Text;

/// Maximum length of a sleep: time that the machine is suspended does not count towards it.
const TICK: Duration = Duration::from_secs(1);

/// The reason for a server that accepts everything and replies to nothing.
const NO_REPLY: &str = "no reply";

/// The reason for a lease that renewals no longer lengthen.
const LIMITED: &str = "its lease is shortened, by gpulock.max-hold or by another client";

/// The reason after a notice.
pub(crate) const REVOKED: &str = "revoked";

/// A command that runs under locks.
pub(crate) struct Supervisor {
    group: ProcessGroup,
    processes: ProcessTree,
    watchdog: Watchdog,
    /// The watchdog is not restarted before this moment.
    next_watchdog_start: Option<Moment>,
    terminal: Terminal,
    stderr: Stderr,
    log: EventLog,
    contact: LastContact,
    /// The command's own status, once it has ended.
    status: Option<u8>,
    /// The interruption that ended the command.
    interrupt: Option<Interrupt>,
    /// The signals that this process received and sent to the command.
    forwarded: SigSet,
    /// When this process was last continued after Control-Z. Its SIGCONT is still to come.
    continued: Option<Moment>,
    /// The processes that it left running, while some of them read its output.
    drain: Option<Drain>,
    termination: Option<Termination>,
    /// Why the locks were lost.
    lost: Option<String>,
    /// The last error of a call to the server, if no later call succeeded.
    server_error: Option<String>,
    /// Whether processes that the command left running are being terminated.
    has_survivors: bool,
}

impl Supervisor {
    /// Supervises a command that was just started.
    pub(crate) fn of(
        group: ProcessGroup,
        mut watchdog: Watchdog,
        contact: LastContact,
        stderr: Stderr,
        log: EventLog,
    ) -> Self {
        watchdog.watch(group);
        let terminal = Terminal::open();
        terminal.offer(group);
        Self {
            group,
            processes: ProcessTree::of(group),
            watchdog,
            next_watchdog_start: None,
            terminal,
            stderr,
            log,
            contact,
            status: None,
            interrupt: None,
            forwarded: SigSet::empty(),
            continued: None,
            drain: None,
            termination: None,
            lost: None,
            server_error: None,
            has_survivors: false,
        }
    }

    /// Returns when all processes of the command have ended.
    pub(crate) fn run(mut self, events: &Receiver<Event>) -> End {
        loop {
            events.try_iter().for_each(|event| self.handle(event));
            self.reap();
            // Before the status is used: the watchdog may have killed the command while this
            // process was stopped, so the status cannot prove that it ended in time.
            self.check_term_deadline();
            if let Some(status) = self.status {
                if self.processes.is_empty() {
                    self.watchdog.dismiss();
                    self.group.give_up();
                    return End { status, interrupt: self.interrupt, lost: self.lost };
                }
                self.end_survivors();
            }
            self.advance_termination();
            self.check_watchdog();
            if let Ok(event) = events.recv_timeout(self.time_to_next_action()) {
                self.handle(event);
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Signal(Signal::SIGCHLD) => {}
            Event::Signal(signal) if self.has_only_survivors() => {
                self.handle_while_draining(signal)
            }
            // The SIGCONT of the shell's `fg` may arrive after another Control-Z: do not undo
            // that.
            Event::Signal(Signal::SIGCONT) if self.was_just_continued() => {}
            Event::Signal(Signal::SIGCONT)
                if self.terminal.has_pending_stop(self.group) => {}
            Event::Signal(Signal::SIGCONT) => self.resume(),
            Event::Signal(signal) => {
                self.forwarded.add(signal);
                self.group.signal(signal);
            }
            Event::Renewed(at) => {
                self.contact.renewed(at);
                self.server_error = None;
                self.log.renewed(self.contact.lease);
            }
            Event::SessionAlive(at, lease_left) => {
                self.contact.session_alive(at, lease_left);
            }
            Event::SessionBroken => self.contact.is_broken = true,
            Event::ServerError(error) => self.server_error = Some(short_message(&error)),
            Event::Revoked(end, reason) => {
                self.log.revoked(end, &reason);
                self.revoke(end, &reason);
            }
            Event::Lost => {
                self.set_lost("the server reports that it is no longer held".to_owned());
                self.terminate_by(Deadlines::of_lost(clock::now()));
            }
            Event::Note(note) => self.stderr.info(&note),
            Event::Discovered(_)
            | Event::Granted(..)
            | Event::TimedOut(_)
            | Event::HeldByOuterRun
            | Event::Failed(_) => {}
        }
    }

    /// Handles ends and stops of the command, and reaps its other processes.
    fn reap(&mut self) {
        while self.status.is_none() {
            match self.group.change() {
                None => return self.group.reap_others(),
                Some(Change::Ended { status, signal }) => {
                    self.status = Some(status);
                    let has_terminal = self.terminal.is_given_to(self.group);
                    let interrupt = signal.and_then(|signal| {
                        Interrupt::of(signal, &self.forwarded, has_terminal)
                    });
                    self.interrupt = interrupt.or(self.interrupt);
                    // Signals of the terminal are for the processes that wait for the end.
                    self.terminal.take_back(self.group);
                }
                // A stopped process handles TERM only after CONT.
                Some(Change::Stopped(_)) if self.termination.is_some() => {
                    self.group.signal(Signal::SIGCONT);
                }
                Some(Change::Stopped(signal)) => {
                    if self.terminal.handle_stop(self.group, signal) {
                        self.continued = (signal == Signal::SIGTSTP).then(clock::now);
                        self.resume();
                    }
                }
            }
        }
    }

    /// Whether a SIGCONT is the one that continued this process, and the command with it.
    fn was_just_continued(&mut self) -> bool {
        let continued = self.continued.take();
        continued.is_some_and(|at| clock::now().saturating_sub(at) < TICK)
    }

    /// Restarts the watchdog if it was killed: not too often, in case each one is killed at
    /// once, and not after its own deadline, when it has done its work.
    fn check_watchdog(&mut self) {
        let now = clock::now();
        let is_due = self.next_watchdog_start.is_none_or(|next| now >= next);
        if is_due && now < self.deadlines().watchdog && self.watchdog.has_ended() {
            self.next_watchdog_start = Some(now.saturating_add(TICK));
            if let Err(error) = self.watchdog.restart() {
                let why = exit::message(&error);
                self.stderr.error(&format!("failed to restart the watchdog: {why}"));
            }
        }
    }

    /// Whether the command has ended, and what it left running is not terminated yet.
    fn has_only_survivors(&self) -> bool {
        self.termination.is_none() && (self.status.is_some() || self.group.has_ended())
    }

    /// Handles a signal when the command has ended already. The processes that read its output
    /// are not stopped by Control-Z: they need little time.
    fn handle_while_draining(&mut self, signal: Signal) {
        if matches!(signal, Signal::SIGTSTP | Signal::SIGCONT) {
            return;
        }
        self.group.signal(signal);
        if Drain::is_ended_by(signal) {
            self.interrupt =
                Interrupt::of(signal, &SigSet::empty(), false).or(self.interrupt);
            self.terminate_by(Deadlines::of_survivors(clock::now()));
        }
    }

    /// Lets the processes that read the command's output finish, and terminates the others.
    fn end_survivors(&mut self) {
        if self.termination.is_some() {
            self.terminate_survivors();
            return;
        }
        let now = clock::now();
        let drain = self.drain.get_or_insert_with(|| Drain::since(now));
        let remaining = drain.settle(now, Remaining::of(self.processes.alive(), now));
        self.termination = drain.advance(now, &remaining);
        if !remaining.others.is_empty() || self.termination.is_some() {
            self.report_survivors();
        }
    }

    fn terminate_survivors(&mut self) {
        self.report_survivors();
        self.terminate_by(Deadlines::of_survivors(clock::now()));
    }

    fn report_survivors(&mut self) {
        if !self.has_survivors {
            self.has_survivors = true;
            self.stderr.info("terminating the processes that the command left running");
        }
    }

    /// Continues the command, unless its locks may be lost. Once it has ended, it does not get
    /// the terminal any more.
    fn resume(&mut self) {
        self.check_term_deadline();
        self.advance_termination();
        match self.status {
            None => self.terminal.resume(self.group),
            Some(_) => self.group.signal(Signal::SIGCONT),
        }
    }

    fn check_term_deadline(&mut self) {
        let deadlines = self.contact.deadlines();
        if self.lost.is_none() && clock::now() >= deadlines.term {
            let why = self.why_it_ends();
            self.set_lost(why);
            self.terminate_by(deadlines);
        }
    }

    /// Why the locks are about to end.
    fn why_it_ends(&mut self) -> String {
        if self.contact.is_limited() {
            return LIMITED.to_owned();
        }
        let why = self.server_error.take().unwrap_or_else(|| NO_REPLY.to_owned());
        format!("no contact with the server in time: {why}")
    }

    fn advance_termination(&mut self) {
        let (now, deadlines) = (clock::now(), self.deadlines());
        self.watchdog.set_deadline(deadlines.watchdog);
        if let Some(termination) = &mut self.termination {
            termination.advance(now, deadlines.kill, self.processes, &self.stderr);
        }
    }

    /// The locks may end before the deadlines of a termination in progress.
    fn deadlines(&self) -> Deadlines {
        let locks = self.contact.deadlines();
        let termination = self.termination.as_ref();
        termination.map_or(locks, |termination| termination.deadlines.earliest(locks))
    }

    /// Terminates the command before this moment, at which the locks end after a notice. A
    /// command that ended before keeps its own status.
    fn revoke(&mut self, end: Moment, reason: &Text) {
        self.reap();
        let now = clock::now();
        if self.status.is_none() {
            let left = Span(clock::millis(end.saturating_sub(now)));
            let message =
                format!("lock revoked: must be released within {left} ({reason})");
            self.end_hold(&message, REVOKED.to_owned());
        }
        self.terminate_by(Deadlines::of_notice(now, end));
    }

    fn set_lost(&mut self, why: String) {
        let message = format!("lock lost: {why}");
        if self.lost.is_none() {
            self.log.lost(&why);
        }
        self.end_hold(&message, why);
    }

    fn end_hold(&mut self, message: &str, why: String) {
        if self.lost.is_none() {
            self.stderr.error(&format!("{message}; terminating the command"));
            self.lost = Some(why);
        }
    }

    /// Terminates the command by these deadlines, or by earlier ones that were set before.
    fn terminate_by(&mut self, deadlines: Deadlines) {
        let deadlines = deadlines.earliest(self.contact.deadlines());
        match &mut self.termination {
            Some(termination) => {
                termination.deadlines = termination.deadlines.earliest(deadlines);
            }
            None => self.termination = Some(Termination::by(deadlines)),
        }
    }

    /// How long to wait for events. The end of any process of the command is an event, since
    /// orphans become children of this process.
    fn time_to_next_action(&self) -> Duration {
        let (now, deadlines) = (clock::now(), self.deadlines());
        let next = match &self.termination {
            Some(termination) => {
                if let Some(pause) = termination.kill_pause(now, TICK) {
                    return pause;
                }
                match self.lost {
                    Some(_) => deadlines.kill,
                    None => deadlines.kill.min(self.contact.deadlines().term),
                }
            }
            None => self
                .drain
                .as_ref()
                .map_or(deadlines.term, |drain| drain.next(now).min(deadlines.term)),
        };
        next.saturating_sub(now).min(TICK)
    }
}

fn short_message(error: &anyhow::Error) -> String {
    match error.downcast_ref::<RedisError>() {
        Some(error) if error.is_timeout() => NO_REPLY.to_owned(),
        // The server's own words.
        Some(error) if error.code().is_some() => {
            let detail = error.detail().unwrap_or_default();
            format!("{} {detail}", error.code().unwrap_or_default())
        }
        _ => exit::message(error),
    }
}
