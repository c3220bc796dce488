//! `gpulock run`: a command runs while it holds locks, and does not outlive them.
//!
//! # Layout
//! - [`wanted`]: which locks; [`finding`]: where they are GPUs; [`patience`]: how long to
//!   wait for them
//! - [`session`]: the thread that takes them, and keeps them tied to its connection;
//!   [`renewal`]: the one that renews them; [`locks`]: the calls that both make
//! - [`waiting`], [`progress`]: until they are granted
//! - [`child`], [`terminal`], [`signals`]: the command, and what a shell does for it;
//!   [`crew`]: all the [`processes`] it consists of
//! - [`watch`]: while it runs; [`deadlines`]: when it must have ended; [`guard`]: should
//!   this process not see to that; [`over`]: no renewal after the end
//! - [`environment`]: what the command is told; [`ending`]: `--on-lost`
//! - [`say`]: standard error
//!
//! Threads tell what they see as an [`Event`]; the main thread alone decides and acts.

pub(crate) mod child;
mod crew;
mod deadlines;
mod ending;
mod environment;
mod finding;
pub(crate) mod guard;
mod locks;
mod over;
mod patience;
mod processes;
mod progress;
mod renewal;
mod say;
mod session;
mod signals;
mod terminal;
mod waiting;
mod wanted;
mod watch;

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::panic;
use std::path::Path;
use std::process::{self, ExitCode};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::{SigSet, Signal};
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::system::uname;

use crate::clock::{self, Moment};
use crate::exit::{self, sentence};
use crate::replies::told;
use crate::run::deadlines::Hold;
use crate::run::environment::Environment;
use crate::run::guard::Guard;
use crate::run::locks::{Lock, Wish};
use crate::run::patience::Patience;
use crate::run::say::Voice;
use crate::run::session::Session;
use crate::run::waiting::Outcome;
use crate::run::wanted::Wanted;
use crate::run::watch::Watch;
use crate::server::Address;
use crate::text::Text;

/// The locks could not be had in time (`EX_TEMPFAIL` of sysexits.h).
const NOT_ACQUIRED: u8 = 75;

/// The locks were lost while the command ran.
const LOST: u8 = 76;

/// The options of `gpulock run`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("locks").required(true))]
pub(crate) struct Args {
    /// The lock to hold
    #[arg(long, value_name = "KEY", group = "locks")]
    key: Option<OsString>,
    /// The locks to hold some of, the preferred ones first
    #[arg(long, value_name = "KEY,…", value_delimiter = ',', group = "locks")]
    keys: Vec<OsString>,
    /// Holds GPUs of this host, as the locks {NAME:host}:gpu:0, … of this pool
    #[arg(long, value_name = "NAME", group = "locks")]
    pool: Option<String>,
    /// So many of them
    #[arg(short = 'n', value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    count: u16,
    /// How long the locks outlive the last word with the server
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = lease)]
    lease: Duration,
    /// Waits at most so long for the locks; without it, for ever
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    wait: Option<Duration>,
    /// Does not wait
    #[arg(long, conflicts_with = "wait")]
    no_wait: bool,
    /// How long the locks outlive a connection that breaks
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    grace: Duration,
    /// What the owner's name begins with; without it, the name of the command
    #[arg(long, value_name = "TEXT")]
    owner: Option<String>,
    /// Passes over GPUs with less free memory than this
    #[arg(long, value_name = "MIB", conflicts_with_all = ["key", "keys"])]
    min_free_mib: Option<u64>,
    /// Runs this in a shell when the locks were lost and the command has ended
    #[arg(long, value_name = "COMMAND")]
    on_lost: Option<OsString>,
    /// Says nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// The command
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// What the threads tell the main thread.
enum Event {
    /// A signal came.
    Signal(Signal),
    /// The GPUs of this host were looked for.
    Found(Result<Wanted>),
    /// The locks are held. At the moment named the lease had not begun, or was renewed.
    Granted(Vec<Lock>, Moment),
    /// They could not be had in time.
    TimeOver,
    /// They cannot be had.
    Failed(anyhow::Error),
    /// Something to be said.
    Note(String),
    /// They were renewed by a call sent at that moment.
    Renewed(Moment),
    /// The session's connection answered a look that was sent at that moment, with what is
    /// left of the shortest lease.
    Heard(Moment, Option<Duration>),
    /// It has ended.
    Broken,
    /// The server could not be asked.
    Trouble(anyhow::Error),
    /// The server says that they are not held any more.
    Lost,
}

