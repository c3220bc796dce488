//! `gpulock-bench`: measures GPULOCK beside what people use today, and shows the result.
//! What is measured stands in a file for each part; here are only the commands.

mod blocks;
mod bystanders;
mod callgrind;
mod calls;
mod cells;
mod compared;
mod counter;
mod figures;
mod files;
mod hand_off;
mod held;
mod holder;
mod in_line;
mod link;
mod machine;
mod measure;
mod memory;
mod names;
mod packed;
mod page;
mod pair;
mod plots;
mod pools;
mod progress;
mod recovery;
mod report;
#[cfg(test)]
mod sample;
mod served;
mod stage;
mod start;
mod tables;
mod targets;
mod waiters;
mod ways;
mod workers;

use anyhow::Result;
use clap::Parser;

/// Measures GPULOCK beside what people use today, and shows the result.
#[derive(Debug, Parser)]
enum Command {
    Measure(measure::Measure),
    Report(report::Report),
    /// Takes a lock and keeps it until this process is killed.
    #[command(hide = true)]
    Hold {
        /// The port of the server.
        port: u16,
        /// The command that takes the lock.
        words: Vec<String>,
    },
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Measure(measure) => measure::run(&measure),
        Command::Report(report) => report.make(),
        Command::Hold { port, words } => holder::hold(port, &words),
    }
}
