//! Explores all scopes, or those whose names hold a word, for some minutes, and prints how
//! far it got: `gpulock-model [--minutes n] [--jobs n] [word]`.

use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use gpulock_model::explore::{Bounds, Explored, explore};
use gpulock_model::flaw::Flaw;
use gpulock_model::scope::{SCOPES, Scope};

/// What was asked for.
struct Plan {
    minutes: f64,
    jobs: u32,
    word: String,
}

/// Scopes that nobody has begun with, and whether a law was broken in any.
struct Work {
    left: Vec<&'static Scope>,
    is_broken: bool,
}

fn main() -> ExitCode {
    let Some(plan) = plan(std::env::args().skip(1)) else { return usage() };
    let is_named = |scope: &&Scope| scope.name.contains(&plan.word);
    // The last one is begun with first.
    let left: Vec<&Scope> = SCOPES.iter().rev().filter(is_named).collect();
    if left.is_empty() || plan.jobs == 0 {
        return usage();
    }
    println!(
        "{:28} {:>7} {:>5} {:>10} {:>11} {:>5} {:>7}  exhausted",
        "scope", "clients", "locks", "states", "steps", "depth", "seconds"
    );
    let end = Instant::now() + Duration::from_secs_f64(60.0 * plan.minutes);
    let work = Mutex::new(Work { left, is_broken: false });
    std::thread::scope(|threads| {
        for _ in 0..plan.jobs {
            threads.spawn(|| do_work(&work, plan.jobs, end));
        }
    });
    let is_broken = work.into_inner().map_or(true, |work| work.is_broken);
    if is_broken { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Explores one scope after the other. What one leaves of its share is for those after it.
fn do_work(work: &Mutex<Work>, jobs: u32, end: Instant) {
    let next = || {
        let mut work = work.lock().ok()?;
        let choose = u32::try_from(work.left.len()).unwrap_or(u32::MAX).max(jobs);
        let left = end.saturating_duration_since(Instant::now());
        Some((work.left.pop()?, left * jobs / choose))
    };
    while let Some((scope, time)) = next() {
        let bounds = Bounds { depth: usize::MAX, time };
        let explored = explore(scope, Flaw::None, bounds);
        if let Ok(mut work) = work.lock() {
            print(scope, &explored);
            work.is_broken |= explored.breach.is_some();
        }
    }
}

/// Reads the arguments; none when they are no such.
fn plan(mut args: impl Iterator<Item = String>) -> Option<Plan> {
    let mut plan = Plan { minutes: 10.0, jobs: 1, word: String::new() };
    while let Some(arg) = args.next() {
        match &arg[..] {
            "--minutes" => plan.minutes = args.next()?.parse().ok()?,
            "--jobs" => plan.jobs = args.next()?.parse().ok()?,
            name if name.starts_with('-') => return None,
            _ => plan.word = arg,
        }
    }
    Some(plan)
}

fn print(scope: &Scope, explored: &Explored) {
    println!(
        "{:28} {:>7} {:>5} {:>10} {:>11} {:>5} {:>7.1}  {}",
        scope.name,
        scope.clients,
        scope.locks,
        explored.states,
        explored.steps,
        explored.depth,
        explored.time.as_secs_f64(),
        if explored.exhausted { "yes" } else { "no" },
    );
    if let Some((breach, actions)) = &explored.breach {
        println!("BROKEN {breach}");
        actions.iter().for_each(|action| println!("    {action:?}"));
    }
}

fn usage() -> ExitCode {
    eprintln!("gpulock-model [--minutes n] [--jobs n] [a word of the scopes' names]");
    ExitCode::FAILURE
}
