//! `/metrics` with gzip, for clients that ask for it, without a delay of other requests.

use std::io::Read;

use flate2::read::GzDecoder;
use gpulock_testkit::{Server, call, on_every_server, wait_until};

use crate::TIMEOUT;
use crate::connections::has_response;
use crate::exporter::{Exporter, alone, url};

/// Lines whose value is the same in each scrape.
fn constant_lines(text: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(text).expect("UTF-8");
    let constant = |line: &&str| !line.starts_with("gpulock_scrape_seconds{");
    text.lines().filter(constant).map(str::to_owned).collect()
}

#[test]
fn a_client_that_asks_for_gzip_gets_the_same_text_compressed() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut client = server.client();
        for n in 0..100 {
            let key = format!("gpu \u{1f512} {n}");
            call!(client, "GPULOCK.ACQUIRE", key, "me").int();
            assert_eq!(call!(client, "GPULOCK.RELEASE", key, "me"), 1);
        }
        let exporter = Exporter::of(&[&server]);
        let (head, plain) = exporter.scrape("identity");
        assert!(head.get("content-encoding").is_none(), "{head:?}");
        assert_eq!(head["vary"], "accept-encoding");
        for accept in ["gzip", "deflate, gzip;q=1.0, *;q=0.5"] {
            let (head, body) = exporter.scrape(accept);
            assert_eq!(head["content-encoding"], "gzip", "{accept}");
            assert_eq!(head["vary"], "accept-encoding", "{accept}");
            let kind = "text/plain; version=0.0.4; charset=utf-8";
            assert_eq!(head["content-type"], kind, "{accept}");
            assert_eq!(head["content-length"], body.len().to_string().as_str());
            assert!(body.len() < plain.len() / 8, "{} of {}", body.len(), plain.len());
            let mut text = Vec::new();
            GzDecoder::new(&body[..]).read_to_end(&mut text).expect("valid gzip");
            assert_eq!(constant_lines(&text), constant_lines(&plain), "{accept}");
        }
    });
}

#[test]
fn a_client_that_does_not_ask_for_gzip_gets_plain_text() {
    let exporter = alone();
    for accept in ["", "identity", "br", "gzip;q=0", "gzip;q=0.5, identity"] {
        let (head, body) = exporter.scrape(accept);
        assert!(head.get("content-encoding").is_none(), "{accept:?}: {head:?}");
        assert!(body.starts_with(b"# HELP gpulock_up "), "{accept:?}");
    }
}

/// The number of METRICS calls that a server has executed.
fn calls(server: &Server) -> u64 {
    let stats = call!(server.client(), "INFO", "commandstats").text();
    let line = stats.lines().find_map(|line| {
        line.to_ascii_lowercase()
            .strip_prefix("cmdstat_gpulock.metrics:calls=")?
            .split_once(',')
            .map(|(n, _)| n.parse().expect("a number"))
    });
    line.unwrap_or(0)
}

#[test]
fn other_requests_are_served_while_a_text_is_compressed() {
    const LOCKS: u64 = 4096;
    const PORTION: u64 = 64;
    on_every_server(|flavour| {
        let limit = ["gpulock.tracked-keys", "4096"];
        let server = flavour.server().module_args(&limit).start();
        let mut client = server.client();
        for n in 0..LOCKS {
            call!(client, "GPULOCK.ACQUIRE", n, "me", "EX", 600).int();
            assert_eq!(call!(client, "GPULOCK.RELEASE", n, "me"), 1);
        }
        let exporter = Exporter::of_urls(&[url(&server)]);
        let scrape =
            b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\r\n";
        wait_until(TIMEOUT, "other responses during a compression", || {
            let before = calls(&server);
            let scrape = exporter.send(scrape);
            wait_until(TIMEOUT, "the last portion", || {
                calls(&server) >= before + LOCKS / PORTION
            });
            // The exporter has only the text left to write. If that blocked it, it would serve at
            // most the request that was already there.
            for _ in 0..3 {
                assert_eq!(exporter.get("/healthz").body, "ok\n");
            }
            !has_response(&scrape)
        });
    });
}
