//! Deadlocks that involve lock sets.

use gpulock_testkit::Flavour;

use crate::support::counters::stats;
use crate::support::lock_sets::{AT_ONCE, release};
use crate::support::queue::{assert_no_reply, waiter};

tests! {
    a_deadlock_through_a_lock_set_is_refused,
    a_wait_that_another_lock_can_end_is_not_refused,
}

/// Granted requests, requests that wait, and the last request.
type Case = (&'static [&'static str], &'static [&'static str], &'static str);

#[rustfmt::skip]
const DEADLOCKS: &[Case] = &[
    (&["GPULOCK.ACQUIRE k1 a UNIQUE", "GPULOCK.ACQUIRE k2 b UNIQUE"],
     &["GPULOCK.ACQUIRE k1 b BLOCK 0 UNIQUE"],
     "GPULOCK.ACQUIREANY 2 k1 k2 a COUNT 2 BLOCK 0 UNIQUE"),
    (&["GPULOCK.ACQUIRE k1 a UNIQUE", "GPULOCK.ACQUIRE k2 b UNIQUE"],
     &["GPULOCK.ACQUIREANY 2 k1 k2 b COUNT 2 BLOCK 0 UNIQUE"],
     "GPULOCK.ACQUIRE k2 a BLOCK 0 UNIQUE"),
    (&["GPULOCK.ACQUIRE k1 a UNIQUE", "GPULOCK.ACQUIRE k2 b UNIQUE"],
     &["GPULOCK.ACQUIREANY 2 k2 k1 b COUNT 2 BLOCK 0 UNIQUE"],
     "GPULOCK.ACQUIREANY 2 k1 k2 a COUNT 2 BLOCK 0 UNIQUE"),
    // The owner needs a third lock as well.
    (&["GPULOCK.ACQUIRE k1 a UNIQUE", "GPULOCK.ACQUIRE k2 b UNIQUE", "GPULOCK.ACQUIRE k3 c"],
     &["GPULOCK.ACQUIREANY 3 k3 k1 k4 b COUNT 3 BLOCK 0 UNIQUE"],
     "GPULOCK.ACQUIREANY 2 k2 k5 a COUNT 2 BLOCK 0 UNIQUE"),
];

fn a_deadlock_through_a_lock_set_is_refused(flavour: &Flavour) {
    for (n, (before, waits, request)) in DEADLOCKS.iter().enumerate() {
        let server = flavour.start();
        let mut client = server.client();
        for request in *before {
            assert!(client.line(request).int() > 0, "{request}");
        }
        let mut waiting: Vec<_> =
            waits.iter().map(|request| waiter(&server, request)).collect();
        server.wait_blocked(waiting.len() as i64);
        client.send_lines(&[request]);
        let reply = client.read_within(AT_ONCE);
        let reply = reply.unwrap_or_else(|| panic!("no reply to {request}"));
        assert_eq!(reply.err(), r#"DEADLOCK "a" -> "b" -> "a""#, "case {n}");
        let counters = stats(&mut client);
        assert_eq!((counters["deadlocks"], counters["clients_waiting"]), (1, 1));
        assert_eq!(client.line("EXISTS k5"), 0);
        assert!(client.line("GPULOCK.INSPECT k5").is_null());
        assert_eq!(stats(&mut client)["locks_held"], before.len() as i64);
        // When the first owner releases its lock, the other is granted its own.
        release(&mut client, &["k1"], "a");
        if before.len() > 2 {
            release(&mut client, &["k3"], "c");
        }
        assert!(!waiting[0].read().is_null(), "case {n}");
    }
}

#[rustfmt::skip]
const NO_DEADLOCKS: &[Case] = &[
    // The other owner could be granted k3, which a third owner holds.
    (&["GPULOCK.ACQUIRE k1 a UNIQUE", "GPULOCK.ACQUIRE k2 b UNIQUE", "GPULOCK.ACQUIRE k3 c UNIQUE"],
     &["GPULOCK.ACQUIREANY 2 k1 k3 b BLOCK 0 UNIQUE"],
     "GPULOCK.ACQUIRE k2 a BLOCK 0 UNIQUE"),
    // So could the caller.
    (&["GPULOCK.ACQUIRE k1 a UNIQUE", "GPULOCK.ACQUIRE k2 b UNIQUE", "GPULOCK.ACQUIRE k3 c UNIQUE"],
     &["GPULOCK.ACQUIRE k1 b BLOCK 0 UNIQUE"],
     "GPULOCK.ACQUIREANY 2 k2 k3 a BLOCK 0 UNIQUE"),
    // Two of three.
    (&["GPULOCK.ACQUIRE k1 a UNIQUE", "GPULOCK.ACQUIRE k2 b UNIQUE", "GPULOCK.ACQUIRE k3 c", "GPULOCK.ACQUIRE k4 c"],
     &["GPULOCK.ACQUIREANY 3 k1 k3 k4 b COUNT 2 BLOCK 0 UNIQUE"],
     "GPULOCK.ACQUIREANY 3 k2 k3 k4 a COUNT 2 BLOCK 0 UNIQUE"),
    // Not UNIQUE, on either side.
    (&["GPULOCK.ACQUIRE k1 a UNIQUE", "GPULOCK.ACQUIRE k2 b UNIQUE"],
     &["GPULOCK.ACQUIREANY 2 k1 k3 b COUNT 2 BLOCK 0"],
     "GPULOCK.ACQUIRE k2 a BLOCK 0 UNIQUE"),
    (&["GPULOCK.ACQUIRE k1 a UNIQUE", "GPULOCK.ACQUIRE k2 b UNIQUE"],
     &["GPULOCK.ACQUIREANY 2 k1 k3 b COUNT 2 BLOCK 0 UNIQUE"],
     "GPULOCK.ACQUIREANY 2 k2 k4 a COUNT 2 BLOCK 0"),
    // An adopted lock.
    (&["GPULOCK.ACQUIRE k1 a UNIQUE"],
     &["GPULOCK.ACQUIREANY 2 k1 k3 b COUNT 2 BLOCK 0 UNIQUE"],
     "GPULOCK.ACQUIREANY 2 plain k4 a COUNT 2 BLOCK 0 UNIQUE"),
];

fn a_wait_that_another_lock_can_end_is_not_refused(flavour: &Flavour) {
    for (before, waits, request) in NO_DEADLOCKS {
        let server = flavour.start();
        let mut client = server.client();
        assert_eq!(client.line("SET plain b PX 100000"), "OK");
        for request in *before {
            assert!(client.line(request).int() > 0, "{request}");
        }
        let _waiting: Vec<_> =
            waits.iter().map(|request| waiter(&server, request)).collect();
        server.wait_blocked(waits.len() as i64);
        let mut caller = waiter(&server, request);
        server.wait_blocked(waits.len() as i64 + 1);
        assert_no_reply(&mut client, &mut caller);
        assert_eq!(stats(&mut client)["deadlocks"], 0, "{request}");
    }
}
