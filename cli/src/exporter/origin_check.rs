//! Protects an exporter on loopback from web pages of other sites: rejects the requests that
//! such a page makes a browser on this machine send.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::header::{HOST, HeaderName};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Set by the browser: which site initiated the request, and why. Pages cannot change them.
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// The response to a rejected request.
type Rejection = (StatusCode, &'static str);

/// Passes on requests that are meant for this machine, and rejects the others.
pub(crate) async fn check(request: Request, next: Next) -> Response {
    match rejection(request.headers()) {
        None => next.run(request).await,
        Some(rejection) => rejection.into_response(),
    }
}

fn rejection(headers: &HeaderMap) -> Option<Rejection> {
    let mut hosts = headers.get_all(HOST).iter();
    // Browsers always send it.
    let names_us = hosts.next().is_none_or(names_this_machine);
    if hosts.next().is_some() {
        Some((StatusCode::BAD_REQUEST, "more than one Host header\n"))
    } else if !names_us {
        let why = "invalid Host: expected localhost or an IP address\n";
        Some((StatusCode::MISDIRECTED_REQUEST, why))
    } else if is_loaded_by_another_site(headers) {
        Some((StatusCode::FORBIDDEN, "request from another site\n"))
    } else {
        None
    }
}

/// Prevents DNS rebinding: a web page can make its own host name resolve to 127.0.0.1, and then
/// read our responses. `Host` contains the name that it used, so accept only localhost and IP
/// addresses, which another site cannot use.
fn names_this_machine(host: &HeaderValue) -> bool {
    let host = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    host.is_some_and(|authority| {
        let host = authority.host();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        let is_ours =
            host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok();
        // `Authority` accepts a user before the name, which is invalid in Host.
        is_ours && !authority.as_str().contains('@')
    })
}

/// A page of another site that uses our IP address cannot read the responses, but it can cause
/// load and use up the viewers' connections. Following a link from there is allowed: that leaves
/// the page, and the status page cannot be framed (`frame-ancestors`).
fn is_loaded_by_another_site(headers: &HeaderMap) -> bool {
    let has = |name, expected| headers.get(name).is_some_and(|value| value == expected);
    has(SITE, "cross-site") && !has(MODE, "navigate")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_localhost_and_ip_addresses_are_accepted() {
        let accepted = |host| names_this_machine(&HeaderValue::from_static(host));
        for host in ["localhost:9877", "LOCALHOST", "127.0.0.1:9877", "[::1]:9877"] {
            assert!(accepted(host), "{host}");
        }
        let rejected = [
            "evil.example:9877",
            "127.0.0.1.evil.example",
            "localhost.evil",
            "a@localhost",
            "evil.example@127.0.0.1:9877",
            "",
        ];
        for host in rejected {
            assert!(!accepted(host), "{host}");
        }
    }
}
