//! A Sentinel promotes a replica: the locks are held on by their owners, waiters come back
//! and stand in line, tokens rise over it; and what the old primary still grants has a
//! smaller token, and is gone once it follows.

use gpulock_testkit::{Client, Flavour, Sentinel, Server, Value, call, send};

use crate::support::background_load::with_background_load;
use crate::support::clock::DEADLINE;
use crate::support::counter_law::assert_counters;
use crate::support::counters::stats;
use crate::support::queue::{wait_queue, waiter};

tests! {
    when_the_primary_is_killed_its_locks_go_on_at_the_heir,
    what_a_primary_grants_that_was_cut_off_is_seen_for_what_it_is,
    an_orderly_failover_and_the_way_back_lose_no_lock,
}

/// A primary and who is to take its place. Each keeps a file, to come back with.
fn pair(flavour: &Flavour) -> (Server, Server) {
    let server = |name: &str| flavour.server().named(name).arg("appendonly", "yes");
    let primary = server("primary").start();
    let heir = server("heir").replica_of(&primary).start();
    (primary, heir)
}

/// Takes a lock.
#[track_caller]
fn take(client: &mut Client, key: &str, owner: &str) -> i64 {
    call!(client, "GPULOCK.ACQUIRE", key, owner, "PX", 600_000).int()
}

/// Three who stand in the line of a lock, each by UNIQUE.
#[track_caller]
fn three_wait(server: &Server, key: &str) -> [Client; 3] {
    let mut line = vec![];
    ["a", "b", "c"].map(|owner| {
        line.push(owner);
        let request = format!("GPULOCK.ACQUIRE {key} {owner} PX 600000 BLOCK 0 UNIQUE");
        let client = waiter(server, &request);
        wait_queue(&mut server.client(), key, &line);
        client
    })
}

/// Checks that the lock came over: its owner's, and nothing more is known of it.
#[track_caller]
fn assert_adopted(client: &mut Client, key: &str, owner: &str) {
    let seen = call!(client, "GPULOCK.INSPECT", key);
    assert_eq!(seen.field("owner"), owner);
    assert_eq!(seen.field("adopted"), 1);
    for unknown in ["token", "held_ms", "session"] {
        assert!(seen.field(unknown).is_null(), "{unknown}: {seen:?}");
    }
    assert!(call!(client, "GPULOCK.ACQUIRE", key, "a stranger").is_null());
}

/// Checks that this server follows: it shows the lock as its primary has it, and holds
/// nothing itself.
#[track_caller]
fn assert_only_shows(client: &mut Client, key: &str, owner: &str) {
    let seen = call!(client, "GPULOCK.INSPECT", key);
    assert_eq!(seen.field("owner"), owner);
    assert!(seen.field("token").is_null(), "{seen:?}");
    assert_eq!(client.line("GPULOCK.LIST"), Value::Array(vec![]));
    assert_eq!(stats(client)["locks_held"], 0);
    let refused = call!(client, "GPULOCK.ACQUIRE", key, "a stranger");
    assert!(refused.err().starts_with("READONLY "), "{refused:?}");
}

fn when_the_primary_is_killed_its_locks_go_on_at_the_heir(flavour: &Flavour) {
    let (mut primary, heir) = pair(flavour);
    // Never promoted.
    let other = flavour.server().named("other").arg("replica-priority", 0);
    let other = other.replica_of(&primary).start();
    let sentinel = Sentinel::start(&primary, 2);
    let (mut client, mut holder) = (primary.client(), primary.client());
    let tied = "GPULOCK.ACQUIRE tied asr PX 600000 UNIQUE SESSION";
    assert!(holder.line(tied).int() > 0);
    take(&mut client, "plain", "ocr");
    let mut waiters = three_wait(&primary, "tied");
    let mut last = take(&mut client, "free", "tts");
    assert_eq!(client.line("GPULOCK.RELEASE free tts"), 1);
    for replica in [&heir, &other] {
        replica.wait_caught_up_with(&primary);
    }
    primary.kill9();
    for client in waiters.iter_mut().chain([&mut holder]) {
        client.wait_closed();
    }
    sentinel.detect_failure_and_promote(&heir);

    let mut client = sentinel.connect_to_primary();
    assert_adopted(&mut client, "tied", "asr");
    assert_adopted(&mut client, "plain", "ocr");
    // They come back in the order in which they come back.
    let mut waiters = three_wait(&heir, "tied");
    let mut risen = |token: i64| {
        assert!(token > last, "{token} after {last}");
        last = token;
    };
    let mut holder = sentinel.connect_to_primary();
    risen(holder.line(tied).int());
    risen(client.line("GPULOCK.EXTEND plain ocr PX 600000").int());
    risen(take(&mut client, "free", "tts"));
    // The session is a session again.
    drop(holder);
    for (waiter, owner) in waiters.iter_mut().zip(["a", "b", "c"]) {
        risen(waiter.read().int());
        assert_eq!(call!(client, "GPULOCK.RELEASE", "tied", owner), 1);
    }
    assert_eq!(client.line("EXISTS tied"), 0);
    assert_counters(&mut client, 2, 0);

    // Who comes back from the dead follows like the other.
    primary.restart();
    for replica in [&primary, &other] {
        sentinel.wait_replicates(replica);
        replica.wait_caught_up_with(&heir);
        assert_only_shows(&mut replica.client(), "plain", "ocr");
        assert_eq!(replica.client().line("EXISTS tied"), 0);
    }
}

