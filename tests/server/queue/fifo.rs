//! Waiting in line: first come, first served, the lock passes from owner to owner without
//! ever being free, nobody who comes later passes the line, deadlines and leases are kept,
//! and the line can be seen wherever it is told of.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Instant, UNIX_EPOCH};

use gpulock_testkit::{Client, Flavour, Server, Value, call, send, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::counters::{flatten, stats};
use crate::support::locks::acquire;
use crate::support::queue::{
    assert_no_reply, join_queue, queue_length, wait_queue_length,
};

tests! {
    each_line_of_each_database_is_first_in_first_out,
    the_key_is_never_absent_during_a_hand_off,
    a_newcomer_never_passes_the_line,
    a_newcomer_that_waits_gets_the_place_behind,
    each_of_many_freeings_in_one_write_serves_the_next_in_line,
    a_plain_set_may_slip_in_and_the_line_waits_for_its_end,
    the_lease_starts_at_the_grant,
    a_deadline_is_honoured_to_a_few_milliseconds,
    block_counts_as_left_out_where_nobody_can_be_made_to_wait,
    one_waiter_more_than_max_waiters_is_refused,
    out_of_memory_nobody_new_waits_and_hand_offs_go_on,
    a_waiter_is_answered_in_the_protocol_that_it_speaks,
    a_hand_off_is_one_set_in_the_stream,
    a_hand_off_tells_the_end_and_then_the_grant,
    the_line_can_be_seen,
    what_waiting_counts_is_told_everywhere,
}

const FOREVER: &str = "PX 100000 BLOCK 0";

/// By how many milliseconds a deadline is missed at most as a rule; a machine that is busy
/// with other things may now and then add to that.
const FEW_MS: i64 = 5;
const BUSY_MS: i64 = 5_000;

fn unix_ms() -> i64 {
    let since = UNIX_EPOCH.elapsed().expect("a clock after 1970");
    i64::try_from(since.as_millis()).expect("a date before the year 292278994")
}

/// The owners in a line, in order.
#[track_caller]
fn queue_of(client: &mut Client, key: &str) -> Vec<String> {
    let seen = call!(client, "GPULOCK.INSPECT", key);
    seen.field("waiters").list().iter().map(|place| place.field("owner").text()).collect()
}

/// A subscriber to channels by patterns.
fn listener(server: &Server, pattern: &str) -> Client {
    let mut listener = server.client();
    send!(listener, "PSUBSCRIBE", pattern);
    assert_eq!(listener.read().list()[0], "psubscribe");
    listener
}

/// What the listener hears next.
#[track_caller]
fn heard(listener: &mut Client) -> String {
    listener.read().list()[3].text()
}

fn each_line_of_each_database_is_first_in_first_out(flavour: &Flavour) {
    const WAITERS: usize = 6;
    let server = flavour.start();
    let lines = [(0, "k"), (1, "k"), (0, "other")];
    let mut actor = server.client();
    let mut waiters: Vec<Vec<Client>> = vec![];
    for (db, key) in lines {
        call!(actor, "SELECT", db);
        acquire(&mut actor, key, "holder");
        waiters.push(vec![]);
    }
    // Turn by turn, so that each line grows while the others do.
    for n in 0..WAITERS {
        for ((db, key), line) in lines.iter().zip(&mut waiters) {
            call!(actor, "SELECT", db);
            let mut client = server.client();
            call!(client, "SELECT", db);
            send!(client, "GPULOCK.ACQUIRE", key, format!("w{n}"), "BLOCK", 0);
            wait_queue_length(&mut actor, key, n as i64 + 1);
            line.push(client);
        }
    }
    let mut last = 0;
    for ((db, key), line) in lines.iter().zip(&mut waiters).rev() {
        call!(actor, "SELECT", db);
        let mut holder = "holder".to_owned();
        for n in 0..WAITERS {
            let names: Vec<_> = (n..WAITERS).map(|n| format!("w{n}")).collect();
            assert_eq!(queue_of(&mut actor, key), names);
            assert_eq!(call!(actor, "GPULOCK.RELEASE", key, holder), 1);
            holder.clone_from(&names[0]);
            let token = line[n].read().int();
            assert!(token > last, "{token} after {last}");
            last = token;
            assert_eq!(call!(actor, "GET", key), &*holder);
            for behind in &mut line[n + 1..] {
                assert_no_reply(&mut actor, behind);
            }
        }
        assert_eq!(call!(actor, "GPULOCK.RELEASE", key, holder), 1);
        assert!(call!(actor, "GPULOCK.INSPECT", key).is_null());
    }
}

fn the_key_is_never_absent_during_a_hand_off(flavour: &Flavour) {
    const HAND_OFFS: usize = 200;
    let server = flavour.server().arg("notify-keyspace-events", "KA").start();
    let mut actor = server.client();
    acquire(&mut actor, "k", "w");
    let mut line: Vec<_> =
        (0..4).map(|_| join_queue(&server, &mut actor, "k", "w", FOREVER)).collect();
    let mut listener = listener(&server, "__keyspace@0__:k");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let poller = scope.spawn(|| {
            let mut poller = server.client();
            let mut polls = 0;
            while !stop.load(Ordering::Relaxed) {
                poller.send_lines(&["EXISTS k"; 50]);
                for _ in 0..50 {
                    assert_eq!(poller.read(), 1);
                }
                polls += 50;
            }
            polls
        });
        for n in 0..HAND_OFFS {
            let ends = ["GPULOCK.RELEASE k w", "GPULOCK.FORCERELEASE k"][n % 2];
            assert!(!actor.line(ends).is_null());
            let mut first = line.remove(0);
            assert!(first.read().int() > 0);
            assert_eq!(heard(&mut listener), "set");
            assert_eq!(heard(&mut listener), "expire");
            // It stands last again.
            first.line("PING");
            send!(first, "GPULOCK.ACQUIRE", "k", "w", "PX", 100_000, "BLOCK", 0);
            wait_queue_length(&mut actor, "k", 4);
            line.push(first);
        }
        stop.store(true, Ordering::Relaxed);
        assert!(poller.join().expect("the key was there whenever asked") > 0);
    });
    // At the end of a lease it is told first that it ended.
    assert_eq!(actor.line("PEXPIRE k 5"), 1);
    assert!(line.remove(0).read().int() > 0);
    for told in ["expire", "expired", "set", "expire"] {
        assert_eq!(heard(&mut listener), told);
    }
}

