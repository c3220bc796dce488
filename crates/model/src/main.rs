//! Explores all scopes, or those whose names contain a filter, and prints how far each was
//! explored.

use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use gpulock_model::explore::{Bounds, Explored, explore};
use gpulock_model::flaw::Flaw;
use gpulock_model::scope::{SCOPES, Scope};

const USAGE: &str = "\
Usage: gpulock-model [--minutes <N>] [--jobs <N>] [FILTER]

Arguments:
  [FILTER]         Explore only the scopes whose names contain this text

Options:
  --minutes <N>    Time limit for all scopes together [default: 10]
  --jobs <N>       Number of scopes to explore at the same time [default: 1]";

/// The arguments.
struct Args {
    minutes: f64,
    jobs: u32,
    filter: String,
}

/// The scopes that are not started yet, and whether a law was broken in any scope.
struct Work {
    left: Vec<&'static Scope>,
    is_broken: bool,
}

fn main() -> ExitCode {
    let Some(args) = parse(std::env::args().skip(1)) else { return usage() };
    let is_selected = |scope: &&Scope| scope.name.contains(&args.filter);
    // Jobs take scopes from the end.
    let left: Vec<&Scope> = SCOPES.iter().rev().filter(is_selected).collect();
    if left.is_empty() || args.jobs == 0 {
        return usage();
    }
    println!(
        "{:32} {:>7} {:>5} {:>10} {:>11} {:>5} {:>7}  exhausted",
        "scope", "clients", "locks", "states", "steps", "depth", "seconds"
    );
    let end = Instant::now() + Duration::from_secs_f64(60.0 * args.minutes);
    let work = Mutex::new(Work { left, is_broken: false });
    std::thread::scope(|threads| {
        for _ in 0..args.jobs {
            threads.spawn(|| run_job(&work, args.jobs, end));
        }
    });
    let is_broken = work.into_inner().map_or(true, |work| work.is_broken);
    if is_broken { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Explores scopes until none is left. The remaining time is shared equally by the remaining
/// scopes.
fn run_job(work: &Mutex<Work>, jobs: u32, end: Instant) {
    let next = || {
        let mut work = work.lock().ok()?;
        let scopes = u32::try_from(work.left.len()).unwrap_or(u32::MAX).max(jobs);
        let left = end.saturating_duration_since(Instant::now());
        Some((work.left.pop()?, left * jobs / scopes))
    };
    while let Some((scope, time)) = next() {
        let bounds = Bounds { depth: usize::MAX, time };
        let explored = explore(scope, Flaw::None, bounds);
        if let Ok(mut work) = work.lock() {
            print(scope, &explored);
            work.is_broken |= explored.counterexample.is_some();
        }
    }
}

/// Parses the arguments; none when they are invalid.
fn parse(mut args: impl Iterator<Item = String>) -> Option<Args> {
    let mut parsed = Args { minutes: 10.0, jobs: 1, filter: String::new() };
    while let Some(arg) = args.next() {
        match &arg[..] {
            "--minutes" => parsed.minutes = args.next()?.parse().ok()?,
            "--jobs" => parsed.jobs = args.next()?.parse().ok()?,
            option if option.starts_with('-') => return None,
            _ => parsed.filter = arg,
        }
    }
    Some(parsed)
}

fn print(scope: &Scope, explored: &Explored) {
    println!(
        "{:32} {:>7} {:>5} {:>10} {:>11} {:>5} {:>7.1}  {}",
        scope.name,
        scope.clients,
        scope.locks,
        explored.states,
        explored.steps,
        explored.depth,
        explored.time.as_secs_f64(),
        if explored.exhausted { "yes" } else { "no" },
    );
    if let Some((breach, actions)) = &explored.counterexample {
        println!("BROKEN {breach}");
        actions.iter().for_each(|action| println!("    {action:?}"));
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::FAILURE
}
