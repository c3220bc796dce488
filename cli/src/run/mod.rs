//! `gpulock run`: runs a command while it holds locks. The command never outlives them.
//!
//! # Layout
//! - [`args`]: the options; [`help`][]: more for `--help`
//! - [`discover`]: finds the candidate locks
//! - [`session`]: the thread that acquires the locks ([`acquisition`], [`wait_budget`],
//!   [`division`]),
//!   checks them ([`check`]) and keeps them tied to its connection ([`tie`]); [`renewal`]: the
//!   thread that renews them, [`adopted`]: what the session learns from it; [`stop_flag`]: ends both
//! - [`waiting`], [`progress`], [`holders`]: until the locks are granted; [`nested`]: if the run
//!   that started this one holds them; [`last_look`]: at their GPUs
//! - [`command`]: starts the command under the locks, and releases them afterwards
//! - [`child`], [`process_group`], [`terminal`], [`signals`]: the command as a job;
//!   [`process_tree`], [`processes`]: everything that it started; [`readers`], [`drain`]: what
//!   reads its output after its end
//! - [`supervisor`]: while it runs; [`deadlines`]: when it must end; [`terminate`]: kills it;
//!   [`watchdog`]: kills it if this process cannot
//! - [`foreign_use`]: reports processes that use its GPUs without a lock ([`gpu_users`])
//! - [`environment`]: the variables that the command gets; [`on_lost`]: `--on-lost`;
//!   [`ending`]: the end of `gpulock`; [`stderr`]: messages;
//!   [`event_log`], [`event_sink`]: `--events`
//!
//! Threads report to the main thread with an [`Event`]; only the main thread decides and acts.

mod acquisition;
mod adopted;
mod args;
mod check;
pub(crate) mod child;
mod command;
mod deadlines;
pub(crate) mod discover;
mod division;
mod drain;
pub(crate) mod ending;
pub(crate) mod environment;
pub(crate) mod event_log;
mod event_sink;
mod foreign_use;
pub(crate) mod gpu_users;
pub(crate) mod help;
mod holders;
mod last_look;
pub(crate) mod nested;
mod on_lost;
mod process_group;
mod process_tree;
mod processes;
mod progress;
mod readers;
mod renewal;
pub(crate) mod session;
pub(crate) mod signals;
pub(crate) mod stderr;
mod stop_flag;
mod supervisor;
mod terminal;
mod terminate;
mod tie;
pub(crate) mod wait_budget;
pub(crate) mod waiting;
pub(crate) mod watchdog;

use std::ops::ControlFlow;
use std::panic;
use std::process::{self, ExitCode};
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::{SigSet, Signal};

pub(crate) use self::args::Args;
use self::command::{CommandRun, Granted};
use self::ending::Ending;
use self::event_log::EventLog;
use self::session::Session;
use self::stderr::Stderr;
use self::waiting::Outcome;
use crate::clock::Moment;
use crate::exit;
use crate::locks::{Lock, Targets};
use crate::server::Address;
use crate::text::Text;

/// The locks were not acquired in time (`EX_TEMPFAIL` of sysexits.h).
pub(crate) const NOT_ACQUIRED: u8 = 75;

/// The locks were lost while the command ran.
const LOST: u8 = 76;

/// What the threads report to the main thread.
pub(crate) enum Event {
    /// A signal came.
    Signal(Signal),
    /// The search for the GPUs of this host has ended.
    Discovered(Result<Targets>),
    /// The locks were granted. At the given moment their leases had not begun, or were renewed.
    Granted(Vec<Lock>, Moment),
    /// The locks were not granted in time. Contains who holds them, if that is known.
    TimedOut(Option<String>),
    /// The locks are held by the run that started this one.
    HeldByOuterRun,
    /// The locks cannot be acquired.
    Failed(anyhow::Error),
    /// A message for the user.
    Note(String),
    /// The leases were renewed by a call that was sent at this moment.
    Renewed(Moment),
    /// The locks were checked on the session's connection by a call that was sent at this
    /// moment. Contains the shortest remaining lease, if the server reported it.
    SessionAlive(Moment, Option<Duration>),
    /// The session's connection broke.
    SessionBroken,
    /// A call to the server failed.
    ServerError(anyhow::Error),
    /// The holder was given notice, with this reason: the locks end at this moment at the latest.
    Revoked(Moment, Text),
    /// The server reports that a lock is no longer held.
    Lost,
}

/// Runs the command under its locks, and returns its status. Ends this process if the command
/// was interrupted.
///
/// # Errors
/// If the processes of the command could not be supervised.
pub(crate) fn run(address: &Address, args: &Args) -> Result<ExitCode> {
    abort_on_panic();
    processes::check_proc()?;
    let events = args.open_events();
    // Before any thread is started, because threads inherit the mask.
    let blocked = signals::block()?;
    let stderr = Stderr::start(args.quiet)?;
    let log = EventLog::start(events, &stderr)?;
    let ending = acquire_and_run(address, args, blocked, (&stderr, &log));
    let ending = ending.unwrap_or_else(|error| {
        stderr.error(&exit::message(&error));
        Ending::Status(exit::status(&error))
    });
    log.end(ending.status());
    stderr.flush();
    Ok(ending.finish())
}

/// After a panic a thread no longer keeps the locks: end the whole process, so that the
/// watchdog kills the command.
pub(crate) fn abort_on_panic() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        print(info);
        process::abort();
    }));
}

fn acquire_and_run(
    address: &Address,
    args: &Args,
    blocked: SigSet,
    (stderr, log): (&Stderr, &EventLog),
) -> Result<Ending> {
    let (sender, events) = channel();
    signals::listen(blocked, sender.clone())?;
    let targets = match discover::discover(&args.locks, stderr, &sender, &events)? {
        ControlFlow::Continue(targets) => targets,
        ControlFlow::Break(signal) => return Ok(Ending::of_signal(signal)),
    };
    args.locks.check(&targets);
    let variables = args.locks.variables(&targets);
    let gpus = targets.gpus();
    let request = args.request(&targets)?;
    log.set_owner(&request.owner);
    let budget = args.wait.budget();
    let address = &match request.keys.first() {
        Some(key) => address.for_key(&key.0),
        None => address.clone(),
    };
    let session =
        Session::start(address, request.clone(), targets, budget, sender.clone())?;
    let run = CommandRun { address, args, request, session, stderr, log };
    loop {
        match waiting::wait(&run.session, address, &run.request, (stderr, log), &events)?
        {
            Outcome::Granted(locks, at) => {
                let (variables, gpus) = (variables.clone(), gpus.clone());
                let granted = Granted { locks, at, variables, gpus };
                if let Some(ending) = run.run(&granted, &sender, &events)? {
                    return Ok(ending);
                }
            }
            Outcome::HeldByOuterRun => {
                return nested::execute(&args.command, stderr, &events);
            }
            Outcome::TimedOut(holders) => {
                stderr.info(&args.wait.busy_message(holders));
                return Ok(Ending::Status(args.status_busy));
            }
            Outcome::Interrupted(signal) => return Ok(Ending::of_signal(signal)),
        }
    }
}