/// However the lock becomes free and whatever comes with it in the same write.
fn a_newcomer_never_passes_the_line(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    for frees in [
        "DEL k",
        "UNLINK k",
        "GETDEL k",
        "RENAME k away",
        "MOVE k 1",
        "PEXPIRE k -1",
        "FLUSHALL",
        "SWAPDB 0 1",
        "EVAL redis.call('DEL',KEYS[1]) 1 k",
        "GPULOCK.RELEASE k holder",
        "GPULOCK.FORCERELEASE k",
    ] {
        for transaction in [false, true] {
            for comes in [
                "GPULOCK.ACQUIRE k newcomer",
                "GPULOCK.ACQUIRE k newcomer UNIQUE",
                "GPULOCK.ACQUIRE k newcomer SESSION",
                "EVAL return{redis.call('GPULOCK.ACQUIRE',KEYS[1],'newcomer')} 1 k",
            ] {
                let what = format!("{frees}, {comes}, transaction: {transaction}");
                actor.line("FLUSHALL");
                acquire(&mut actor, "k", "holder");
                let mut first = join_queue(&server, &mut actor, "k", "first", FOREVER);
                let second = join_queue(&server, &mut actor, "k", "second", FOREVER);
                let answers = in_one_write(&mut actor, &[frees, comes], transaction);
                let refused = match &answers[1] {
                    Value::Array(items) => items.is_empty() || items[0].is_null(),
                    answer => answer.is_null(),
                };
                assert!(refused, "{what}: {answers:?}");
                assert!(first.read().int() > 0, "{what}");
                assert_eq!(actor.line("GET k"), "first", "{what}");
                assert_eq!(queue_of(&mut actor, "k"), ["second"], "{what}");
                drop(second);
                wait_queue_length(&mut actor, "k", 0);
            }
        }
    }
}

