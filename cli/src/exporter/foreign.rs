//! What is refused on loopback: requests that a web page from elsewhere has a browser on
//! this machine send. Nobody else's requests are judged here.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::header::{HOST, HeaderName};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Who had the browser ask, and what for. Pages cannot set them.
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Why a request is refused.
type Refusal = (StatusCode, &'static str);

/// Answers what was meant for this machine.
pub(crate) async fn refuse(request: Request, next: Next) -> Response {
    match refusal(request.headers()) {
        None => next.run(request).await,
        Some(refusal) => refusal.into_response(),
    }
}

fn refusal(headers: &HeaderMap) -> Option<Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    // No browser leaves it out.
    let names_us = hosts.next().is_none_or(names_this_machine);
    if hosts.next().is_some() {
        Some((StatusCode::BAD_REQUEST, "more than one Host\n"))
    } else if !names_us {
        let why = "Host is neither localhost nor an address\n";
        Some((StatusCode::MISDIRECTED_REQUEST, why))
    } else if is_loaded_by_a_foreign_page(headers) {
        Some((StatusCode::FORBIDDEN, "another site's page may not load this\n"))
    } else {
        None
    }
}

/// A web page that somebody opens here can have its own name lead to 127.0.0.1 (DNS
/// rebinding), and then read what we answer. The name of the address that it asked stands
/// in `Host`: we take localhost and addresses, which no foreign page can have.
fn names_this_machine(host: &HeaderValue) -> bool {
    let host = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    host.is_some_and(|authority| {
        let host = authority.host();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        let is_ours =
            host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok();
        // `Authority` would take a user before the name, which no Host has.
        is_ours && !authority.as_str().contains('@')
    })
}

/// A page that names us by our address cannot read the answer, but it can have us make it,
/// over and over, and keep our viewers' places. Following a link is none of this: the page
/// is left by it, and no frame shows us (`frame-ancestors`).
fn is_loaded_by_a_foreign_page(headers: &HeaderMap) -> bool {
    let says = |name, value| headers.get(name).is_some_and(|said| said == value);
    says(SITE, "cross-site") && !says(MODE, "navigate")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_s_own_names_are_taken() {
        let taken = |host| names_this_machine(&HeaderValue::from_static(host));
        for host in ["localhost:9877", "LOCALHOST", "127.0.0.1:9877", "[::1]:9877"] {
            assert!(taken(host), "{host}");
        }
        let foreign = [
            "evil.example:9877",
            "127.0.0.1.evil.example",
            "localhost.evil",
            "a@localhost",
            "evil.example@127.0.0.1:9877",
            "",
        ];
        for host in foreign {
            assert!(!taken(host), "{host}");
        }
    }
}
