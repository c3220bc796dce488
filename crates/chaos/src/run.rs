//! A run is a row of rounds. Each has a server of its own, which is loaded, harmed, and at
//! the end given up by all; then its history is judged. So every round ends with the counters
//! at rest, and one that failed can be played again alone. Its seed repeats what everybody
//! means to do, not how the machine interleaves them: the history is what can be had again.

use std::any::Any;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use gpulock_testkit::server::Builder;
use gpulock_testkit::{Flavour, Value};

use crate::checker::{Rule, Verdict, Violation, check};
use crate::client::{Client, Floor, WORKER};
use crate::clock::{MS, Nanos, now};
use crate::crew::Crew;
use crate::dice::Dice;
use crate::faults::site::{Ground, Persistence, renamed};
use crate::faults::{Fault, Site, busy_script, rights_withdrawn};
use crate::history::{Counted, Entry, Event};
use crate::record::Record;

/// How long what is given up may take to be gone.
const SOON: Nanos = 10_000 * MS;

/// What a run is made of.
pub struct Plan {
    /// The server.
    pub flavour: Flavour,
    /// The module that it loads.
    pub module: PathBuf,
    /// A rule that the module breaks on purpose, if it was built for that.
    pub broken: Option<String>,
    /// This program, which is started for clients in processes of their own.
    pub program: PathBuf,
    /// How many clients there are in this process.
    pub clients: u32,
    /// What goes wrong.
    pub faults: Vec<&'static dyn Fault>,
}

/// What came of a round.
pub struct Round {
    /// What can be had again with it.
    pub seed: u64,
    /// All that was written down.
    pub history: Vec<Entry>,
    /// What the checker says.
    pub verdict: Verdict,
    /// What the server said.
    pub log: String,
    /// How often each fault struck.
    pub struck: BTreeMap<&'static str, u64>,
    /// Which could not, and why.
    pub skipped: BTreeMap<&'static str, String>,
}

/// How many clients have a process of their own.
const CREW: usize = 3;

/// The numbers of clients with a process of their own, and of those that can be cut off, begin
/// here.
const FIRST_OF_CREW: u32 = 1_000;
const FIRST_OF_ISLAND: u32 = 1_000_000;

/// Plays one round.
pub fn round(plan: &Plan, seed: u64, length: Duration) -> Round {
    let mut dice = Dice::new(seed);
    let persistence = match seed % 3 {
        0 => Persistence::AofAlways,
        1 => Persistence::AofEverysec,
        _ => Persistence::Rdb,
    };
    let is_renamed = seed % 4 == 3;
    let record = Record::default();
    let mut outcome = Outcome::default();
    // A server that crashed says so by a panic of the test kit.
    let played = catch_unwind(AssertUnwindSafe(|| {
        play(plan, (persistence, is_renamed), &mut dice, &record, length, &mut outcome)
    }));
    let names = if is_renamed { ", commands renamed" } else { "" };
    let about = format!("{} seed {seed} {persistence:?}{names}", plan.flavour);
    let mut history = vec![Entry::About(about)];
    history.append(&mut record.take());
    let mut verdict = check(&history);
    let failure = match played {
        Ok(failure) => failure.err(),
        Err(panic) => Some(in_words(panic.as_ref())),
    };
    if let Some(what) = failure {
        verdict.violations.push(Violation { rule: Rule::ServerLives, at: now(), what });
    }
    let Outcome { log, struck, skipped } = outcome;
    Round { seed, history, verdict, log, struck, skipped }
}

#[derive(Default)]
struct Outcome {
    log: String,
    struck: BTreeMap<&'static str, u64>,
    skipped: BTreeMap<&'static str, String>,
}