/// Carries out lines in one write, and answers what each was answered.
#[track_caller]
fn in_one_write(client: &mut Client, lines: &[&str], transaction: bool) -> Vec<Value> {
    if !transaction {
        client.send_lines(lines);
        return lines.iter().map(|_| client.read()).collect();
    }
    client.send_lines(&[&["MULTI"], lines, &["EXEC"]].concat());
    assert_eq!(client.read(), "OK");
    for line in lines {
        assert_eq!(client.read(), "QUEUED", "{line}");
    }
    client.read().list().to_vec()
}

fn a_newcomer_that_waits_gets_the_place_behind(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    for frees in ["DEL k", "GPULOCK.RELEASE k holder", "FLUSHALL"] {
        acquire(&mut actor, "k", "holder");
        let mut first = join_queue(&server, &mut actor, "k", "first", FOREVER);
        let mut second = join_queue(&server, &mut actor, "k", "second", FOREVER);
        let mut newcomer = server.client();
        newcomer.send_lines(&[frees, "GPULOCK.ACQUIRE k newcomer BLOCK 0", "PING"]);
        newcomer.read();
        assert!(first.read().int() > 0);
        assert_eq!(queue_of(&mut actor, "k"), ["second", "newcomer"], "{frees}");
        assert_eq!(actor.line("GPULOCK.RELEASE k first"), 1);
        assert!(second.read().int() > 0);
        assert_no_reply(&mut actor, &mut newcomer);
        assert_eq!(actor.line("GPULOCK.RELEASE k second"), 1);
        assert!(newcomer.read().int() > 0);
        // What it sent behind has waited as well.
        assert_eq!(newcomer.read(), "PONG");
        assert_eq!(actor.line("GPULOCK.RELEASE k newcomer"), 1);
    }
}

fn each_of_many_freeings_in_one_write_serves_the_next_in_line(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    for transaction in [false, true] {
        acquire(&mut actor, "k", "holder");
        let mut line: Vec<_> = ["a", "b", "c"]
            .iter()
            .map(|owner| join_queue(&server, &mut actor, "k", owner, FOREVER))
            .collect();
        let newcomer = "GPULOCK.ACQUIRE k newcomer";
        let steps = ["DEL k", newcomer, newcomer, "DEL k", newcomer, "DEL k", newcomer];
        let answers = in_one_write(&mut actor, &steps, transaction);
        for (step, answer) in steps.iter().zip(&answers) {
            match *step {
                "DEL k" => assert_eq!(*answer, 1),
                _ => assert!(answer.is_null(), "{answers:?}"),
            }
        }
        let tokens: Vec<_> = line.iter_mut().map(|client| client.read().int()).collect();
        assert!(tokens.is_sorted(), "{tokens:?}");
        assert_eq!(actor.line("GET k"), "c");
        assert_eq!(actor.line("GPULOCK.RELEASE k c"), 1);
    }
}

fn a_plain_set_may_slip_in_and_the_line_waits_for_its_end(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    acquire(&mut actor, "k", "holder");
    let mut first = join_queue(&server, &mut actor, "k", "first", FOREVER);
    let slips = ["DEL k", "SET k outsider NX PX 100000"];
    assert_eq!(in_one_write(&mut actor, &slips, false)[1], "OK");
    wait_until(DEADLINE, "the outsider to be adopted", || {
        stats(&mut actor)["adopted"] == 1
    });
    assert_eq!(queue_of(&mut actor, "k"), ["first"]);
    assert_no_reply(&mut actor, &mut first);
    assert_eq!(actor.line("GPULOCK.RELEASE k outsider"), 1);
    assert!(first.read().int() > 0);
    assert_eq!(actor.line("GET k"), "first");
}

