//! `gpulock exporter`: metrics for Prometheus, and a status page for browsers. It changes no
//! lock. This file contains its options and its start.
//!
//! # Layout
//! - [`http`]: the routes; [`origin_check`]: which requests are rejected; [`connections`]: their
//!   number and timeouts
//! - [`metrics`], [`families`], [`compression`]: `/metrics`; [`gpus`]: the GPUs of this host
//! - [`live`], `page/`: the status page
//! - [`ready`][]: `/-/ready`
//! - [`target`][]: a server that is watched; [`queries`]: what is read from it

mod compression;
mod connections;
mod families;
mod gpus;
mod http;
mod live;
mod metrics;
mod origin_check;
mod queries;
mod ready;
mod target;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use self::gpus::GpuWatch;
use self::target::Target;
use crate::exit::{self, Failure};
use crate::server::{Address, SERVERS, Source, variable};

/// The options of `gpulock exporter`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Address to listen on. The status page has no access control: keep it on loopback, or put
    /// it behind a proxy that authenticates
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9877")]
    listen: SocketAddr,
    // Not with clap's `env`: messages say whether the option or the variable is invalid.
    #[arg(
        long = "server",
        value_name = "URL",
        help = format!(
            "Server to watch, as in --url; can be given several times [env: {SERVERS}, separated \
             by spaces] [default: value of --url]"
        ),
        value_delimiter = ' '
    )]
    servers: Vec<String>,
    /// Seconds to wait for a server's reply before it counts as down
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 3,
        value_parser = clap::value_parser!(u64).range(1..=60)
    )]
    timeout: u64,
    /// Also export how many processes use each GPU of this host, with and without its lock
    #[arg(long)]
    gpus: bool,
}

/// Serves until SIGTERM or SIGINT.
pub(crate) fn run(address: &Address, args: Args) -> Result<ExitCode> {
    let servers = targets(address, &args)?;
    let gpus = args.gpus.then(GpuWatch::start).transpose()?.unwrap_or_default();
    runtime()?.block_on(async {
        let listener = TcpListener::bind(args.listen)
            .await
            .with_context(|| format!("failed to listen on {}", args.listen))?;
        let at = listener.local_addr()?;
        exit::note(&format!("watching {}, listening on http://{at}/", names(&servers)));
        let routes = http::routes(&servers, &gpus, at);
        tokio::select! {
            never = connections::serve(listener, routes) => match never {},
            ended = termination() => ended?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// The servers of the command line. A server that is given twice would export each series twice,
/// which Prometheus rejects.
fn targets(address: &Address, args: &Args) -> Result<Vec<Arc<Target>>> {
    let timeout = Duration::from_secs(args.timeout);
    let servers = if !args.servers.is_empty() {
        address.servers_at(Source::Server, &args.servers)?
    } else if let Some(servers) = variable(SERVERS)? {
        let servers: Vec<String> =
            servers.split_whitespace().map(str::to_owned).collect();
        if servers.is_empty() {
            return Err(Failure::usage(format!("invalid {SERVERS}: it is empty")).into());
        }
        address.servers_at(Source::Variable(SERVERS), &servers)?
    } else {
        vec![address.server()?]
    };
    let servers: Vec<_> = servers
        .into_iter()
        .map(|server| Arc::new(Target::new(server, timeout)))
        .collect();
    let mut seen = BTreeSet::new();
    for server in &servers {
        if !seen.insert(server.instance()) {
            let why = format!("invalid --server: {} is given twice", server.instance());
            return Err(Failure::usage(why).into());
        }
    }
    Ok(servers)
}

fn names(servers: &[Arc<Target>]) -> String {
    servers.iter().map(|server| server.instance()).collect::<Vec<_>>().join(", ")
}

/// One thread for the I/O. The blocking threads are for name lookups and for the text of scrapes.
fn runtime() -> Result<Runtime> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    Ok(runtime.enable_all().max_blocking_threads(4).build()?)
}

/// Returns on SIGTERM and SIGINT, which have no default action for the init process of a
/// container.
async fn termination() -> Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    Ok(())
}
