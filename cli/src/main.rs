//! The command `gpulock`: reads the command line and leads to the part that does the work.
//! What a part does stands in its own module.
#![forbid(unsafe_code)]

mod act;
mod clock;
mod connection;
mod exit;
mod exporter;
mod fit;
mod gpus;
mod human;
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

/// Runs commands on free GPUs, and shows who holds which.
///
/// The locks are kept by a Redis or Valkey server with the module gpulock.
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
    /// Runs a command while it holds locks, as those of free GPUs
    Run(run::Args),
    /// What `run` starts to become the command
    #[command(name = run::child::HELPER, hide = true)]
    Child(run::child::Args),
    /// What `run` starts to end the command when `run` itself is no more
    #[command(name = run::guard::HELPER, hide = true)]
    Guard(run::guard::Args),
    /// Lists the locks that are held or waited for, longest held first
    Ls(show::ls::Args),
    /// Shows all that is known of a lock: its holder, its lease, its line
    Inspect(show::inspect::Args),
    /// Shows who waits for a lock, in the order of their turn
    Line(show::line::Args),
    /// Shows the counters, and how long waits and holds took
    Stats(show::stats::Args),
    /// Shows what went wrong lately, newest first
    Log(show::log::Args),
    /// Gives a lock back in its owner's name
    Release(act::release::Args),
    /// Takes a lock away from its holder, who is not stopped
    Force(act::force::Args),
    /// Follows the locks on a screen: holders, leases, lines
    Top(top::Args),
    /// Feeds Prometheus, and shows the locks in a browser
    Exporter(exporter::Args),
    /// Prints the completions of a shell, e.g. for /etc/bash_completion.d
    Completions(manual::Completions),
    /// Writes the manual pages into a folder
    Man(manual::Man),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Run(args) => run::run(&cli.address, &args),
        Command::Child(args) => run::child::become_command(&args),
        Command::Guard(args) => run::guard::stand(&args),
        Command::Ls(args) => show::ls::run(&cli.address, &args),
        Command::Inspect(args) => show::inspect::run(&cli.address, &args),
        Command::Line(args) => show::line::run(&cli.address, &args),
        Command::Stats(args) => show::stats::run(&cli.address, &args),
        Command::Log(args) => show::log::run(&cli.address, &args),
        Command::Release(args) => act::release::run(&cli.address, &args),
        Command::Force(args) => act::force::run(&cli.address, &args),
        Command::Top(args) => top::run(&cli.address, &args),
        Command::Exporter(args) => exporter::run(&cli.address, args),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
    };
    done.unwrap_or_else(|error| exit::told(&error))
}