fn the_lease_starts_at_the_grant(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    for (options, lease_ms) in
        [("PX 5000", 5_000), ("EX 7", 7_000), ("", 600_000), ("PX 9000 SESSION", 9_000)]
    {
        acquire(&mut actor, "k", "holder");
        let options = format!("{options} BLOCK 0");
        let mut waiter = join_queue(&server, &mut actor, "k", "w", &options);
        wait_until(DEADLINE, "a wait of 30 ms", || {
            let seen = actor.line("GPULOCK.INSPECT k");
            seen.field("waiters").list()[0].field("waited_ms").int() >= 30
        });
        let before = unix_ms();
        assert_eq!(actor.line("GPULOCK.RELEASE k holder"), 1);
        let after = unix_ms();
        assert!(waiter.read().int() > 0);
        let end = actor.line("PEXPIRETIME k").int();
        assert!(
            (before + lease_ms..=after + lease_ms).contains(&end),
            "{options}: {end} is not {lease_ms} after {before} to {after}"
        );
        assert_eq!(actor.line("GPULOCK.FORCERELEASE k"), "w");
    }
    // Longer than it may be: refused before the wait, not after it.
    acquire(&mut actor, "k", "holder");
    let max = "CONFIG SET gpulock.max-lease 1000";
    assert_eq!(actor.line(max), "OK");
    assert!(actor.line("GPULOCK.ACQUIRE k w PX 1001 BLOCK 0").is_err());
    assert_eq!(queue_length(&mut actor, "k"), 0);
}

fn a_deadline_is_honoured_to_a_few_milliseconds(flavour: &Flavour) {
    for hz in [1, 10] {
        let server = flavour.server().arg("hz", hz).start();
        let mut actor = server.client();
        acquire(&mut actor, "k", "holder");
        let mut late = vec![];
        // However the lock is held, and whoever else waits.
        for lease in ["PEXPIRE k 100000", "PERSIST k"] {
            actor.line(lease);
            let mut patient = join_queue(&server, &mut actor, "k", "patient", FOREVER);
            let most = format!("BLOCK {}", (1_i64 << 53) - 1);
            let mut most = join_queue(&server, &mut actor, "k", "most", &most);
            let mut line: Vec<_> = [300, 1, 2, 5, 100, 50, 20, 10]
                .into_iter()
                .map(|ms: i64| {
                    let mut client = server.client();
                    client.line("PING");
                    let since = Instant::now();
                    send!(client, "GPULOCK.ACQUIRE", "k", "w", "BLOCK", ms);
                    (ms, since, client)
                })
                .collect();
            line.sort_by_key(|(ms, ..)| *ms);
            for (ms, since, client) in &mut line {
                assert_eq!(client.read(), Value::Null);
                let took = i64::try_from(since.elapsed().as_millis()).expect("short");
                // The server's clock cuts off parts of a millisecond.
                assert!(took >= *ms - 1, "{took} for {ms}");
                late.push(took - *ms);
            }
            for client in [&mut patient, &mut most] {
                assert_no_reply(&mut actor, client);
            }
            assert_eq!(queue_of(&mut actor, "k"), ["patient", "most"]);
            drop((patient, most));
            wait_queue_length(&mut actor, "k", 0);
        }
        late.sort_unstable();
        eprintln!("late by {late:?} ms with hz {hz}");
        let (middle, worst) = (late[late.len() / 2], late[late.len() - 1]);
        assert!(middle <= FEW_MS && worst <= BUSY_MS, "late by {late:?} ms");
        let stats = stats(&mut actor);
        assert_eq!((stats["wait_timeouts"], stats["waits_abandoned"]), (16, 4));
    }
}

