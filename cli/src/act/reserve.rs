//! `gpulock reserve`: acquires locks that no process holds. They end with their lease, which
//! nothing renews. The variables that describe them are printed for the shell.

use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::error::ErrorKind;
use nix::sys::signal::SigSet;

use crate::act::granted::Granted;
use crate::act::reservation;
use crate::locks::{
    LockOptions, LockRequest, Targets, TurnOptions, host, login_name, with_random_number,
};
use crate::run::ending::Ending;
use crate::run::event_log::EventLog;
use crate::run::session::Session;
use crate::run::stderr::Stderr;
use crate::run::wait_budget::WaitOptions;
use crate::run::waiting::{self, Outcome};
use crate::run::{NOT_ACQUIRED, abort_on_panic, discover, environment, signals};
use crate::server::Address;

/// The options of `gpulock reserve`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    locks: LockOptions,
    /// How long to hold the locks, counted from the grant
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    duration: Duration,
    #[command(flatten)]
    turn: TurnOptions,
    #[command(flatten)]
    wait: WaitOptions,
    /// Name in the owner `reserved:NAME@HOST-…` [default: your login name]
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    /// Print errors only
    #[arg(short, long)]
    quiet: bool,
    /// Print a JSON object instead of shell commands
    #[arg(long)]
    json: bool,
}

/// Reserves the locks, and prints the variables.
///
/// # Errors
/// If the server cannot be reached or rejects the call, or the variables cannot be printed. No
/// lock is held then.
pub(crate) fn run(address: &Address, args: &Args) -> Result<ExitCode> {
    abort_on_panic();
    reservation::ensure_none()?;
    // Before any thread is started, because threads inherit the mask.
    let blocked = signals::block()?;
    let stderr = Stderr::start(args.quiet)?;
    let ending = reserve(address, args, blocked, &stderr);
    stderr.flush();
    Ok(ending?.finish())
}

fn reserve(
    address: &Address,
    args: &Args,
    blocked: SigSet,
    stderr: &Stderr,
) -> Result<Ending> {
    let (sender, events) = channel();
    signals::listen(blocked, sender.clone())?;
    let targets = match discover::discover(&args.locks, stderr, &sender, &events)? {
        ControlFlow::Continue(targets) => targets,
        ControlFlow::Break(signal) => return Ok(Ending::of_signal(signal)),
    };
    args.locks.check(&targets);
    check_keys(&targets);
    let variables = args.locks.variables(&targets);
    let request = &args.request(&targets)?;
    let budget = args.wait.budget();
    let address = &match request.keys.first() {
        Some(key) => address.for_key(&key.0),
        None => address.clone(),
    };
    let session = Session::start(address, request.clone(), targets, budget, sender)?;
    let outcome = waiting::wait(
        &session,
        address,
        request,
        (stderr, &EventLog::default()),
        &events,
    );
    match outcome.map_err(|error| args.explain(error))? {
        Outcome::Granted(locks, at) => {
            let until = at.saturating_add(args.duration);
            let granted = Granted { address, request, locks, variables, until };
            let interrupted = granted.publish(args.json, stderr, &events)?;
            Ok(interrupted.map_or(Ending::Status(0), Ending::of_signal))
        }
        Outcome::HeldByOuterRun => {
            bail!("the locks are held by the run that started this process")
        }
        Outcome::TimedOut(holders) => {
            stderr.info(&args.wait.busy_message(holders));
            Ok(Ending::Status(NOT_ACQUIRED))
        }
        Outcome::Interrupted(signal) => Ok(Ending::of_signal(signal)),
    }
}

impl Args {
    fn request(&self, targets: &Targets) -> Result<LockRequest> {
        let name = self.owner.clone().unwrap_or_else(login_name);
        let (keys, count, groups) = targets.requested(usize::from(self.locks.count));
        Ok(LockRequest {
            keys,
            count,
            groups,
            turn: self.turn.turn(),
            owner: with_random_number(&format!("reserved:{name}@{}", host()))?,
            lease: self.duration,
            is_tied: false,
            grace: Duration::ZERO,
        })
    }

    /// Names the option that the server rejected.
    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        if !error.to_string().contains("lease exceeds") {
            return error;
        }
        let duration = humantime::format_duration(self.duration);
        error.context(format!("--for {duration} is longer than the server allows"))
    }
}

/// Ends the process with a usage error if a key cannot be listed in a variable.
fn check_keys(targets: &Targets) {
    let (keys, ..) = targets.requested(1);
    if let Some(key) = keys.iter().find(|key| key.0.contains(&b',')) {
        let why = format!(
            "invalid key {key}: a comma separates keys in {}\n",
            environment::KEYS
        );
        clap::Error::raw(ErrorKind::ValueValidation, why).exit();
    }
}

/// The server's leases are as short as 1 ms; a shorter reservation than this is a mistake.
fn duration(text: &str) -> Result<Duration> {
    const MIN: Duration = Duration::from_secs(1);
    let duration = humantime::parse_duration(text)?;
    ensure!(duration >= MIN, "must be at least 1s");
    Ok(duration)
}
