//! The exporter's routes, all read-only.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE,
    REFERRER_POLICY, RETRY_AFTER, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware;
use axum::response::sse::Sse;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::task::spawn_blocking;

use super::gpus::GpuWatch;
use super::live::Live;
use super::ready::{Readiness, ready};
use super::target::Target;
use super::{compression, metrics, origin_check};

/// The page loads nothing from other sites, and runs only its own script file.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                      connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// The routes of an exporter that listens on `at`. They accept GET and HEAD; other methods get
/// 405.
pub(crate) fn routes(servers: &[Arc<Target>], gpus: &GpuWatch, at: SocketAddr) -> Router {
    let scraped: (Arc<[Arc<Target>]>, GpuWatch) = (servers.into(), gpus.clone());
    let routes = Router::new()
        .route("/", file("text/html", include_str!("page/page.html")))
        .route("/page.css", file("text/css", include_str!("page/page.css")))
        .route("/page.js", file("text/javascript", include_str!("page/page.js")))
        .route("/events", get(events).with_state(Arc::new(Live::new(servers))))
        .route("/metrics", get(scrape).with_state(scraped))
        .route("/healthz", get(healthy))
        .route("/-/healthy", get(healthy))
        .route("/-/ready", get(ready).with_state(Arc::new(Readiness::new(servers))))
        .layer(middleware::map_response(with_security_headers));
    if at.ip().is_loopback() {
        routes.layer(middleware::from_fn(origin_check::check))
    } else {
        routes
    }
}

fn file(kind: &'static str, text: &'static str) -> axum::routing::MethodRouter {
    get(async move || ([(CONTENT_TYPE, format!("{kind}; charset=utf-8"))], text))
}

async fn scrape(
    State((servers, gpus)): State<(Arc<[Arc<Target>]>, GpuWatch)>,
    headers: HeaderMap,
) -> Response {
    let scrapes = metrics::scrape(&servers).await;
    let with_gzip = compression::prefers_gzip(&headers);
    // On another thread, because this one serves all other requests.
    let body = spawn_blocking(move || {
        let text = scrapes.text(&gpus).into_bytes();
        if with_gzip { compression::gzip(&text) } else { text }
    });
    let body = body.await.expect("writing a text does not panic");
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    let head = [(CONTENT_TYPE, kind), (VARY, "accept-encoding")];
    let encoding = with_gzip.then_some([(CONTENT_ENCODING, "gzip")]);
    (head, encoding, body).into_response()
}

/// The exporter runs. It does not query the servers: restarting the exporter does not repair them.
async fn healthy() -> &'static str {
    "ok\n"
}

async fn events(State(live): State<Arc<Live>>) -> Response {
    match live.events() {
        Some(events) => Sse::new(events).into_response(),
        None => {
            let why = "too many viewers\n";
            (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "5")], why).into_response()
        }
    }
}

async fn with_security_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let mut set = |name, value| headers.insert(name, HeaderValue::from_static(value));
    set(CONTENT_SECURITY_POLICY, POLICY);
    set(X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(REFERRER_POLICY, "no-referrer");
    set(CACHE_CONTROL, "no-store");
    response
}
