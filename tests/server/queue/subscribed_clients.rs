//! A RESP3 connection can have subscriptions and still send commands. On servers that let a
//! module block such a client it waits like any other. On other servers it gets an error without
//! a wait, and its owner's kept position is unchanged.

use gpulock_testkit::{Client, Flavour, Server, Value};

use crate::support::queue::{queue_of, wait_queue};

tests! {
    a_client_with_subscriptions_waits_or_is_refused,
    a_call_from_a_client_with_subscriptions_preserves_a_kept_position,
}

/// A connection with a subscription.
#[track_caller]
fn subscribed(server: &Server) -> Client {
    let mut client = server.client3();
    client.send_lines(&["SUBSCRIBE channel"]);
    assert!(matches!(client.read(), Value::Push(_)));
    client
}

fn a_client_with_subscriptions_waits_or_is_refused(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    assert!(client.line("GPULOCK.ACQUIRE k holder").int() > 0);
    let mut subscribed = subscribed(&server);
    // A call that does not wait always works.
    assert!(subscribed.line("GPULOCK.ACQUIRE k me").is_null());
    for call in [
        "GPULOCK.ACQUIRE k me BLOCK 300",
        "GPULOCK.ACQUIREANY 2 k other me COUNT 2 BLOCK 300",
    ] {
        let reply = subscribed.line(call);
        let is_refused = reply.is_err() && {
            assert!(reply.err().starts_with("ERR BLOCK is not possible"), "{reply:?}");
            assert!(reply.err().contains("subscriptions"), "{reply:?}");
            true
        };
        assert!(is_refused || reply.is_null(), "{call}: {reply:?}");
        assert!(queue_of(&mut client, "k").is_empty(), "{call}");
    }
    // The refused calls left nothing behind.
    assert_eq!(client.line("GPULOCK.RELEASE k holder"), 1);
    assert!(client.line("GPULOCK.ACQUIREANY 2 k other new COUNT 2").list().len() == 2);
}

fn a_call_from_a_client_with_subscriptions_preserves_a_kept_position(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    assert!(client.line("GPULOCK.ACQUIRE k holder").int() > 0);
    let slice = "GPULOCK.ACQUIRE k me UNIQUE BLOCK 50";
    assert!(client.line(slice).is_null());
    let mut behind = server.client();
    behind.send_lines(&["GPULOCK.ACQUIRE k behind BLOCK 0"]);
    wait_queue(&mut client, "k", &["(me)", "behind"]);
    let reply = subscribed(&server).line(slice);
    assert!(reply.is_null() || reply.is_err(), "{reply:?}");
    assert_eq!(queue_of(&mut client, "k"), ["(me)", "behind"]);
    let mut back = server.client();
    back.send_lines(&["GPULOCK.ACQUIRE k me UNIQUE BLOCK 0"]);
    wait_queue(&mut client, "k", &["me", "behind"]);
    assert_eq!(client.line("GPULOCK.RELEASE k holder"), 1);
    assert!(back.read().int() > 0);
    assert_eq!(client.line("GPULOCK.RELEASE k me"), 1);
    assert!(matches!(behind.read(), Value::Int(1..)));
}
