//! A short run with all faults on each server breaks no rule, and its history gives the
//! same result after it is saved and loaded.

use std::path::PathBuf;
use std::time::Duration;

use gpulock_chaos::checker::check;
use gpulock_chaos::faults::all;
use gpulock_chaos::history;
use gpulock_chaos::run::{Plan, round};
use gpulock_testkit::{module, on_every_server};
use tempfile::TempDir;

/// One round for each persistence mode.
const ROUNDS: u64 = 3;
const ROUND: Duration = Duration::from_secs(5);

#[test]
fn no_rule_is_broken_under_faults() {
    let first = seed();
    eprintln!("to reproduce: GPULOCK_SEED={first}");
    on_every_server(|flavour| {
        let plan = Plan {
            flavour: flavour.clone(),
            module: module(),
            broken: None,
            program: PathBuf::from(env!("CARGO_BIN_EXE_gpulock-chaos")),
            clients: 16,
            faults: all(),
        };
        for seed in first..first + ROUNDS {
            let round = round(&plan, seed, ROUND);
            let verdict = round.verdict;
            assert_eq!(verdict.violations, [], "seed {seed}");
            for (fault, why) in round.skipped {
                eprintln!("{flavour}: SKIPPED {fault}: {why}");
            }
            let folder = TempDir::new().expect("creating a folder");
            let file = folder.path().join("history");
            history::save(&file, &round.history).expect("writing a history");
            let read = history::load(&file).expect("reading a history");
            assert_eq!(read, round.history);
            assert_eq!(check(&read), verdict);
        }
    });
}

fn seed() -> u64 {
    let given = std::env::var("GPULOCK_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| {
        let since = std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970");
        u64::from(since.subsec_nanos())
    })
}