/// Locks that a primary which is cut off still grants, each another way, to `late`.
const LATE: [&str; 4] = ["lease", "session", "released", "free"];

/// How long the lease of the first of them lasts: the primary is cut off before its end.
const LEASE_MS: u64 = 4_000;

/// Prepares them, cuts the primary off, and answers those who wait there for an answer.
#[track_caller]
fn cut_off(primary: &mut Server, heir: &Server) -> [Client; 4] {
    let (mut client, mut tied) = (primary.client(), primary.client());
    assert!(tied.line("GPULOCK.ACQUIRE session holder PX 600000 SESSION").int() > 0);
    take(&mut client, "lease", "holder");
    take(&mut client, "released", "holder");
    let [lease, session, released] = ["lease", "session", "released"].map(|key| {
        let request = format!("GPULOCK.ACQUIRE {key} late PX 600000 BLOCK 0");
        let late = waiter(primary, &request);
        wait_queue(&mut client, key, &["late"]);
        late
    });
    let mut free = primary.client();
    assert!(call!(client, "GPULOCK.EXTEND", "lease", "holder", "PX", LEASE_MS).int() > 0);
    heir.wait_caught_up_with(primary);
    primary.freeze();
    drop(tied);
    send!(client, "GPULOCK.RELEASE", "released", "holder");
    send!(free, "GPULOCK.ACQUIRE", "free", "late", "PX", 600_000);
    [lease, session, released, free]
}

/// At the new primary all of them are granted to `new`; answers with which tokens.
#[track_caller]
fn go_on_at(heir: &Server) -> [i64; 4] {
    let mut client = heir.client();
    let mut waiters = LATE
        .map(|key| waiter(heir, &format!("GPULOCK.ACQUIRE {key} new PX 600000 BLOCK 0")));
    // Nobody answered the holder, so it asks again; of the other one only the connection
    // was lost.
    wait_queue(&mut client, "released", &["new"]);
    assert_eq!(client.line("GPULOCK.RELEASE released holder"), 1);
    wait_queue(&mut client, "session", &["new"]);
    assert_eq!(client.line("GPULOCK.FORCERELEASE session OWNER holder"), "holder");
    waiters.each_mut().map(|waiter| waiter.read().int())
}

fn what_a_primary_grants_that_was_cut_off_is_seen_for_what_it_is(flavour: &Flavour) {
    let (mut primary, heir) = pair(flavour);
    let mut sentinel = Sentinel::start(&primary, 1);
    let mut late = cut_off(&mut primary, &heir);
    sentinel.detect_failure_and_promote(&heir);
    let new_tokens = go_on_at(&heir);

    // It comes to, and does not know yet: two have each lock.
    sentinel.freeze();
    primary.thaw();
    let late_tokens = late.each_mut().map(|client| client.read().int());
    let (mut old, mut new) = (primary.client(), heir.client());
    for (n, key) in LATE.into_iter().enumerate() {
        let at = |client: &mut Client| {
            let seen = call!(client, "GPULOCK.INSPECT", key);
            (seen.field("owner").text(), seen.field("token").int())
        };
        assert_eq!(at(&mut old), ("late".into(), late_tokens[n]), "{key}");
        assert_eq!(at(&mut new), ("new".into(), new_tokens[n]), "{key}");
    }
    // A store that was written under any new token turns away every late one.
    let (latest, first) = (late_tokens.iter().max(), new_tokens.iter().min());
    assert!(latest < first, "{late_tokens:?} and {new_tokens:?}");

    // It follows: what it granted is gone, and the log tells of each.
    sentinel.thaw();
    sentinel.wait_replicates(&primary);
    for client in &mut late {
        client.wait_closed();
    }
    let mut old = primary.client();
    for (n, key) in LATE.into_iter().enumerate() {
        assert_only_shows(&mut old, key, "new");
        assert_ended_late(&mut old, key, late_tokens[n]);
        assert_turned_away(&mut new, key);
    }
    primary.wait_caught_up_with(&heir);
    assert_counters(&mut old, 0, 0);
    assert_counters(&mut new, 4, 0);
}