/// Runs the command under its locks, and answers its status.
///
/// # Errors
/// When the server cannot be reached, or refuses.
pub(crate) fn run(address: &Address, args: &Args) -> Result<ExitCode> {
    end_with_any_thread();
    // Before any thread, so that none takes a signal by itself.
    let taken = signals::block()?;
    let voice = Voice::start(args.quiet)?;
    let status = take_and_run(address, args, taken, &voice).unwrap_or_else(|error| {
        voice.complain(&sentence(&error));
        exit::status(&error)
    });
    voice.finish();
    Ok(ExitCode::from(status))
}

/// A thread that panicked keeps no lock any more. All ends then, and the guard sees to the
/// command.
fn end_with_any_thread() {
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |what| {
        tell(what);
        process::abort();
    }));
}

fn take_and_run(
    address: &Address,
    args: &Args,
    taken: SigSet,
    voice: &Voice,
) -> Result<u8> {
    let (sender, events) = channel();
    signals::listen(taken, sender.clone())?;
    let wanted = match finding::find(args, voice, &sender, &events)? {
        ControlFlow::Continue(wanted) => wanted,
        ControlFlow::Break(signal) => return Ok(child::by_signal(signal as i32)),
    };
    refuse_more_than(wanted.all().len(), args.count);
    let devices = wanted.devices();
    let wish = wish(args, &wanted)?;
    let patience = patience(args);
    let session =
        Session::start(address, wish.clone(), wanted, patience, sender.clone())?;
    match waiting::wait(&session, address, &wish, voice, &events)? {
        Outcome::Granted(locks, at) => {
            let granted = Granted { locks, at, devices };
            let run = Run { address, args, wish, session, voice };
            run.command(granted, &sender, &events)
        }
        Outcome::TimeOver => {
            voice.say("the locks could not be had in time");
            Ok(NOT_ACQUIRED)
        }
        Outcome::Interrupted(signal) => Ok(child::by_signal(signal as i32)),
    }
}

/// What stays the same while the command runs.
struct Run<'a> {
    address: &'a Address,
    args: &'a Args,
    wish: Wish,
    session: Session,
    voice: &'a Voice,
}

/// What was granted.
struct Granted {
    locks: Vec<Lock>,
    /// When the leases had not begun, or were renewed.
    at: Moment,
    /// What CUDA calls the GPUs of the pool.
    devices: Vec<(Text, String)>,
}

