//! The events of the page: a server is queried once for all viewers, and not without viewers.

use std::time::{SystemTime, UNIX_EPOCH};

use gpulock_testkit::{Server, call, on_every_server, wait_until};
use serde_json::Value;

use crate::TIMEOUT;
use crate::exporter::Exporter;

fn time(event: &Value) -> u64 {
    event["unix_ms"].as_u64().expect("a time")
}

#[test]
fn all_viewers_share_one_query() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let exporter = Exporter::of(&[&server]);
        let (mut one, mut other) = (exporter.events(), exporter.events());
        for _ in 0..3 {
            let at = time(&other.next().expect("an event"));
            let same = one.by_ref().map(|event| time(&event)).find(|other| *other >= at);
            assert_eq!(same, Some(at));
        }
    });
}

/// Seconds since the last command of the exporter.
fn idle(server: &Server) -> Option<u64> {
    let clients = call!(server.client(), "CLIENT", "LIST").text();
    let exporter = clients.lines().find(|line| !line.contains("cmd=client"))?;
    let (_, idle) = exporter.split_once(" idle=")?;
    idle.split(' ').next()?.parse().ok()
}

#[test]
fn a_server_is_not_queried_without_viewers() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let exporter = Exporter::of(&[&server]);
        let mut events = exporter.events();
        assert!(events.next().is_some());
        drop(events);
        wait_until(TIMEOUT, "no more queries", || idle(&server) >= Some(4));

        // The next viewer gets the current state.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let event = exporter.events().next().expect("an event");
        assert!(u128::from(time(&event)) >= now.as_millis(), "{event}");
    });
}

/// LIST asks for a cursor then.
#[test]
fn locks_with_long_owners_are_shown() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut client = server.client();
        for n in 0..1_000 {
            let owner = "x".repeat(1_000);
            call!(client, "GPULOCK.ACQUIRE", format!("gpu:{n}"), owner, "EX", 600);
        }
        assert!(client.line("GPULOCK.LIST").is_err(), "the list is too long");
        let event = Exporter::of(&[&server]).events().next().expect("an event");
        let locks = event["locks"].as_array().expect("the locks of the server");
        assert!(locks.len() > 100, "{} locks", locks.len());
    });
}
