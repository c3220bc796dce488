//! How clients, replicas and operators see the queue and hand-offs: replicated commands, events,
//! INSPECT, LIST and counters.

use gpulock_testkit::{Flavour, Value, send, wait_until};

use crate::support::aof::commands_since;
use crate::support::clock::DEADLINE;
use crate::support::counters::{flatten, stats};
use crate::support::events::{next_event, subscriber};
use crate::support::locks::acquire;
use crate::support::queue::NO_TIMEOUT;
use crate::support::queue::{join_queue, wait_queue_length};

tests! {
    a_hand_off_is_replicated_as_one_set,
    a_hand_off_publishes_the_end_and_then_the_grant,
    inspect_and_list_show_the_queue,
    waits_are_counted_in_all_replies,
}

fn a_hand_off_is_replicated_as_one_set(flavour: &Flavour) {
    let server =
        flavour.server().arg("appendonly", "yes").arg("appendfsync", "always").start();
    // The replica has no module.
    let replica =
        flavour.server().without_module().named("replica").replica_of(&server).start();
    let (mut actor, mut reader) = (server.client(), replica.client());
    for (freeing, first) in [
        ("GPULOCK.RELEASE k holder", None),
        ("GPULOCK.FORCERELEASE k", None),
        ("DEL k", Some("DEL")),
        ("PEXPIRE k -1", Some("DEL")),
        ("PEXPIRE k 5", Some("PEXPIREAT")),
    ] {
        acquire(&mut actor, "k", "holder");
        let mut waiter = join_queue(&server, &mut actor, "k", "w", NO_TIMEOUT);
        let before = server.aof().len();
        assert!(!actor.line(freeing).is_err());
        assert!(waiter.read().int() > 0);
        let end = actor.line("PEXPIRETIME k").int().to_string();
        let mut written = commands_since(&server, before);
        written.retain(|words| !["MULTI", "EXEC"].contains(&&*words[0]));
        let last = written.pop().expect("a hand-off is written");
        assert_eq!(last, ["SET", "k", "w", "PXAT", &*end], "{freeing}");
        if let Some(first) = first {
            // Redis 7.0 deletes a key at once when it gets an expiry time in the past.
            let wrote = written.remove(0).remove(0).to_uppercase();
            let deleted = ["DEL", "UNLINK"].contains(&&*wrote);
            assert!(wrote == first || deleted && first == "DEL", "{freeing}: {wrote}");
        }
        // The server also writes the expiration of the key.
        let ended = written.iter().all(|words| {
            words.len() == 2 && ["DEL", "UNLINK"].contains(&&*words[0].to_uppercase())
        });
        assert!(ended && written.len() <= 1, "{freeing}: {written:?}");
        replica.wait_caught_up_with(&server);
        assert_eq!(reader.line("GET k"), "w");
        assert_eq!(reader.line("PEXPIRETIME k").int().to_string(), end);
        assert_eq!(actor.line("GPULOCK.RELEASE k w"), 1);
    }
}