fn block_counts_as_left_out_where_nobody_can_be_made_to_wait(flavour: &Flavour) {
    const LIBRARY: &str = "#!lua name=wait\nredis.register_function('wait', \
        function(keys, args) \
            return {redis.call('GPULOCK.ACQUIRE', keys[1], 'w', 'BLOCK', 0)} \
        end)";
    let server = flavour.start();
    for mut client in [server.client(), server.client3()] {
        assert!(!call!(client, "FUNCTION", "LOAD", "REPLACE", LIBRARY).is_err());
        client.line("GPULOCK.RESETSTATS");
        acquire(&mut client, "k", "holder");
        let script = "return {redis.call('GPULOCK.ACQUIRE', KEYS[1], 'w', 'BLOCK', 0)}";
        let mut refused = 0;
        for held in [true, false] {
            let ask = ["GPULOCK.ACQUIRE k w BLOCK 0"];
            let mut check = |client: &mut Client, answer: &Value| {
                if held {
                    // A script's own null ends an array of RESP2.
                    let null = match answer {
                        Value::Array(items) => items.first().is_none_or(Value::is_null),
                        answer => *answer == Value::Null,
                    };
                    assert!(null, "{answer:?}");
                    refused += 1;
                } else {
                    assert_eq!(client.line("GPULOCK.RELEASE k w"), 1, "{answer:?}");
                }
            };
            let answer = in_one_write(&mut client, &ask, true).remove(0);
            check(&mut client, &answer);
            let answer = call!(client, "EVAL", script, 1, "k");
            check(&mut client, &answer);
            let answer = call!(client, "FCALL", "wait", 1, "k");
            check(&mut client, &answer);
            client.line("GPULOCK.FORCERELEASE k");
        }
        let stats = stats(&mut client);
        assert_eq!((stats["refused"], stats["clients_waiting"]), (refused, 0));
        assert_eq!((stats["acquired"], stats["acquired_after_wait"]), (4, 0));
        assert_eq!(refused, 3);
    }
}

fn one_waiter_more_than_max_waiters_is_refused(flavour: &Flavour) {
    let server = flavour.server().module_args(&["gpulock.max-waiters", "3"]).start();
    let (mut actor, mut newcomer) = (server.client(), server.client());
    acquire(&mut actor, "k", "holder");
    acquire(&mut actor, "other", "holder");
    let first = join_queue(&server, &mut actor, "k", "a", FOREVER);
    let mut second = join_queue(&server, &mut actor, "other", "b", FOREVER);
    let _third = join_queue(&server, &mut actor, "k", "c", FOREVER);
    for (n, ask) in
        ["GPULOCK.ACQUIRE k d BLOCK 0", "GPULOCK.ACQUIRE other d UNIQUE BLOCK 1"]
            .iter()
            .enumerate()
    {
        let answer = newcomer.line(ask);
        assert!(answer.err().starts_with("MAXWAITERS "), "{answer:?}");
        assert_eq!(stats(&mut actor)["refused"], n as i64 + 1);
    }
    // Who need not wait is none of the waiters.
    acquire(&mut newcomer, "free", "d");
    assert_eq!(newcomer.line("GPULOCK.ACQUIRE k d"), Value::Null);
    assert_eq!(queue_of(&mut actor, "k"), ["a", "c"]);
    drop(first);
    wait_queue_length(&mut actor, "k", 1);
    let _fourth = join_queue(&server, &mut actor, "k", "d", FOREVER);
    assert!(newcomer.line("GPULOCK.ACQUIRE k e BLOCK 0").is_err());
    // A grant makes room as well.
    assert_eq!(actor.line("GPULOCK.RELEASE other holder"), 1);
    assert!(second.read().int() > 0);
    let _fifth = join_queue(&server, &mut actor, "k", "e", FOREVER);
    // Fewer from now on: nobody is sent away.
    assert_eq!(actor.line("CONFIG SET gpulock.max-waiters 0"), "OK");
    assert_eq!(queue_of(&mut actor, "k"), ["c", "d", "e"]);
    let answer = newcomer.line("GPULOCK.ACQUIRE other f BLOCK 0");
    assert!(answer.err().starts_with("MAXWAITERS "), "{answer:?}");
    acquire(&mut newcomer, "free:2", "d");
}

