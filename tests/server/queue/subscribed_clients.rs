//! A RESP3 connection may have subscriptions and still send commands. Where the server lets a
//! module block such a client it waits like any other; where not it gets an error at once, and
//! the position that it kept stays.

use gpulock_testkit::{Client, Flavour, Server, Value};

use crate::support::queue::{queue_of, wait_queue};

tests! {
    a_client_with_subscriptions_waits_or_is_told_that_it_cannot,
    a_kept_position_survives_a_call_from_a_connection_with_subscriptions,
}

/// A connection with a subscription.
#[track_caller]
fn subscribed(server: &Server) -> Client {
    let mut client = server.client3();
    client.send_lines(&["SUBSCRIBE channel"]);
    assert!(matches!(client.read(), Value::Push(_)));
    client
}

fn a_client_with_subscriptions_waits_or_is_told_that_it_cannot(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    assert!(client.line("GPULOCK.ACQUIRE k holder").int() > 0);
    let mut subscribed = subscribed(&server);
    // Not waiting needs nothing of the server.
    assert!(subscribed.line("GPULOCK.ACQUIRE k me").is_null());
    for call in [
        "GPULOCK.ACQUIRE k me BLOCK 300",
        "GPULOCK.ACQUIREANY 2 k other me COUNT 2 BLOCK 300",
    ] {
        let answer = subscribed.line(call);
        let is_told = answer.is_err() && {
            assert!(answer.err().starts_with("ERR BLOCK is not possible"), "{answer:?}");
            assert!(answer.err().contains("subscriptions"), "{answer:?}");
            true
        };
        assert!(is_told || answer.is_null(), "{call}: {answer:?}");
        assert!(queue_of(&mut client, "k").is_empty(), "{call}");
    }
    // The lock is the next one's, as if nothing had been asked.
    assert_eq!(client.line("GPULOCK.RELEASE k holder"), 1);
    assert!(client.line("GPULOCK.ACQUIREANY 2 k other new COUNT 2").list().len() == 2);
}

fn a_kept_position_survives_a_call_from_a_connection_with_subscriptions(
    flavour: &Flavour,
) {
    let server = flavour.start();
    let mut client = server.client();
    assert!(client.line("GPULOCK.ACQUIRE k holder").int() > 0);
    let slice = "GPULOCK.ACQUIRE k me UNIQUE BLOCK 50";
    assert!(client.line(slice).is_null());
    let mut behind = server.client();
    behind.send_lines(&["GPULOCK.ACQUIRE k behind BLOCK 0"]);
    wait_queue(&mut client, "k", &["(me)", "behind"]);
    let answer = subscribed(&server).line(slice);
    assert!(answer.is_null() || answer.is_err(), "{answer:?}");
    assert_eq!(queue_of(&mut client, "k"), ["(me)", "behind"]);
    let mut back = server.client();
    back.send_lines(&["GPULOCK.ACQUIRE k me UNIQUE BLOCK 0"]);
    wait_queue(&mut client, "k", &["me", "behind"]);
    assert_eq!(client.line("GPULOCK.RELEASE k holder"), 1);
    assert!(back.read().int() > 0);
    assert_eq!(client.line("GPULOCK.RELEASE k me"), 1);
    assert!(matches!(behind.read(), Value::Int(1..)));
}