impl Run<'_> {
    /// Starts the command, watches it to its end, and gives the locks back.
    fn command(
        &self,
        granted: Granted,
        sender: &Sender<Event>,
        events: &Receiver<Event>,
    ) -> Result<u8> {
        let env = environment::of(&self.wish.owner, &granted.locks, &granted.devices);
        let Granted { locks, at, .. } = granted;
        let hold = Hold::from(at, self.wish.lease, self.wish.grace);
        let watch = match self.start(hold, &locks, &env, sender) {
            Ok(Some(watch)) => watch,
            Ok(None) => {
                self.give_back_what_is_left(&locks);
                self.voice.say("the locks were lost before the command was started");
                return Ok(NOT_ACQUIRED);
            }
            Err(error) => {
                self.give_back(&locks, "not started");
                return Err(error);
            }
        };
        let end = watch.until_the_end(events);
        let Some(lost) = end.lost else {
            self.give_back(&locks, &ending::reason(end.status));
            return Ok(end.status);
        };
        self.give_back_what_is_left(&locks);
        if let Some(command) = &self.args.on_lost
            && let Err(error) = ending::on_lost(command, env, &lost, events)
        {
            self.voice.complain(&format!("--on-lost: {}", sentence(&error)));
        }
        Ok(LOST)
    }

    /// Starts the command, and all that watches it before that. None: the locks may be lost
    /// already, as when this process was stopped since they were granted.
    fn start(
        &self,
        hold: Hold,
        locks: &[Lock],
        env: &Environment,
        sender: &Sender<Event>,
    ) -> Result<Option<Watch>> {
        let Wish { owner, lease, .. } = &self.wish;
        let guard = Guard::start(owner, hold.dues().guard)?;
        let tells = (self.session.over().clone(), sender.clone());
        renewal::start(self.address, owner, locks, *lease, hold.renewed, tells)?;
        if clock::now() >= hold.dues().term {
            guard.dismiss();
            return Ok(None);
        }
        let group = child::start(&self.args.command, env, hold.dues().term)?;
        Ok(Some(Watch::over(group, guard, hold, self.voice.clone())))
    }

    /// Of several locks only one may be lost.
    fn give_back_what_is_left(&self, locks: &[Lock]) {
        const BRIEF: Duration = Duration::from_secs(1);
        self.session.over().say();
        let release = |mut connection| {
            let owner = &self.wish.owner;
            let left = locks::still_held(&mut connection, owner, locks)?;
            let left: Vec<Lock> = left.into_iter().map(|held| held.lock).collect();
            // A RELEASE of one that is lost would be counted as a violation.
            Ok(locks::release(&mut connection, owner, &left, "another was lost")?)
        };
        // The server may well be what was lost.
        let _unreachable = self.address.connect_within(BRIEF).and_then(release);
    }

    /// What cannot be given back ends with its session.
    fn give_back(&self, locks: &[Lock], reason: &str) {
        self.session.over().say();
        let release = |mut connection| {
            locks::release(&mut connection, &self.wish.owner, locks, reason).map_err(told)
        };
        if let Err(error) = self.address.connect().and_then(release) {
            let why = sentence(&error);
            self.voice.complain(&format!("the locks end with their session: {why}"));
        }
    }
}

/// More than there are is an error of the command line, and ends the process as such.
fn refuse_more_than(of: usize, count: u16) {
    if usize::from(count) > of {
        let are = if of == 1 { "is" } else { "are" };
        let why = format!("-n {count}: there {are} only {of} to choose from\n");
        clap::Error::raw(clap::error::ErrorKind::ValueValidation, why).exit();
    }
}

fn wish(args: &Args, wanted: &Wanted) -> Result<Wish> {
    Ok(Wish {
        keys: wanted.all(),
        count: usize::from(args.count),
        owner: owner(args)?,
        lease: args.lease,
        grace: args.grace,
    })
}

fn patience(args: &Args) -> Patience {
    match (args.no_wait, args.wait) {
        (true, _) => Patience::None,
        (false, Some(wait)) => Patience::Until(clock::now().saturating_add(wait)),
        (false, None) => Patience::Endless,
    }
}

/// An owner that names this run alone.
fn owner(args: &Args) -> Result<String> {
    let command = args.command.first().map(Path::new).and_then(Path::file_name);
    let text = match &args.owner {
        Some(text) => text.clone(),
        None => command.unwrap_or_default().to_string_lossy().into_owned(),
    };
    let mut random = [0; 8];
    getrandom(&mut random, GetRandomFlags::empty())?;
    let random = u64::from_ne_bytes(random);
    Ok(format!("{text}-{}-{}-{random:016x}", host(), process::id()))
}

fn host() -> String {
    uname().nodename().to_string_lossy().into_owned()
}

/// A lease that leaves the time to act before it ends.
fn lease(text: &str) -> Result<Duration> {
    const SHORTEST: Duration = Duration::from_secs(1);
    let lease = humantime::parse_duration(text)?;
    ensure!(lease >= SHORTEST, "at least 1s");
    Ok(lease)
}
