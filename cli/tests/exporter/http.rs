//! Which requests the exporter accepts, and the headers of its responses.

use crate::exporter::{Exporter, alone, command, first_line};

#[test]
fn the_exporter_works_without_a_server() {
    let exporter = alone();
    let health = exporter.get("/healthz");
    assert_eq!((health.status, &*health.body), (200, "ok\n"));
    assert!(exporter.metrics().contains("gpulock_up{instance=\"127.0.0.1:1\"} 0"));
    let event = exporter.events().next().expect("an event");
    assert!(event["error"].as_str().is_some_and(|why| !why.is_empty()), "{event}");
}

#[test]
fn only_get_requests_are_accepted() {
    let exporter = alone();
    for path in [
        "/",
        "/page.js",
        "/page.css",
        "/events",
        "/metrics",
        "/healthz",
        "/-/ready",
        "/-/healthy",
    ] {
        assert_eq!(exporter.post(path).status, 405, "{path}");
    }
    assert_eq!(exporter.get("/elsewhere").status, 404);
}

#[test]
fn on_loopback_only_local_host_names_are_accepted() {
    let exporter = alone();
    for path in ["/", "/metrics", "/healthz", "/-/ready", "/-/healthy", "/elsewhere"] {
        let response = exporter.get_as("rebound.example:9877", path);
        assert_eq!(response.status, 421, "{path}");
        assert!(!response.body.contains("gpulock"), "{}", response.body);
    }
    for host in ["localhost", "localhost:1234", "127.0.0.1", "[::1]:9877"] {
        assert_eq!(exporter.get_as(host, "/healthz").status, 200, "{host}");
    }
    for host in ["a@localhost", "rebound.example@127.0.0.1", ""] {
        assert_eq!(exporter.get_as(host, "/healthz").status, 421, "{host}");
    }
}

#[test]
fn two_host_headers_are_rejected_on_loopback() {
    let exporter = alone();
    for second in ["rebound.example", "localhost"] {
        let head =
            format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: {second}\r\n\r\n");
        let response = first_line(&mut exporter.send(head.as_bytes()));
        assert_eq!(response, "HTTP/1.1 400 Bad Request", "{second}");
    }
}

#[test]
fn on_loopback_another_site_can_link_but_not_load() {
    let exporter = alone();
    let status = |path, site, mode| {
        let headers = [("Sec-Fetch-Site", site), ("Sec-Fetch-Mode", mode)];
        exporter.get_with(path, &headers).status
    };
    for path in ["/", "/page.js", "/events", "/metrics", "/healthz", "/-/ready"] {
        for mode in ["no-cors", "cors", "websocket"] {
            assert_eq!(status(path, "cross-site", mode), 403, "{path} by {mode}");
        }
    }
    assert_eq!(status("/", "cross-site", "navigate"), 200);
    assert_eq!(status("/page.js", "same-origin", "no-cors"), 200);
    assert_eq!(status("/metrics", "none", "navigate"), 200);
}

/// Other machines use a host name of their choice.
#[test]
fn on_other_addresses_any_host_name_is_accepted() {
    let mut everywhere = command();
    everywhere.args(["--listen", "0.0.0.0:0", "--url", "redis://127.0.0.1:1"]);
    let exporter = Exporter::start(&mut everywhere);
    assert_eq!(exporter.get_as("gpus.example:9877", "/healthz").status, 200);
    let loaded = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "no-cors")];
    assert_eq!(exporter.get_with("/healthz", &loaded).status, 200);
}

#[test]
fn the_page_loads_nothing_from_other_sites_and_is_not_cached() {
    let exporter = alone();
    let kinds = [
        ("/", "text/html; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
    ];
    for (path, kind) in kinds {
        let response = exporter.get(path);
        let header =
            |name| response.headers.get(name).and_then(|value| value.to_str().ok());
        assert_eq!(response.status, 200, "{path}");
        assert_eq!(header("content-type"), Some(kind), "{path}");
        assert_eq!(header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(header("cache-control"), Some("no-store"), "{path}");
        let policy = header("content-security-policy").expect("a policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
    }
}

#[test]
fn a_password_is_never_printed() {
    let urls = ["redis://reader:s3cret@127.0.0.1:1".to_owned()];
    let exporter = Exporter::of_urls(&urls);
    let event = exporter.events().next().expect("an event").to_string();
    for text in [exporter.metrics(), event] {
        assert!(!text.contains("s3cret") && !text.contains("reader"), "{text}");
    }
    let output = command().args(["--server", "redis:/s3cret@nowhere"]).output();
    let stderr = String::from_utf8(output.expect("running it").stderr).expect("UTF-8");
    assert!(stderr.contains("--server") && !stderr.contains("s3cret"), "{stderr}");
}