fn a_hand_off_publishes_the_end_and_then_the_grant(flavour: &Flavour) {
    let server = flavour.server().module_args(&["gpulock.events", "all"]).start();
    let (mut actor, mut subscriber) =
        (server.client(), subscriber(&server, "gpu_lock:*"));
    for (freeing, reason) in [
        ("GPULOCK.RELEASE k holder", "normal"),
        ("GPULOCK.RELEASE k holder REASON done", "done"),
        ("GPULOCK.FORCERELEASE k", "forced"),
        ("GPULOCK.EXTEND k holder PX 5", "timeout"),
        ("DEL k", "removed"),
        ("FLUSHALL", "removed"),
    ] {
        let old = acquire(&mut actor, "k", "holder");
        let mut event = || {
            let event = next_event(&mut subscriber);
            // Events are published after the change of the key.
            let holder = server.client().line("GET k");
            (event, holder)
        };
        assert_eq!(event().0["event_type"], "lock_acquired");
        let mut waiter = join_queue(&server, &mut actor, "k", "locked_by_w", NO_TIMEOUT);
        actor.line(freeing);
        let new = waiter.read().int();
        let (ended, _) = event();
        assert_eq!(ended["event_type"], "lock_released", "{freeing}");
        assert_eq!(ended["owner"], "holder", "{freeing}");
        assert_eq!(ended["token"], old, "{freeing}");
        assert_eq!(ended["release_reason"], reason, "{freeing}");
        let (granted, holder) = event();
        assert_eq!(granted["event_type"], "lock_acquired", "{freeing}");
        assert_eq!(granted["owner"], "locked_by_w", "{freeing}");
        assert_eq!(granted["task_name"], "w", "{freeing}");
        assert_eq!(granted["token"], new, "{freeing}");
        assert_eq!(holder, "locked_by_w", "{freeing}");
        assert_eq!(actor.line("GPULOCK.RELEASE k locked_by_w"), 1);
        assert_eq!(event().0["event_type"], "lock_released");
    }
}

fn inspect_and_list_show_the_queue(flavour: &Flavour) {
    const WAITERS: usize = 103;
    let server = flavour.start();
    let mut actor = server.client();
    let mut actor3 = server.client3();
    acquire(&mut actor, "k", "holder");
    acquire(&mut actor, "quiet", "holder");
    let mut ids = vec![];
    let mut queue = vec![];
    for n in 0..WAITERS {
        let mut client = server.client();
        ids.push(client.id());
        send!(client, "GPULOCK.ACQUIRE", "k", format!("w{n}"), "BLOCK", 0);
        wait_queue_length(&mut actor, "k", n as i64 + 1);
        queue.push(client);
    }
    wait_until(DEADLINE, "a wait of 20 ms", || {
        let seen = actor.line("GPULOCK.INSPECT k");
        seen.field("waiters").list()[99].field("waited_ms").int() >= 20
    });
    for client in [&mut actor, &mut actor3] {
        let seen = client.line("GPULOCK.INSPECT k");
        assert_eq!(seen.field("owner"), "holder");
        assert_eq!(seen.field("waiting"), WAITERS as i64);
        assert_eq!(seen.field("reserved_for"), Value::Null);
        let positions = seen.field("waiters");
        let positions = positions.list();
        assert_eq!(positions.len(), 100);
        let mut longest = i64::MAX;
        for (n, position) in positions.iter().enumerate() {
            assert_eq!(position.field("owner"), &*format!("w{n}"));
            assert_eq!(position.field("client"), ids[n]);
            let waited = position.field("waited_ms").int();
            assert!((0..=longest).contains(&waited), "{waited} after {longest}");
            longest = waited;
            assert_eq!(
                (position.field("wants").int(), position.field("of").int()),
                (1, 1)
            );
            assert_eq!(position.field("reserved"), Value::Array(vec![]));
            assert_eq!(position.field("priority"), 0);
            assert_eq!(position.field("share"), Value::Null);
            assert_eq!(position.field("groups"), Value::Null);
            assert_eq!(position.map().len(), 9);
        }
        assert!(longest >= 20);
        let locks = client.line("GPULOCK.LIST");
        let of = |key: &str| {
            let lock = locks.list().iter().find(|lock| lock.field("key") == key);
            lock.expect("it is listed").field("waiting").int()
        };
        assert_eq!((of("k"), of("quiet")), (WAITERS as i64, 0));
    }
    assert_eq!(stats(&mut actor)["clients_waiting"], WAITERS as i64);
    // When a waiter leaves, those behind it move up.
    drop(queue.remove(0));
    wait_queue_length(&mut actor, "k", WAITERS as i64 - 1);
    let seen = actor.line("GPULOCK.INSPECT k").field("waiters");
    let owner = |n: usize| seen.list()[n].field("owner");
    assert_eq!((owner(0).text(), owner(99).text()), ("w1".into(), "w100".into()));
}

