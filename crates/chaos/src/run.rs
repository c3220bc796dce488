//! A run consists of rounds. Each starts its own server, injects faults under load,
//! cleans up, and checks the history. So the counters are at rest at the end of each
//! round, and a failed round can be run again alone. Its seed reproduces all random
//! decisions but not how the machine interleaves them; the exact history is in the saved
//! file.

use std::any::Any;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use gpulock_testkit::server::Builder;
use gpulock_testkit::{Flavour, Value};

use crate::checker::{Rule, Verdict, Violation, check};
use crate::client::{Client, ClientContext, WORKER};
use crate::clock::{MS, Nanos, now};
use crate::faults::context::{Environment, Persistence, Setup, renamed};
use crate::faults::{Fault, FaultContext, busy_script, permissions_revoked};
use crate::history::{Entry, Event, StatsSample};
use crate::recorder::Recorder;
use crate::worker_pool::WorkerPool;

/// Maximum time until released holds and waiters are gone.
const SOON: Nanos = 10_000 * MS;

/// The settings of a run.
pub struct Plan {
    /// The server.
    pub flavour: Flavour,
    /// The module to load.
    pub module: PathBuf,
    /// The rule that the module breaks on purpose, if it was built for that.
    pub broken: Option<String>,
    /// This program, which also runs clients in separate processes.
    pub program: PathBuf,
    /// Number of clients in this process.
    pub clients: u32,
    /// The faults to inject.
    pub faults: Vec<&'static dyn Fault>,
}

/// The result of a round.
pub struct Round {
    /// Its seed.
    pub seed: u64,
    /// The recorded history.
    pub history: Vec<Entry>,
    /// The result of the checker.
    pub verdict: Verdict,
    /// The server's log.
    pub log: String,
    /// How often each fault was injected.
    pub injected: BTreeMap<&'static str, u64>,
    /// Faults that were not possible, and why.
    pub skipped: BTreeMap<&'static str, String>,
}

/// Number of clients in separate processes.
const WORKER_PROCESSES: usize = 3;

/// First client number of local processes, and of those in a network namespace.
const FIRST_WORKER: u32 = 1_000;
const FIRST_NAMESPACE_WORKER: u32 = 1_000_000;

/// Runs one round.
pub fn round(plan: &Plan, seed: u64, length: Duration) -> Round {
    let mut rng = Rng::with_seed(seed);
    let persistence = match seed % 3 {
        0 => Persistence::AofAlways,
        1 => Persistence::AofEverysec,
        _ => Persistence::Rdb,
    };
    let is_renamed = seed % 4 == 3;
    let queue_round = if seed % 5 < 3 { 1 } else { 3 };
    let recorder = Recorder::default();
    let mut outcome = Outcome::default();
    // The test kit panics if the server has crashed.
    let result = catch_unwind(AssertUnwindSafe(|| {
        run_faults(
            plan,
            Setup { persistence, is_renamed, queue_round },
            &mut rng,
            &recorder,
            length,
            &mut outcome,
        )
    }));
    let names = if is_renamed { ", commands renamed" } else { "" };
    let description = format!("{} seed {seed} {persistence:?}{names}", plan.flavour);
    let queue_round = Event::QueueRound { grants: queue_round };
    let mut history = vec![Entry::Description(description), Entry::Event(queue_round)];
    history.append(&mut recorder.take());
    let mut verdict = check(&history);
    let failure = match result {
        Ok(failure) => failure.err(),
        Err(panic) => Some(describe(panic.as_ref())),
    };
    if let Some(what) = failure {
        verdict.violations.push(Violation { rule: Rule::ServerAlive, at: now(), what });
    }
    let Outcome { log, injected, skipped } = outcome;
    Round { seed, history, verdict, log, injected, skipped }
}

#[derive(Default)]
struct Outcome {
    log: String,
    injected: BTreeMap<&'static str, u64>,
    skipped: BTreeMap<&'static str, String>,
}