fn out_of_memory_nobody_new_waits_and_hand_offs_go_on(flavour: &Flavour) {
    let server = flavour.start();
    let (mut actor, mut newcomer) = (server.client(), server.client());
    acquire(&mut actor, "k", "holder");
    let mut line: Vec<_> = ["a", "b", "c", "d"]
        .iter()
        .map(|owner| join_queue(&server, &mut actor, "k", owner, FOREVER))
        .collect();
    assert_eq!(actor.line("CONFIG SET maxmemory 1"), "OK");
    for ask in ["GPULOCK.ACQUIRE k new BLOCK 0", "GPULOCK.ACQUIRE k new UNIQUE BLOCK 5"] {
        let answer = newcomer.line(ask);
        assert!(answer.err().starts_with("OOM "), "{answer:?}");
    }
    assert_eq!(queue_of(&mut actor, "k"), ["a", "b", "c", "d"]);
    for (client, frees) in line.iter_mut().zip([
        "GPULOCK.RELEASE k holder",
        "GPULOCK.FORCERELEASE k",
        "DEL k",
        "PEXPIRE k 5",
    ]) {
        assert!(!actor.line(frees).is_err(), "{frees}");
        assert!(client.read().int() > 0, "{frees}");
    }
    assert_eq!(actor.line("GET k"), "d");
    assert_eq!(actor.line("GPULOCK.RELEASE k d"), 1);
    assert_eq!(actor.line("CONFIG SET maxmemory 0"), "OK");
    acquire(&mut newcomer, "k", "new");
}

fn a_waiter_is_answered_in_the_protocol_that_it_speaks(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    for mut waiter in [server.client(), server.client3()] {
        acquire(&mut actor, "k", "holder");
        send!(waiter, "GPULOCK.ACQUIRE", "k", "w", "BLOCK", 0);
        wait_queue_length(&mut actor, "k", 1);
        assert_eq!(actor.line("GPULOCK.RELEASE k holder"), 1);
        let answer = waiter.read();
        assert_eq!(answer, actor.line("GPULOCK.INSPECT k").field("token"));
        assert_eq!(call!(waiter, "GPULOCK.ACQUIRE", "k", "v", "BLOCK", 1), Value::Null);
        let bad = call!(waiter, "GPULOCK.ACQUIRE", "k", "v", "BLOCK", -1);
        assert!(bad.err().starts_with("ERR "), "{bad:?}");
        actor.line("GPULOCK.FORCERELEASE k");
    }
}

/// The commands that the append-only file got since it held `before` of them; those that
/// only frame others are left out.
fn written_since(server: &Server, before: usize) -> Vec<Vec<String>> {
    let frames = ["SELECT", "MULTI", "EXEC"];
    let mut commands = server.aof().split_off(before);
    commands.retain(|words| !frames.contains(&&*words[0].to_uppercase()));
    commands
}

