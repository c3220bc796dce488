//! `gpulock exporter`: what the servers count for Prometheus, and what they know for a
//! browser. Here stand its options and its start; nothing in this folder changes a lock.

mod asked;
mod connections;
mod families;
mod foreign;
mod http;
mod live;
mod metrics;
mod watched;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use redis::Client;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use self::watched::Watched;
use crate::server::Address;

/// The options of `gpulock exporter`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to listen. The page has no password: leave it on loopback, or put it behind
    /// something that asks for one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9877")]
    listen: SocketAddr,
    /// A server to watch, as in --url; may be given several times [default: that of --url]
    #[arg(
        long = "server",
        value_name = "URL",
        env = "GPULOCK_SERVERS",
        hide_env_values = true,
        value_delimiter = ' '
    )]
    servers: Vec<String>,
    /// How many seconds a server may take to answer; then it counts as down
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 3,
        value_parser = clap::value_parser!(u64).range(1..=60)
    )]
    timeout: u64,
}

/// Serves until it is told to end.
pub(crate) fn run(address: &Address, args: Args) -> Result<ExitCode> {
    let servers = watched(address, &args)?;
    runtime()?.block_on(async {
        let listener = TcpListener::bind(args.listen)
            .await
            .with_context(|| format!("cannot listen on {}", args.listen))?;
        let at = listener.local_addr()?;
        eprintln!("gpulock: exporter of {} at http://{at}/", names(&servers));
        tokio::select! {
            never = connections::serve(listener, http::routes(&servers, at)) => match never {},
            ended = told_to_end() => ended?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// The servers of the command line. A server named twice would be each of its series twice,
/// which Prometheus refuses.
fn watched(address: &Address, args: &Args) -> Result<Vec<Arc<Watched>>> {
    let patience = Duration::from_secs(args.timeout);
    let clients = if args.servers.is_empty() {
        vec![address.client()?]
    } else {
        args.servers.iter().map(|url| client(url)).collect::<Result<_>>()?
    };
    let servers: Vec<_> = clients
        .into_iter()
        .map(|client| Arc::new(Watched::new(client, patience)))
        .collect();
    let mut seen = BTreeSet::new();
    for server in &servers {
        if !seen.insert(server.instance()) {
            bail!("the server {} is named twice", server.instance());
        }
    }
    Ok(servers)
}

/// A URL may hold a password: an error does not repeat it.
fn client(url: &str) -> Result<Client> {
    Client::open(url).context("--server is no address of a server")
}

fn names(servers: &[Arc<Watched>]) -> String {
    servers.iter().map(|server| server.instance()).collect::<Vec<_>>().join(", ")
}

/// One thread is enough for what waits nearly all the time. The others look up names, which
/// the system does in no other way.
fn runtime() -> Result<Runtime> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    Ok(runtime.enable_all().max_blocking_threads(4).build()?)
}

/// Returns on SIGTERM and SIGINT. The first process of a container has no other way to end
/// by them.
async fn told_to_end() -> Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    Ok(())
}