fn run_faults(
    plan: &Plan,
    setup: Setup,
    rng: &mut Rng,
    recorder: &Recorder,
    length: Duration,
    outcome: &mut Outcome,
) -> Result<(), String> {
    let environment = Environment::prepare(&plan.faults, &plan.flavour);
    let server = environment.configure(server(plan, setup)).try_start()?;
    let shared = ClientContext::new((Ipv4Addr::LOCALHOST, server.port()));
    let workers = |address, first: u32, rng: &mut Rng| {
        let (program, rng) = (plan.program.clone(), rng.fork());
        WorkerPool::new(program, (address, server.port()), recorder.clone(), rng, first)
    };
    let local_workers = workers(Ipv4Addr::LOCALHOST, FIRST_WORKER, rng);
    let remote_workers = environment
        .namespace
        .as_ref()
        .ok()
        .map(|namespace| workers(namespace.address(), FIRST_NAMESPACE_WORKER, rng));
    let mut context = FaultContext::new(
        (server, setup),
        plan.module.clone(),
        environment,
        (shared.clone(), local_workers),
        rng.fork(),
        recorder,
    );
    let injected = thread::scope(|scope| {
        let mut clients = Vec::new();
        for number in 1..=plan.clients {
            let (shared, writer) = (shared.clone(), recorder.writer());
            let rng = rng.fork();
            let client =
                scope.spawn(move || Client::new(number, shared, rng, writer).run());
            clients.push(client);
        }
        // The clients must be stopped even if this panics.
        let result = catch_unwind(AssertUnwindSafe(|| {
            context.workers.start(WORKER_PROCESSES)?;
            if let (Ok(namespace), Some(workers)) =
                (&mut context.environment.namespace, remote_workers)
            {
                namespace.set_workers(workers)?;
            }
            inject_faults(&mut context, &plan.faults, length, outcome)
        }));
        shared.stop.store(true, Ordering::Relaxed);
        context.finish_processes();
        let result = result.unwrap_or_else(|panic| Err(describe(panic.as_ref())));
        // The samples show that the server still replies while the last clients wait.
        while result.is_ok() && clients.iter().any(|client| !client.is_finished()) {
            sample_stats(&mut context, false);
            thread::sleep(Duration::from_millis(50));
        }
        result
    });
    let result = injected.and_then(|()| clean_up(&mut context));
    outcome.log = context.server.log();
    result
}

fn server(plan: &Plan, setup: Setup) -> Builder {
    let Setup { persistence, is_renamed, queue_round } = setup;
    let queue_round = queue_round.to_string();
    let builder = plan.flavour.server().module_path(&plan.module);
    let builder = builder.module_args(&["gpulock.round", &queue_round]);
    let builder = builder
        .arg("busy-reply-threshold", busy_script::THRESHOLD_MS)
        .arg("user", format!("{WORKER} {}", permissions_revoked::ALL_PERMISSIONS));
    let builder = if is_renamed { renamed(builder) } else { builder };
    let builder = match &plan.broken {
        Some(rule) => builder.env("GPULOCK_BROKEN", rule),
        None => builder,
    };
    match persistence {
        Persistence::AofAlways => {
            builder.arg("appendonly", "yes").arg("appendfsync", "always")
        }
        Persistence::AofEverysec => {
            builder.arg("appendonly", "yes").arg("appendfsync", "everysec")
        }
        Persistence::Rdb => builder,
    }
}

/// Injects faults until the time is over.
fn inject_faults(
    context: &mut FaultContext,
    faults: &[&'static dyn Fault],
    length: Duration,
    outcome: &mut Outcome,
) -> Result<(), String> {
    let mut possible = Vec::new();
    for fault in faults {
        match fault.requirements(context) {
            Ok(()) => possible.push(*fault),
            Err(why) => drop(outcome.skipped.insert(fault.name(), why)),
        }
    }
    let end = now() + u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
    while now() < end {
        context.workers.thaw_if_due();
        context.sleep_between(2, 60);
        if let Some(fault) = random_fault(context, &possible) {
            let injected = fault
                .inject(context)
                .map_err(|why| format!("{}: {why}", fault.name()))?;
            *outcome.injected.entry(fault.name()).or_default() += u64::from(injected);
        }
        sample_stats(context, false);
    }
    Ok(())
}

fn random_fault(
    context: &mut FaultContext,
    faults: &[&'static dyn Fault],
) -> Option<&'static dyn Fault> {
    let total: u64 = faults.iter().map(|fault| fault.weight()).sum();
    let mut remaining = context.rng.u64(0..=total.checked_sub(1)?);
    faults.iter().copied().find(|fault| {
        let hit = remaining < fault.weight();
        remaining = remaining.saturating_sub(fault.weight());
        hit
    })
}

/// Releases all remaining holds after the clients have stopped, and waits until nothing
/// is left.
fn clean_up(context: &mut FaultContext) -> Result<(), String> {
    let from = now();
    for db in 0..2 {
        context.expect_ok(&format!("SELECT {db}"))?;
        for lock in context.send("GPULOCK.LIST LIMIT 1000000").list() {
            let key = lock.field("key").text();
            context.send(&format!("GPULOCK.FORCERELEASE {key}"));
        }
    }
    let by = "cleanup".to_owned();
    context.record_event(Event::KeysModified { by, locks: None, from, to: now() });
    while !sample_stats(context, now() - from > SOON) {
        thread::sleep(Duration::from_millis(5));
    }
    sample_stats(context, true);
    Ok(())
}

/// Records the counters; returns true if nothing is held and no client waits, or if this
/// is the final sample.
fn sample_stats(context: &mut FaultContext, is_final: bool) -> bool {
    let mut counters = BTreeMap::new();
    for (name, value) in context.send("GPULOCK.STATS").map() {
        if let Value::Int(number) = value {
            counters.insert(name, number);
        }
    }
    let is_idle = counters["locks_held"] == 0 && counters["clients_waiting"] == 0;
    context.write(Entry::Stats(StatsSample { at: now(), counters, is_final }));
    is_idle || is_final
}

fn describe(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a message").to_owned()
}
