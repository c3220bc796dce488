//! `gpulock-chaos`: plays rounds of load and faults against a server and says whether what is
//! promised was kept; or judges a history again.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf, absolute};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use gpulock_chaos::checker::{Rule, Violation, check};
use gpulock_chaos::faults::{all, named};
use gpulock_chaos::report::Summary;
use gpulock_chaos::run::{Plan, Round, round};
use gpulock_chaos::{history, worker};
use gpulock_testkit::{Flavour, module, servers};

/// How many violations of each rule are shown for a round.
const SHOWN: usize = 3;

/// Loads a server, harms it, and checks the history of what clients heard.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Command {
    #[command(subcommand)]
    other: Option<Other>,
    #[command(flatten)]
    run: Run,
}

#[derive(Args)]
struct Run {
    /// The seed of the first round; each that follows has the next number
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// For how long
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The length of a round, in seconds
    #[arg(long, default_value_t = 15)]
    round: u64,
    /// The server program, or a folder with one [default: the first of the test kit's]
    #[arg(long)]
    server: Option<String>,
    /// The module [default: the test kit's, the release build]
    #[arg(long)]
    module: Option<PathBuf>,
    /// Only these faults, parted by commas [default: all]
    #[arg(long)]
    faults: Option<String>,
    /// Clients in this process
    #[arg(long, default_value_t = 20)]
    clients: u32,
    /// A rule that the module is to break, if it was built with injected faults
    #[arg(long)]
    broken: Option<String>,
    /// Where histories of rounds that failed are kept
    #[arg(long, default_value = "target/chaos")]
    histories: PathBuf,
    /// Keeps the histories of all rounds
    #[arg(long)]
    keep: bool,
}

#[derive(Subcommand)]
enum Other {
    /// Judges a history again
    Check {
        /// Its file
        history: PathBuf,
    },
    /// A client in a process of its own; the run starts it
    #[command(hide = true)]
    Worker { address: Ipv4Addr, port: u16, number: u32, seed: u64 },
}

fn main() -> ExitCode {
    let command = Command::parse();
    let done = match command.other {
        None => play(&command.run),
        Some(Other::Check { history }) => check_again(&history),
        Some(Other::Worker { address, port, number, seed }) => {
            worker::work((address, port), number, seed);
            Ok(true)
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::from(2)
        }
    }
}

/// Plays rounds until the time is over; whether all promises were kept.
fn play(run: &Run) -> Result<bool, String> {
    let plan = plan(run)?;
    let (start, mut summary) = (Instant::now(), Summary::default());
    let mut seed = run.seed;
    while summary.rounds == 0 || start.elapsed() < Duration::from_secs(run.seconds) {
        let began = Instant::now();
        let round = round(&plan, seed, Duration::from_secs(run.round));
        summary.add(&round);
        println!("{}", summary.progress(&round, began.elapsed()));
        report(run, &plan, &round)?;
        seed += 1;
    }
    println!("\n{} with {}", plan.flavour, plan.module.display());
    print!("{summary}");
    println!("seconds {:>37.0}", start.elapsed().as_secs_f64());
    Ok(summary.failed == 0)
}

fn plan(run: &Run) -> Result<Plan, String> {
    // Servers start in folders of their own: a path must hold from there as well.
    let whole = |path: &Path| absolute(path).map_err(|error| error.to_string());
    let flavour = match run.server.as_deref() {
        Some(folder) if Path::new(folder).is_dir() => {
            Flavour::new(whole(Path::new(folder))?.join("server"))
        }
        Some(path) if path.contains('/') => Flavour::new(whole(Path::new(path))?),
        Some(program) => Flavour::new(program),
        None => servers().swap_remove(0),
    };
    Ok(Plan {
        flavour,
        module: run.module.as_deref().map_or_else(|| Ok(module()), whole)?,
        broken: run.broken.clone(),
        program: std::env::current_exe().map_err(|error| error.to_string())?,
        clients: run.clients,
        faults: run.faults.as_deref().map_or_else(|| Ok(all()), named)?,
    })
}

/// Keeps the history of a round that failed, and says how to have it again.
fn report(run: &Run, plan: &Plan, round: &Round) -> Result<(), String> {
    let failed = !round.verdict.violations.is_empty();
    if !failed && !run.keep {
        return Ok(());
    }
    let file = run.histories.join(format!("seed-{}.jsonl", round.seed));
    fs::create_dir_all(&run.histories)
        .and_then(|()| history::save(&file, &round.history))
        .and_then(|()| fs::write(file.with_extension("log"), &round.log))
        .map_err(|error| format!("{}: {error}", file.display()))?;
    if failed {
        show(&round.verdict.violations);
        println!("history: {0}, beside it the server's log", file.display());
        println!("judge it again: gpulock-chaos check {}", file.display());
        println!("play it again: {}", again(run, plan, round));
    }
    Ok(())
}

/// The command that plays a round again, alone.
fn again(run: &Run, plan: &Plan, round: &Round) -> String {
    let (server, module) = (plan.flavour.program().display(), plan.module.display());
    let mut command = format!(
        "gpulock-chaos --seed {} --seconds {} --round {} --clients {} --server {server} \
         --module {module}",
        round.seed, run.round, run.round, run.clients
    );
    for (name, value) in [("--faults", &run.faults), ("--broken", &run.broken)] {
        if let Some(value) = value {
            command += &format!(" {name} {value:?}");
        }
    }
    command
}

fn check_again(file: &Path) -> Result<bool, String> {
    let entries =
        history::load(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let verdict = check(&entries);
    println!("{} calls, {} violations", verdict.calls, verdict.violations.len());
    show(&verdict.violations);
    Ok(verdict.violations.is_empty())
}

fn show(violations: &[Violation]) {
    let mut shown: BTreeMap<Rule, usize> = BTreeMap::new();
    for violation in violations {
        let of_rule = shown.entry(violation.rule).or_default();
        *of_rule += 1;
        if *of_rule <= SHOWN {
            println!("VIOLATION {violation}");
        }
    }
    for (rule, count) in shown.into_iter().filter(|(_, count)| *count > SHOWN) {
        println!("… and {} more: {rule}", count - SHOWN);
    }
}
