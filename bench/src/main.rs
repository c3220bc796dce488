//! `gpulock-bench`: benchmarks GPULOCK against the usual alternatives and renders the
//! results as tables. Each part of the benchmark has its own module.

mod block_only;
mod breakdown;
mod callgrind;
mod counter;
mod derived;
mod formatting;
mod hand_off;
mod held_locks;
mod histogram;
mod holder;
mod idle;
mod load;
mod lock_pairs;
mod machine;
mod markdown;
mod measure;
mod memory;
mod names;
mod open_files;
mod other_commands;
mod outside_changes;
mod pair;
mod pipeline;
mod pools;
mod populated;
mod progress;
mod queue;
mod raw_connection;
mod recovery;
mod report;
mod scenario;
mod series;
mod server;
mod startup;
mod tables;
mod targets;
#[cfg(test)]
mod test_runs;
mod waiters;
mod workers;
mod worst_cases;

use anyhow::Result;
use clap::Parser;

/// Benchmark GPULOCK against the usual alternatives
#[derive(Debug, Parser)]
enum Command {
    Measure(measure::Measure),
    Report(report::Report),
    /// Acquire a lock and hold it until this process is killed
    #[command(hide = true)]
    Hold {
        /// Port of the server
        port: u16,
        /// Command that acquires the lock
        words: Vec<String>,
    },
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Measure(measure) => measure::run(&measure),
        Command::Report(report) => report.run(),
        Command::Hold { port, words } => holder::hold(port, &words),
    }
}
