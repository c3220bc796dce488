//! The command `gpulock`: its subcommands, each with a module of its own.
#![forbid(unsafe_code)]

mod act;
mod cards;
mod clock;
mod command_line;
mod completions;
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
mod term;
mod text;
mod top;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::server::Address;

/// Run commands on free GPUs and manage their locks
///
/// Requires a Redis or Valkey server with the module gpulock.
#[derive(Debug, Parser)]
#[command(name = "gpulock", version)]
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
    /// Reserve locks for a time, without a process that holds them
    Reserve(Box<act::reserve::Args>),
    /// Release a reservation, or a lock on behalf of its owner
    Release(act::release::Args),
    /// Release a lock by force, at once or after a notice
    Force(act::force::Args),
    /// Monitor the locks in the terminal
    Top(top::Args),
    /// Export metrics to Prometheus and serve a status page
    Exporter(exporter::Args),
    /// Print a shell completion script, for example for /etc/bash_completion.d
    Completions(completions::Args),
    /// Write the manual pages to a directory
    Man(manual::Man),
}

/// Subcommands that `gpulock` and its scripts run. They are separate from [`Command`], so that no help,
/// manual page, completion or tip mentions them.
#[derive(Debug, Parser)]
#[command(name = "gpulock")]
enum Internal {
    /// Becomes the command of `run`
    #[command(name = run::child::HELPER)]
    Child(run::child::Args),
    /// Kills the command when `run` itself was killed or hangs
    #[command(name = run::watchdog::HELPER)]
    Watchdog(run::watchdog::Args),
    /// Prints candidates for the completion scripts
    #[command(name = completions::candidates::HELPER)]
    Complete(completions::candidates::Args),
}

fn main() -> ExitCode {
    let result = match command_line::internal() {
        Some(internal) => run_internal(internal),
        None => run_command(command_line::parse()),
    };
    result.unwrap_or_else(|error| exit::report(&error))
}

fn run_command(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Run(args) => run::run(&cli.address, &args),
        Command::Ls(args) => show::ls::run(&cli.address, &args),
        Command::Inspect(args) => show::inspect::run(&cli.address, &args),
        Command::Queue(args) => show::queue::run(&cli.address, &args),
        Command::Stats(args) => show::stats::run(&cli.address, &args),
        Command::Log(args) => show::log::run(&cli.address, &args),
        Command::Reserve(args) => act::reserve::run(&cli.address, &args),
        Command::Release(args) => act::release::run(&cli.address, &args),
        Command::Force(args) => act::force::run(&cli.address, &args),
        Command::Top(args) => top::run(&cli.address, &args),
        Command::Exporter(args) => exporter::run(&cli.address, args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => manual::man(&args),
    }
}

fn run_internal(internal: Internal) -> Result<ExitCode> {
    match internal {
        Internal::Child(args) => run::child::become_command(&args),
        Internal::Watchdog(args) => run::watchdog::run(&args),
        Internal::Complete(args) => completions::candidates::print(&args),
    }
}
