//! A waiter whose user loses its permissions is not granted the lock, on servers that also
//! refuse their own blocked clients then.

use gpulock_testkit::{Client, Flavour, Server, Value, call, wait_until};

use crate::harness::skip;
use crate::support::clock::DEADLINE;
use crate::support::counters::stats;
use crate::support::queue::{queue_of, wait_queue, waiter};

tests! {
    a_waiter_that_loses_its_permission_is_refused,
    a_waiter_that_keeps_its_permissions_is_granted,
}

/// A waiting client of the user `worker`, which has all permissions at first.
#[track_caller]
fn worker(server: &Server, request: &str) -> Client {
    let mut client = server.client();
    let rules = "ACL SETUSER worker reset on nopass ~* &* +@all";
    assert_eq!(client.line(rules), "OK");
    assert_eq!(client.line("AUTH worker x"), "OK");
    client.send_lines(&[request]);
    client
}

/// Whether the server serves a blocked `BLPOP` of a user that lost the permission for it.
fn serves_without_permission(server: &Server) -> bool {
    let mut client = server.client();
    let mut popping = worker(server, "BLPOP list 0");
    server.wait_blocked(1);
    assert_eq!(client.line("ACL SETUSER worker -blpop"), "OK");
    assert_eq!(client.line("RPUSH list element"), 1);
    !popping.read().is_err()
}

fn a_waiter_that_loses_its_permission_is_refused(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    if serves_without_permission(&server) {
        return skip("this server serves blocked clients without permissions");
    }
    let ways = [
        ("GPULOCK.ACQUIRE k worker BLOCK 0", "-gpulock.acquire"),
        ("GPULOCK.ACQUIRE k worker BLOCK 0 UNIQUE SESSION", "resetkeys"),
        ("GPULOCK.ACQUIREANY 2 k free worker COUNT 2 BLOCK 0", "-gpulock.acquireany"),
        ("GPULOCK.ACQUIREANY 2 k free worker COUNT 2 BLOCK 0 UNIQUE", "resetkeys ~k"),
    ];
    for (undelivered, (request, rules)) in [1, 2, 4, 6].into_iter().zip(ways) {
        assert!(client.line("GPULOCK.ACQUIRE k holder").int() > 0);
        let mut refused = worker(&server, request);
        wait_queue(&mut client, "k", &["worker"]);
        let mut next = waiter(&server, "GPULOCK.ACQUIRE k next BLOCK 0");
        wait_queue(&mut client, "k", &["worker", "next"]);
        assert_eq!(client.line(&format!("ACL SETUSER worker {rules}")), "OK");
        assert_eq!(client.line("GPULOCK.RELEASE k holder"), 1);
        let reply = refused.read();
        assert!(reply.err().starts_with("NOPERM "), "{rules}: {reply:?}");
        assert!(next.read().int() > 0, "{rules}");
        assert!(queue_of(&mut client, "k").is_empty(), "{rules}");
        assert_eq!(client.line("GPULOCK.RELEASE k next"), 1);
        wait_until(DEADLINE, "the other lock of the set to be free", || {
            client.line("EXISTS free") == 0
        });
        assert_eq!(stats(&mut client)["undelivered"], undelivered, "{rules}");
        drop(refused);
    }
}

fn a_waiter_that_keeps_its_permissions_is_granted(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    assert!(client.line("GPULOCK.ACQUIRE gpu:1 holder").int() > 0);
    let mut one = worker(&server, "GPULOCK.ACQUIRE gpu:1 one BLOCK 0");
    wait_queue(&mut client, "gpu:1", &["one"]);
    let mut two = worker(&server, "GPULOCK.ACQUIREANY 2 gpu:1 gpu:2 two COUNT 2 BLOCK 0");
    wait_queue(&mut client, "gpu:1", &["one", "two"]);
    let rules =
        "ACL SETUSER worker resetkeys ~gpu:* -@all +gpulock.acquire +gpulock.acquireany";
    assert_eq!(client.line(rules), "OK");
    assert_eq!(client.line("GPULOCK.RELEASE gpu:1 holder"), 1);
    assert!(one.read().int() > 0);
    assert_eq!(client.line("GPULOCK.RELEASE gpu:1 one"), 1);
    assert_eq!(two.read().list().len(), 2);
    assert_eq!(call!(client, "GET", "gpu:2"), Value::Bulk(b"two".to_vec()));
}