fn a_hand_off_is_one_set_in_the_stream(flavour: &Flavour) {
    let server =
        flavour.server().arg("appendonly", "yes").arg("appendfsync", "always").start();
    // It follows without the module.
    let replica =
        flavour.server().without_module().named("replica").replica_of(&server).start();
    let (mut actor, mut reader) = (server.client(), replica.client());
    for (frees, first) in [
        ("GPULOCK.RELEASE k holder", None),
        ("GPULOCK.FORCERELEASE k", None),
        ("DEL k", Some("DEL")),
        ("PEXPIRE k -1", Some("DEL")),
        ("PEXPIRE k 5", Some("PEXPIREAT")),
    ] {
        acquire(&mut actor, "k", "holder");
        let mut waiter = join_queue(&server, &mut actor, "k", "w", FOREVER);
        let before = server.aof().len();
        assert!(!actor.line(frees).is_err());
        assert!(waiter.read().int() > 0);
        let end = actor.line("PEXPIRETIME k").text_of_int();
        let mut written = written_since(&server, before);
        let last = written.pop().expect("a hand-off is written");
        assert_eq!(last, ["SET", "k", "w", "PXAT", &*end], "{frees}");
        if let Some(first) = first {
            // Redis 7.0 deletes at once what another command gives an end in the past.
            let wrote = written.remove(0).remove(0).to_uppercase();
            let deleted = ["DEL", "UNLINK"].contains(&&*wrote);
            assert!(wrote == first || deleted && first == "DEL", "{frees}: {wrote}");
        }
        // The end of a lease is the server's to tell before the next begins.
        let ended = written.iter().all(|words| {
            words.len() == 2 && ["DEL", "UNLINK"].contains(&&*words[0].to_uppercase())
        });
        assert!(ended && written.len() <= 1, "{frees}: {written:?}");
        replica.wait_caught_up_with(&server);
        assert_eq!(reader.line("GET k"), "w");
        assert_eq!(reader.line("PEXPIRETIME k").text_of_int(), end);
        assert_eq!(actor.line("GPULOCK.RELEASE k w"), 1);
    }
}

trait TextOfInt {
    fn text_of_int(&self) -> String;
}

impl TextOfInt for Value {
    fn text_of_int(&self) -> String {
        self.int().to_string()
    }
}

fn a_hand_off_tells_the_end_and_then_the_grant(flavour: &Flavour) {
    let server = flavour.server().module_args(&["gpulock.events", "all"]).start();
    let (mut actor, mut listener) = (server.client(), listener(&server, "gpu_lock:*"));
    for (frees, reason) in [
        ("GPULOCK.RELEASE k holder", "normal"),
        ("GPULOCK.RELEASE k holder REASON done", "done"),
        ("GPULOCK.FORCERELEASE k", "forced"),
        ("GPULOCK.EXTEND k holder PX 5", "timeout"),
        ("DEL k", "removed"),
        ("FLUSHALL", "removed"),
    ] {
        let old = acquire(&mut actor, "k", "holder");
        let mut event = || {
            let text = heard(&mut listener);
            // After the key was changed.
            let event: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            let holder = server.client().line("GET k");
            (event, holder)
        };
        assert_eq!(event().0["event_type"], "lock_acquired");
        let mut waiter = join_queue(&server, &mut actor, "k", "locked_by_w", FOREVER);
        actor.line(frees);
        let new = waiter.read().int();
        let (ended, _) = event();
        assert_eq!(ended["event_type"], "lock_released", "{frees}");
        assert_eq!(ended["owner"], "holder", "{frees}");
        assert_eq!(ended["token"], old, "{frees}");
        assert_eq!(ended["release_reason"], reason, "{frees}");
        let (granted, holder) = event();
        assert_eq!(granted["event_type"], "lock_acquired", "{frees}");
        assert_eq!(granted["owner"], "locked_by_w", "{frees}");
        assert_eq!(granted["task_name"], "w", "{frees}");
        assert_eq!(granted["token"], new, "{frees}");
        assert_eq!(holder, "locked_by_w", "{frees}");
        assert_eq!(actor.line("GPULOCK.RELEASE k locked_by_w"), 1);
        assert_eq!(event().0["event_type"], "lock_released");
    }
}

