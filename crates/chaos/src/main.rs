//! `gpulock-chaos`: runs rounds of load and faults against a server and checks the
//! guarantees, or checks a saved history again.

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

/// Maximum number of violations printed for each rule and round.
const MAX_SHOWN: usize = 3;

/// Inject faults into a server under load and check the history of its clients
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Command {
    #[command(subcommand)]
    subcommand: Option<Subcommands>,
    #[command(flatten)]
    run: Run,
}

#[derive(Args)]
struct Run {
    /// Seed of the first round; each following round uses the next number
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Duration in seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Length of a round in seconds
    #[arg(long, default_value_t = 15)]
    round: u64,
    /// Server program, or a folder that contains one [default: first server of the test
    /// kit]
    #[arg(long)]
    server: Option<String>,
    /// Module to load [default: release build of the test kit]
    #[arg(long)]
    module: Option<PathBuf>,
    /// Faults to inject, separated by commas [default: all]
    #[arg(long)]
    faults: Option<String>,
    /// Number of clients in this process
    #[arg(long, default_value_t = 20)]
    clients: u32,
    /// Rule that the module breaks, if it was built with the feature break-rules
    #[arg(long)]
    broken: Option<String>,
    /// Folder for the histories of failed rounds
    #[arg(long, default_value = "target/chaos")]
    histories: PathBuf,
    /// Keep the histories of all rounds
    #[arg(long)]
    keep: bool,
}

#[derive(Subcommand)]
enum Subcommands {
    /// Check a saved history again
    Check {
        /// File of the history
        history: PathBuf,
    },
    /// Run a client in this process; started by the run
    #[command(hide = true)]
    Worker { address: Ipv4Addr, port: u16, number: u32, seed: u64 },
}

fn main() -> ExitCode {
    let command = Command::parse();
    let result = match command.subcommand {
        None => run(&command.run),
        Some(Subcommands::Check { history }) => check_again(&history),
        Some(Subcommands::Worker { address, port, number, seed }) => {
            worker::work((address, port), number, seed);
            Ok(true)
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::from(2)
        }
    }
}

/// Runs rounds for the requested time; returns whether all guarantees were kept.
fn run(run: &Run) -> Result<bool, String> {
    let plan = plan(run)?;
    let (start, mut summary) = (Instant::now(), Summary::default());
    let mut seed = run.seed;
    while summary.rounds == 0 || start.elapsed() < Duration::from_secs(run.seconds) {
        let round_start = Instant::now();
        let round = round(&plan, seed, Duration::from_secs(run.round));
        summary.add(&round);
        println!("{}", summary.progress(&round, round_start.elapsed()));
        report(run, &plan, &round)?;
        seed += 1;
    }
    println!("\n{} with {}", plan.flavour, plan.module.display());
    print!("{summary}");
    println!("seconds {:>37.0}", start.elapsed().as_secs_f64());
    Ok(summary.failed == 0)
}

fn plan(run: &Run) -> Result<Plan, String> {
    // Servers start in their own folders, so paths must be absolute.
    let absolute_path = |path: &Path| absolute(path).map_err(|error| error.to_string());
    let flavour = match run.server.as_deref() {
        Some(folder) if Path::new(folder).is_dir() => {
            Flavour::new(absolute_path(Path::new(folder))?.join("server"))
        }
        Some(path) if path.contains('/') => Flavour::new(absolute_path(Path::new(path))?),
        Some(program) => Flavour::new(program),
        None => servers().swap_remove(0),
    };
    Ok(Plan {
        flavour,
        module: run.module.as_deref().map_or_else(|| Ok(module()), absolute_path)?,
        broken: run.broken.clone(),
        program: std::env::current_exe().map_err(|error| error.to_string())?,
        clients: run.clients,
        faults: run.faults.as_deref().map_or_else(|| Ok(all()), named)?,
    })
}

/// Saves the history of a failed round, and prints how to reproduce it.
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
        print_violations(&round.verdict.violations);
        println!("history: {0}, with the server's log next to it", file.display());
        println!("to check it again: gpulock-chaos check {}", file.display());
        println!("to run it again: {}", reproduce(run, plan, round));
    }
    Ok(())
}

/// The command that runs a round again.
fn reproduce(run: &Run, plan: &Plan, round: &Round) -> String {
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
    print_violations(&verdict.violations);
    Ok(verdict.violations.is_empty())
}

fn print_violations(violations: &[Violation]) {
    let mut counts: BTreeMap<Rule, usize> = BTreeMap::new();
    for violation in violations {
        let of_rule = counts.entry(violation.rule).or_default();
        *of_rule += 1;
        if *of_rule <= MAX_SHOWN {
            println!("VIOLATION {violation}");
        }
    }
    for (rule, count) in counts.into_iter().filter(|(_, count)| *count > MAX_SHOWN) {
        println!("… and {} more: {rule}", count - MAX_SHOWN);
    }
}
