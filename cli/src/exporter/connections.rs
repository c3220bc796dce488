//! The exporter's connections: how many there are at once, and how long one may keep its
//! place without a use for it. What is answered on them stands in http.rs.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::net::{TcpListener, TcpStream};
use tokio::spawn;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many are served at once. Those beyond wait where the system keeps them, and are
/// served when others end. Far from the 1024 open files that a process may have by default.
const CONNECTIONS: usize = 256;

/// How long the head of a request may take, and how long a connection may be idle before it.
const HEAD: Duration = Duration::from_secs(10);

/// How long a client may take nothing of an answer, in milliseconds. Who looks at the page
/// from a train comes back by itself.
const UNREAD: u32 = 30_000;

/// Answers for ever. A lack of files is waited out, a second at a time; axum knows which
/// errors want that.
pub(crate) async fn serve(mut listener: TcpListener, routes: Router) -> Infallible {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let place = place.expect("nobody closes the semaphore");
        let (stream, _) = Listener::accept(&mut listener).await;
        spawn(answer(stream, routes.clone(), place));
    }
}

/// Answers on a connection until it ends; then its place is another's.
async fn answer(stream: TcpStream, routes: Router, _place: OwnedSemaphorePermit) {
    // hyper gives no time to an answer. A connection that cannot be told is gone already.
    let _ = set_tcp_user_timeout(&stream, UNREAD);
    // How it ended is the client's affair.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes))
        .await;
}
