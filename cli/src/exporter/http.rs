//! The paths that the exporter answers, and who may ask: reading requests only, and on
//! loopback only those that were meant for this machine.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::Stream;

use super::live::Live;
use super::metrics;
use super::watched::Watched;

/// The page loads nothing from elsewhere, and runs no script but its own file.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                      connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// What is answered at `at`. A path that is here answers GET and HEAD; any other method is
/// refused with 405.
pub(crate) fn routes(servers: &[Arc<Watched>], at: SocketAddr) -> Router {
    let routes = Router::new()
        .route("/", file("text/html", include_str!("page/page.html")))
        .route("/page.css", file("text/css", include_str!("page/page.css")))
        .route("/page.js", file("text/javascript", include_str!("page/page.js")))
        .route("/events", get(events).with_state(Arc::new(Live::new(servers))))
        .route("/metrics", get(scrape).with_state(servers.into()))
        .route("/healthz", get(async || "ok\n"))
        .layer(middleware::map_response(with_safe_headers));
    if at.ip().is_loopback() {
        routes.layer(middleware::from_fn(meant_for_this_machine))
    } else {
        routes
    }
}

fn file(kind: &'static str, text: &'static str) -> axum::routing::MethodRouter {
    get(async move || ([(CONTENT_TYPE, format!("{kind}; charset=utf-8"))], text))
}

async fn scrape(State(servers): State<Arc<[Arc<Watched>]>>) -> impl IntoResponse {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(CONTENT_TYPE, kind)], metrics::text(&servers).await)
}

async fn events(
    State(live): State<Arc<Live>>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(live.events())
}

async fn with_safe_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let mut set = |name, value| headers.insert(name, HeaderValue::from_static(value));
    set(CONTENT_SECURITY_POLICY, POLICY);
    set(X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(REFERRER_POLICY, "no-referrer");
    set(CACHE_CONTROL, "no-store");
    response
}

/// A web page that somebody opens here can have its own name lead to 127.0.0.1 (DNS
/// rebinding), and then read what we answer. The name of the address that it asked stands
/// in `Host`: we take localhost and addresses, which no foreign page can have.
async fn meant_for_this_machine(request: Request, next: Next) -> Response<Body> {
    if names_this_machine(request.headers()) {
        next.run(request).await
    } else {
        let why = "Host is neither localhost nor an address\n";
        (StatusCode::MISDIRECTED_REQUEST, why).into_response()
    }
}

fn names_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST) else {
        // No browser leaves it out.
        return true;
    };
    let host = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    host.is_some_and(|host| {
        let host = host.host();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_s_own_names_are_taken() {
        let taken = |host: &'static str| {
            names_this_machine(&HeaderMap::from_iter([(
                HOST,
                HeaderValue::from_static(host),
            )]))
        };
        for host in ["localhost:9877", "LOCALHOST", "127.0.0.1:9877", "[::1]:9877"] {
            assert!(taken(host), "{host}");
        }
        for host in ["evil.example:9877", "127.0.0.1.evil.example", "localhost.evil", ""]
        {
            assert!(!taken(host), "{host}");
        }
    }
}