fn play(
    plan: &Plan,
    (persistence, is_renamed): (Persistence, bool),
    dice: &mut Dice,
    record: &Record,
    length: Duration,
    outcome: &mut Outcome,
) -> Result<(), String> {
    let ground = Ground::prepare(&plan.faults, &plan.flavour);
    let server = ground.under(server(plan, persistence, is_renamed)).try_start()?;
    let floor = Floor::new((Ipv4Addr::LOCALHOST, server.port()));
    let crew = |address, first: u32, dice: &mut Dice| {
        let (program, dice) = (plan.program.clone(), Dice::new(dice.seed()));
        Crew::new(program, (address, server.port()), record.clone(), dice, first)
    };
    let ours = crew(Ipv4Addr::LOCALHOST, FIRST_OF_CREW, dice);
    let far_off = ground
        .island
        .as_ref()
        .ok()
        .map(|island| crew(island.address(), FIRST_OF_ISLAND, dice));
    let mut site = Site::new(
        (server, persistence, is_renamed),
        plan.module.clone(),
        ground,
        (floor.clone(), ours),
        Dice::new(dice.seed()),
        record,
    );
    let harmed = thread::scope(|scope| {
        for number in 1..=plan.clients {
            let (floor, pen) = (floor.clone(), record.pen());
            let dice = Dice::new(dice.seed());
            scope.spawn(move || Client::new(number, floor, dice, pen).run());
        }
        // Whatever goes wrong here, the clients must be told to stop.
        let done = catch_unwind(AssertUnwindSafe(|| {
            site.crew.start(CREW)?;
            if let (Ok(island), Some(crew)) = (&mut site.ground.island, far_off) {
                island.people(crew)?;
            }
            harm(&mut site, &plan.faults, length, outcome)
        }));
        floor.stop.store(true, Ordering::Relaxed);
        site.finish_processes();
        done.unwrap_or_else(|panic| Err(in_words(panic.as_ref())))
    });
    let given_up = harmed.and_then(|()| give_up(&mut site));
    outcome.log = site.server.log();
    given_up
}

fn server(plan: &Plan, persistence: Persistence, is_renamed: bool) -> Builder {
    let builder = plan.flavour.server().module_path(&plan.module);
    let builder = builder
        .arg("busy-reply-threshold", busy_script::THRESHOLD_MS)
        .arg("user", format!("{WORKER} {}", rights_withdrawn::ALL_RIGHTS));
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

/// Lets faults strike until the time is over.
fn harm(
    site: &mut Site,
    faults: &[&'static dyn Fault],
    length: Duration,
    outcome: &mut Outcome,
) -> Result<(), String> {
    let mut possible = Vec::new();
    for fault in faults {
        match fault.needs(site) {
            Ok(()) => possible.push(*fault),
            Err(why) => drop(outcome.skipped.insert(fault.name(), why)),
        }
    }
    let end = now() + u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
    while now() < end {
        site.crew.thaw_if_due();
        site.last(2, 60);
        if let Some(fault) = some_fault(site, &possible) {
            let struck =
                fault.strike(site).map_err(|why| format!("{}: {why}", fault.name()))?;
            *outcome.struck.entry(fault.name()).or_default() += u64::from(struck);
        }
        look_at_counters(site, false);
    }
    Ok(())
}

fn some_fault(
    site: &mut Site,
    faults: &[&'static dyn Fault],
) -> Option<&'static dyn Fault> {
    let all: u64 = faults.iter().map(|fault| fault.weight()).sum();
    let mut lot = site.dice.between(0, all.checked_sub(1)?);
    faults.iter().copied().find(|fault| {
        let hit = lot < fault.weight();
        lot = lot.saturating_sub(fault.weight());
        hit
    })
}

/// All clients are gone: what they left is taken from them, and then nothing may be left.
fn give_up(site: &mut Site) -> Result<(), String> {
    let from = now();
    for db in 0..2 {
        site.must(&format!("SELECT {db}"))?;
        for lock in site.say("GPULOCK.LIST LIMIT 1000000").list() {
            let key = lock.field("key").text();
            site.say(&format!("GPULOCK.FORCERELEASE {key}"));
        }
    }
    let by = "the end".to_owned();
    site.excuse(Event::Touched { by, locks: None, from, to: now() });
    while !look_at_counters(site, now() - from > SOON) {
        thread::sleep(Duration::from_millis(5));
    }
    look_at_counters(site, true);
    Ok(())
}

/// Writes the counters down; true when nobody holds and nobody waits, or that is the last
/// look.
fn look_at_counters(site: &mut Site, at_the_end: bool) -> bool {
    let at = now();
    let mut counters = BTreeMap::new();
    for (name, value) in site.say("GPULOCK.STATS").map() {
        if let Value::Int(number) = value {
            counters.insert(name, number);
        }
    }
    let is_quiet = counters["locks_held"] == 0 && counters["clients_waiting"] == 0;
    site.write(Entry::Counted(Counted { at, counters, at_the_end }));
    is_quiet || at_the_end
}

fn in_words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}
