//! Batches of invalid calls on locks in all states.

use fastrand::Rng;
use gpulock_testkit::{Client, Flavour, Server, Value, call, encode, send};

use super::{RELAY, calls_to_send, display, relayed};
use crate::support::call_generator::{KEYS, OWNERS, Words, invalid};
use crate::support::clock::DEADLINE;
use crate::support::rng::seeded_rng;
use crate::support::server_state::server_state;

tests! { invalid_calls_change_neither_keys_nor_locks }

const BATCH: usize = 1_000;

fn invalid_calls_change_neither_keys_nor_locks(flavour: &Flavour) {
    let server = flavour
        .server()
        // Longer than the test, so that the kept position does not expire.
        .module_args(&["gpulock.place-keep", "3600000"])
        .start();
    let mut client = server.client();
    let _waiters = make_locks(&server, &mut client);
    assert_eq!(call!(client, "FUNCTION", "LOAD", RELAY), "relay");
    let mut rng = seeded_rng();
    let before = server_state(&mut client);
    for _ in 0..calls_to_send().div_ceil(BATCH) {
        let batch: Vec<Words> = (0..BATCH).map(|_| invalid(&mut rng, 1)).collect();
        assert_refused(&mut client, &mut rng, &batch);
        if server_state(&mut client) != before {
            fail_at_the_changing_call(&mut client, &batch);
        }
    }
    assert_eq!(client.line("GPULOCK.STATS").field("internal_errors"), 0);
}

/// Sends a batch in one of several ways, and checks that each call is refused.
fn assert_refused(client: &mut Client, rng: &mut Rng, batch: &[Words]) {
    match rng.usize(..4) {
        0 => assert_refused_in_one_write(
            client,
            &batch.iter().map(|words| relayed(rng, words)).collect::<Vec<_>>(),
        ),
        1 => batch.iter().for_each(|words| {
            assert_eq!(client.line("MULTI"), "OK");
            let queued = client.cmd(words);
            let done = client.line("EXEC");
            let refused =
                queued.is_err() && done.is_err() || done.list().iter().all(Value::is_err);
            assert!(refused, "{}: {queued:?} {done:?}", display(words));
        }),
        _ => assert_refused_in_one_write(client, batch),
    }
}

/// Sends a batch in one write, and checks that each call is refused.
fn assert_refused_in_one_write(client: &mut Client, batch: &[Words]) {
    client
        .send_raw(&batch.iter().map(|words| encode(words)).collect::<Vec<_>>().concat());
    for words in batch {
        // A call that waits has no reply.
        let reply = client.read_within(DEADLINE);
        let refused = reply.as_ref().is_some_and(Value::is_err);
        assert!(refused, "{}: {reply:?}", display(words));
    }
}

/// Panics with the call that changed the state of the server.
fn fail_at_the_changing_call(client: &mut Client, batch: &[Words]) {
    for words in batch {
        let before = server_state(client);
        let reply = client.cmd(words);
        assert_eq!(server_state(client), before, "{}: {reply:?}", display(words));
    }
    panic!("the batch changed the state, its calls one by one do not");
}

/// Locks that are held, adopted, without a lease, waited for and reserved; a kept position; a
/// hold that was given notice; waiters with a priority, a share and groups; and a key of each
/// other type.
fn make_locks(server: &Server, client: &mut Client) -> Vec<Client> {
    let [held, unique, adopted, endless, reserved, of_group, other, ..] = KEYS;
    let [me, you, ..] = OWNERS;
    for words in [
        &[b"GPULOCK.ACQUIRE", held, me, b"SESSION", b"GRACE", b"5", b"SHARE", b"asr"][..],
        &[b"GPULOCK.ACQUIRE", unique, you, b"UNIQUE"],
        &[b"GPULOCK.FORCERELEASE", unique, b"AFTER", b"300000", b"REASON", b"notice"],
        &[b"SET", adopted, you, b"PX", b"600000"],
        &[b"SET", endless, me],
        &[b"RPUSH", b"list", b"x"],
        &[b"SADD", b"set", b"x"],
        &[b"ZADD", b"zset", b"1", b"x"],
        &[b"HSET", b"hash", b"x", b"1"],
        &[b"XADD", b"stream", b"*", b"x", b"1"],
    ] {
        let reply = client.cmd(words);
        assert!(!reply.is_err() && !reply.is_null(), "{words:?}: {reply:?}");
    }
    assert!(call!(client, "GPULOCK.ACQUIRE", adopted, me).is_null());
    let kept = call!(client, "GPULOCK.ACQUIRE", unique, "away", "UNIQUE", "BLOCK", 1);
    assert!(kept.is_null());
    let mut waiter = server.client();
    let urgent = "BLOCK 0 SESSION PRIORITY 5 SHARE asr".split(' ');
    let words = ["GPULOCK.ACQUIRE".as_bytes(), held, b"waiter"].into_iter();
    waiter.send(&words.chain(urgent.map(str::as_bytes)).collect::<Vec<_>>());
    let mut set_waiter = server.client();
    send!(
        set_waiter,
        "GPULOCK.ACQUIREANY",
        2,
        adopted,
        reserved,
        "pair",
        "COUNT",
        2,
        "BLOCK",
        0
    );
    let mut group_waiter = server.client();
    let groups = "COUNT 2 GROUPS 1 2 2 2 BLOCK 0".split(' ');
    let keys = [b"GPULOCK.ACQUIREANY", &b"4"[..], held, of_group, endless, other];
    let words = keys.into_iter().chain([&b"group"[..]]);
    group_waiter.send(&words.chain(groups.map(str::as_bytes)).collect::<Vec<_>>());
    server.wait_blocked(3);
    let reserved_for = call!(client, "GPULOCK.INSPECT", reserved).field("reserved_for");
    assert_eq!(reserved_for, "pair");
    let reserved_for = call!(client, "GPULOCK.INSPECT", of_group).field("reserved_for");
    assert_eq!(reserved_for, "group");
    vec![waiter, set_waiter, group_waiter]
}
