//! The exporter's connections: their number, and how long one may be idle.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::spawn;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Maximum number of open connections, well below the default limit of 1024 open files. Further
/// ones stay in the backlog of the socket until others end.
const MAX_CONNECTIONS: usize = 256;

/// Timeout for the header of a request, including the idle time before it.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may leave data unacknowledged, in milliseconds. The status page reconnects
/// by itself.
const UNACKNOWLEDGED_MS: u32 = 30_000;

/// Serves connections indefinitely. When no file descriptor is free, axum's `accept` retries
/// every second.
pub(crate) async fn serve(mut listener: TcpListener, routes: Router) -> Infallible {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        let (stream, _) = Listener::accept(&mut listener).await;
        spawn(serve_connection(stream, routes.clone(), permit));
    }
}

async fn serve_connection(
    stream: TcpStream,
    routes: Router,
    _permit: OwnedSemaphorePermit,
) {
    // hyper has no timeout for writing a response. Setting this fails only on a closed connection.
    let _ = setsockopt(&stream, sockopt::TcpUserTimeout, &UNACKNOWLEDGED_MS);
    // Errors of one connection do not matter to the others.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes))
        .await;
}