/// Checks that the log tells of a hold of `late` that the role change ended.
#[track_caller]
fn assert_ended_late(client: &mut Client, key: &str, token: i64) {
    let log = client.line("GPULOCK.LOG");
    let told = log.list().iter().any(|entry| {
        entry.field("kind") == "removed"
            && entry.field("key") == key
            && entry.field("holder") == "late"
            && entry.field("token") == token
    });
    assert!(told, "{key} with {token}: {log:?}");
}

/// Checks that `late` can do nothing to the lock of `new`, and that it is noted.
#[track_caller]
fn assert_turned_away(client: &mut Client, key: &str) {
    assert!(call!(client, "GPULOCK.EXTEND", key, "late").is_null());
    assert_eq!(call!(client, "GPULOCK.RELEASE", key, "late"), 0);
    let log = client.line("GPULOCK.LOG");
    let entry = &log.list()[0];
    assert_eq!(entry.field("kind"), "ownership_violation");
    assert_eq!(
        (entry.field("holder").text(), entry.field("caller").text()),
        ("new".into(), "late".into())
    );
    assert_eq!(call!(client, "GET", key), "new");
}

/// Checks that a waiter of a primary that the Sentinel made a replica hears at most that
/// it does not wait any more. The Sentinel closes its connection.
#[track_caller]
fn told_at_most_once(waiter: &mut Client) {
    if let Ok(told) = waiter.try_read(DEADLINE) {
        let told = told.expect("an answer, or the end of the connection");
        assert!(told.err().starts_with("UNBLOCKED "), "{told:?}");
        waiter.wait_closed();
    }
}

fn an_orderly_failover_and_the_way_back_lose_no_lock(flavour: &Flavour) {
    let (one, two) = pair(flavour);
    let sentinel = Sentinel::start(&one, 1);
    let mut last = take(&mut one.client(), "k", "holder");
    for (from, to) in [(&one, &two), (&two, &one)] {
        let mut waiters = three_wait(from, "k");
        to.wait_caught_up_with(from);
        under_load(&sentinel, || sentinel.failover_to(to));
        for waiter in &mut waiters {
            told_at_most_once(waiter);
        }
        sentinel.wait_replicates(from);
        let mut client = sentinel.connect_to_primary();
        assert_adopted(&mut client, "k", "holder");
        let mut risen = |token: i64| {
            assert!(token > last, "{token} after {last}");
            last = token;
        };
        risen(client.line("GPULOCK.EXTEND k holder PX 600000").int());
        let mut waiters = three_wait(to, "k");
        assert_eq!(client.line("GPULOCK.RELEASE k holder"), 1);
        for (waiter, owner) in waiters.iter_mut().zip(["a", "b", "c"]) {
            risen(waiter.read().int());
            assert_eq!(call!(client, "GPULOCK.RELEASE", "k", owner), 1);
        }
        risen(take(&mut client, "k", "holder"));
        from.wait_caught_up_with(to);
        assert_only_shows(&mut from.client(), "k", "holder");
    }
}

/// Somebody takes a lock and gives it back while `work` goes on, at whoever is the primary,
/// and each token is larger than the one before.
fn under_load(sentinel: &Sentinel, work: impl FnOnce()) {
    let (mut client, mut last) = (sentinel.connect_to_primary(), 0);
    let take_and_give_back = || {
        client.send_lines(&[
            // UNIQUE: the release before may have been lost with the old primary.
            "GPULOCK.ACQUIRE busy worker PX 600000 UNIQUE",
            "GPULOCK.RELEASE busy worker",
        ]);
        match [client.try_read(DEADLINE), client.try_read(DEADLINE)] {
            [Ok(Some(Value::Int(token))), _] => {
                assert!(token > last, "{token} after {last}");
                last = token;
            }
            _ => client = sentinel.connect_to_primary(),
        }
    };
    with_background_load(vec![take_and_give_back], work);
    assert!(last > 0);
}
