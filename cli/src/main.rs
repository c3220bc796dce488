//! The command `gpulock`: parses the command line, and dispatches to the module of the
//! subcommand.
#![forbid(unsafe_code)]

mod act;
mod clock;
mod connection;
mod exit;
mod exporter;
mod fit;
mod gpus;
mod human;
mod locks;
mod manual;
mod replies;
mod run;
mod server;
mod show;
mod stats;
mod text;
mod top;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::server::Address;

/// Run commands on free GPUs and manage their locks
///
/// Requires a Redis or Valkey server with the module gpulock.
#[derive(Debug, Parser)]
#[command(name = "gpulock", version, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    address: Address,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a command while holding locks, such as those of free GPUs
    Run(Box<run::Args>),
    /// Internal: becomes the command of `run`
    #[command(name = run::child::HELPER, hide = true)]
    Child(run::child::Args),
    /// Internal: kills the command when `run` itself was killed or hangs
    #[command(name = run::watchdog::HELPER, hide = true)]
    Watchdog(run::watchdog::Args),
    /// List the locks that are held or waited for, longest held first
    Ls(show::ls::Args),
    /// Show the holder, lease and wait queue of a lock
    Inspect(show::inspect::Args),
    /// Show the wait queue of a lock
    #[command(alias = "line")]
    Queue(show::queue::Args),
    /// Show counters and percentiles of wait and hold times
    Stats(show::stats::Args),
    /// Show recent problems, such as expired leases, newest first
    Log(show::log::Args),
    /// Release a lock on behalf of its owner
    Release(act::release::Args),
    /// Release a lock by force; the holder's job is not stopped
    Force(act::force::Args),
    /// Monitor the locks in the terminal
    Top(top::Args),
    /// Export metrics to Prometheus and serve a status page
    Exporter(exporter::Args),
    /// Print a shell completion script, for example for /etc/bash_completion.d
    Completions(manual::Completions),
    /// Write the manual pages to a directory
    Man(manual::Man),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Run(args) => run::run(&cli.address, &args),
        Command::Child(args) => run::child::become_command(&args),
        Command::Watchdog(args) => run::watchdog::run(&args),
        Command::Ls(args) => show::ls::run(&cli.address, &args),
        Command::Inspect(args) => show::inspect::run(&cli.address, &args),
        Command::Queue(args) => show::queue::run(&cli.address, &args),
        Command::Stats(args) => show::stats::run(&cli.address, &args),
        Command::Log(args) => show::log::run(&cli.address, &args),
        Command::Release(args) => act::release::run(&cli.address, &args),
        Command::Force(args) => act::force::run(&cli.address, &args),
        Command::Top(args) => top::run(&cli.address, &args),
        Command::Exporter(args) => exporter::run(&cli.address, args),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
    };
    result.unwrap_or_else(|error| exit::report(&error))
}