fn the_line_can_be_seen(flavour: &Flavour) {
    const WAITERS: usize = 103;
    let server = flavour.start();
    let mut actor = server.client();
    let mut actor3 = server.client3();
    acquire(&mut actor, "k", "holder");
    acquire(&mut actor, "quiet", "holder");
    let mut ids = vec![];
    let mut line = vec![];
    for n in 0..WAITERS {
        let mut client = server.client();
        ids.push(client.id());
        send!(client, "GPULOCK.ACQUIRE", "k", format!("w{n}"), "BLOCK", 0);
        wait_queue_length(&mut actor, "k", n as i64 + 1);
        line.push(client);
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
        let places = seen.field("waiters");
        let places = places.list();
        assert_eq!(places.len(), 100);
        let mut longest = i64::MAX;
        for (n, place) in places.iter().enumerate() {
            assert_eq!(place.field("owner"), &*format!("w{n}"));
            assert_eq!(place.field("client"), ids[n]);
            let waited = place.field("waited_ms").int();
            assert!((0..=longest).contains(&waited), "{waited} after {longest}");
            longest = waited;
            assert_eq!((place.field("wants").int(), place.field("of").int()), (1, 1));
            assert_eq!(place.field("reserved"), Value::Array(vec![]));
            assert_eq!(place.map().len(), 6);
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
    // A place is given up and all behind it move on.
    drop(line.remove(0));
    wait_queue_length(&mut actor, "k", WAITERS as i64 - 1);
    let seen = queue_of(&mut actor, "k");
    assert_eq!((&*seen[0], &*seen[99]), ("w1", "w100"));
}

/// What waiting counts, in a session written out: for the server, and for a lock alone.
fn what_waiting_counts_is_told_everywhere(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    acquire(&mut actor, "k", "holder");
    acquire(&mut actor, "other", "holder");
    let mut granted = join_queue(&server, &mut actor, "k", "a", FOREVER);
    let gone = join_queue(&server, &mut actor, "k", "b", FOREVER);
    let mut slow = join_queue(&server, &mut actor, "k", "c", "BLOCK 2000");
    let _still = join_queue(&server, &mut actor, "k", "d", FOREVER);
    let _elsewhere = join_queue(&server, &mut actor, "other", "e", FOREVER);
    assert_eq!(slow.read(), Value::Null);
    drop(gone);
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
        let elsewhere = match name {
            "acquire_requests" => 2,
            "acquired" | "locks_held" | "clients_waiting" => 1,
            _ => 0,
        };
        (name, count + elsewhere)
    });
    let all = stats(&mut actor);
    let own = flatten(&actor.line("GPULOCK.STATS KEY k"));
    let info = actor.info("gpulock");
    let metrics = actor.line("GPULOCK.METRICS").text();
    let metric = |series: &str| {
        let found = metrics.lines().find_map(|line| line.strip_prefix(series));
        let value = found.unwrap_or_else(|| panic!("no {series} in {metrics}")).trim();
        value.parse::<f64>().expect("a number")
    };
    for ((name, of_lock), (_, of_server)) in of_lock.into_iter().zip(of_server) {
        assert_eq!(own[name], of_lock, "{name}");
        assert_eq!(all[name], of_server, "{name}");
        if name.contains('.') {
            continue;
        }
        assert_eq!(info[&format!("gpulock_{name}")], of_server.to_string(), "{name}");
        let total =
            if ["locks_held", "clients_waiting"].contains(&name) { "" } else { "_total" };
        let told = metric(&format!("gpulock_{name}{total} "));
        assert_eq!(told, of_server as f64, "{name}");
        let series = format!("gpulock_lock_{name}{total}{{db=\"0\",key=\"k\"}} ");
        assert_eq!(metric(&series), of_lock as f64, "{name}");
    }
    // It waited longer than `slow`, which came after it.
    let waited = all["wait_ms.sum"];
    assert!(waited >= 1_999, "{waited}");
    assert_eq!((all["wait_ms.50"], own["wait_ms.sum"]), (0, waited));
    assert!(info["gpulock_wait_ms"].contains(&format!("count=1,sum={waited},")));
    assert_eq!(metric("gpulock_wait_seconds_count "), 1.0);
    assert_eq!(metric("gpulock_wait_seconds_bucket{le=\"0.05\"} "), 0.0);
    let sum = metric("gpulock_lock_wait_seconds_sum{db=\"0\",key=\"k\"} ");
    assert!((sum * 1000.0 - waited as f64).abs() < 0.5, "{sum}");
}