/// The counters of waiting clients in a fixed session, for the server and for one lock.
fn waits_are_counted_in_all_replies(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    acquire(&mut actor, "k", "holder");
    acquire(&mut actor, "other", "holder");
    let mut granted = join_queue(&server, &mut actor, "k", "a", NO_TIMEOUT);
    let disconnected = join_queue(&server, &mut actor, "k", "b", NO_TIMEOUT);
    let mut slow = join_queue(&server, &mut actor, "k", "c", "BLOCK 2000");
    let _still = join_queue(&server, &mut actor, "k", "d", NO_TIMEOUT);
    let _elsewhere = join_queue(&server, &mut actor, "other", "e", NO_TIMEOUT);
    assert_eq!(slow.read(), Value::Null);
    drop(disconnected);
    wait_queue_length(&mut actor, "k", 2);
    assert_eq!(actor.line("GPULOCK.RELEASE k holder"), 1);
    assert!(granted.read().int() > 0);
    assert_eq!(actor.line("GPULOCK.ACQUIRE k f"), Value::Null);

    #[rustfmt::skip]
    let of_lock = [
        ("acquire_requests", 6), ("acquired", 2), ("acquired_after_wait", 1),
        ("refused", 1), ("wait_timeouts", 1), ("waits_abandoned", 1), ("deadlocks", 0),
        ("releases", 1), ("locks_held", 1), ("clients_waiting", 1),
        ("wait_ms.count", 1), ("wait_ms.+Inf", 1), ("hold_ms.count", 1),
    ];
    let of_server = of_lock.map(|(name, count)| {
        let of_other = match name {
            "acquire_requests" => 2,
            "acquired" | "locks_held" | "clients_waiting" => 1,
            _ => 0,
        };
        (name, count + of_other)
    });
    let all = stats(&mut actor);
    let of_k = flatten(&actor.line("GPULOCK.STATS KEY k"));
    let info = actor.info("gpulock");
    let metrics = actor.line("GPULOCK.METRICS").text();
    let metric = |series: &str| {
        let found = metrics.lines().find_map(|line| line.strip_prefix(series));
        let value = found.unwrap_or_else(|| panic!("no {series} in {metrics}")).trim();
        value.parse::<f64>().expect("a number")
    };
    for ((name, of_lock), (_, of_server)) in of_lock.into_iter().zip(of_server) {
        assert_eq!(of_k[name], of_lock, "{name}");
        assert_eq!(all[name], of_server, "{name}");
        if name.contains('.') {
            continue;
        }
        assert_eq!(info[&format!("gpulock_{name}")], of_server.to_string(), "{name}");
        let total =
            if ["locks_held", "clients_waiting"].contains(&name) { "" } else { "_total" };
        let value = metric(&format!("gpulock_{name}{total} "));
        assert_eq!(value, of_server as f64, "{name}");
        let series = format!("gpulock_lock_{name}{total}{{db=\"0\",key=\"k\"}} ");
        assert_eq!(metric(&series), of_lock as f64, "{name}");
    }
    // It waited longer than `slow`, which came later.
    let waited = all["wait_ms.sum"];
    assert!(waited >= 1_999, "{waited}");
    assert_eq!((all["wait_ms.50"], of_k["wait_ms.sum"]), (0, waited));
    assert!(info["gpulock_wait_ms"].contains(&format!("count=1,sum={waited},")));
    assert_eq!(metric("gpulock_wait_seconds_count "), 1.0);
    assert_eq!(metric("gpulock_wait_seconds_bucket{le=\"0.05\"} "), 0.0);
    let sum = metric("gpulock_lock_wait_seconds_sum{db=\"0\",key=\"k\"} ");
    assert!((sum * 1000.0 - waited as f64).abs() < 0.5, "{sum}");
}
