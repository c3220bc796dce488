//! FORCERELEASE AFTER gives the holder notice: it can finish, and no lease reaches beyond the
//! notice, whoever sets it.

use std::time::{Duration, Instant};

use gpulock_testkit::{Client, Flavour, Server, Value, call, wait_until};

use crate::support::aof::commands_since;
use crate::support::clock::{DEADLINE, unix_ms};
use crate::support::counter_law::{assert_counters, lawful_stats};
use crate::support::counters::stats;
use crate::support::events::{next_event, next_message, subscriber};
use crate::support::locks::acquire;
use crate::support::queue::{assert_no_reply, join_queue, wait_queue, waiter};
use crate::support::server_variants::server_variants;
use crate::support::sessions::{close, inspect};

tests! {
    a_notice_cuts_the_lease_and_returns_the_owner,
    a_notice_that_is_longer_than_the_lease_leaves_it,
    without_a_match_nothing_changes,
    the_event_is_exactly_the_documented_one,
    the_setting_events_selects_whether_a_notice_is_published,
    no_renewal_makes_the_lease_longer,
    other_clients_cannot_make_the_lease_longer,
    a_key_that_outlives_its_notice_is_deleted,
    the_holder_cannot_renew_by_other_commands_beyond_a_notice,
    max_hold_can_end_a_hold_before_its_notice,
    a_second_notice_only_shortens,
    at_the_end_the_lock_passes_to_the_next_waiter,
    at_the_end_a_lock_without_waiters_ends_by_force,
    a_lease_that_ends_before_the_notice_expires,
    a_lock_released_in_time_counts_as_released,
    a_key_deleted_by_another_client_counts_as_removed,
    a_release_by_force_ends_a_notice_at_once,
    the_grace_period_or_the_notice_ends_the_hold_whichever_is_first,
    an_adopted_lock_can_be_given_notice,
    in_a_transaction_and_a_script_a_notice_has_the_same_effect,
    a_restart_forgets_the_notice_and_keeps_the_lease,
    a_failover_forgets_the_notice_and_keeps_the_lease,
    replicas_and_the_file_get_the_cut_leases,
    inspect_and_list_show_the_notice,
}

/// A notice that outlasts the test.
const LONG_MS: i64 = 300_000;

/// A notice whose end the test waits for, and which outlasts the calls before.
const SHORT_MS: i64 = 1_000;

/// A call that gives the holder of `k` notice.
fn notice(ms: i64) -> String {
    format!("GPULOCK.FORCERELEASE k AFTER {ms} REASON drain")
}

/// `me` acquires `k` for 600 s. Returns the token.
#[track_caller]
fn held(client: &mut Client) -> i64 {
    acquire(client, "k", "me")
}

/// Gives `me` notice of `ms`.
#[track_caller]
fn give(client: &mut Client, ms: i64) {
    assert_eq!(client.line(&notice(ms)), "me");
}

/// Checks that the lease of `k` is not longer than a notice of `ms`, for the server and for the
/// module.
#[track_caller]
fn assert_cut(client: &mut Client, ms: i64, what: &str) {
    let left = client.line("PTTL k").int();
    assert!((1..=ms).contains(&left), "{left} ms left: {what}");
    let left = inspect(client, "lease_ms").int();
    assert!((1..=ms).contains(&left), "INSPECT shows {left} ms: {what}");
}

/// Waits until a lock is no longer held.
#[track_caller]
fn wait_free(client: &mut Client) {
    wait_until(DEADLINE, "the end of the hold", || stats(client)["locks_held"] == 0);
}

/// Checks how the only hold has ended.
#[track_caller]
fn assert_ended(client: &mut Client, counter: &str, what: &str) {
    let stats = lawful_stats(client);
    for name in
        ["emergency_releases", "expired", "releases", "removed", "session_releases"]
    {
        assert_eq!(stats[name], i64::from(name == counter), "{name}: {what}");
    }
}

/// Checks the next log entry, and the next event after that of the notice.
#[track_caller]
fn assert_forced(client: &mut Client, subscriber: &mut Client, what: &str) {
    assert_ended(client, "emergency_releases", what);
    let log = client.line("GPULOCK.LOG");
    let [entry] = log.list() else { panic!("{log:?}: {what}") };
    assert_eq!(
        (entry.field("kind").text(), entry.field("reason").text()),
        ("forced".to_owned(), "drain".to_owned())
    );
    assert_eq!(entry.field("holder"), "me");
    let revoked = next_event(subscriber);
    assert_eq!(revoked["event_type"], "lock_revoked", "{what}");
    let released = next_event(subscriber);
    assert_eq!(released["event_type"], "lock_released", "{what}");
    assert_eq!(released["release_reason"], "drain", "{what}");
    assert_eq!(released["owner"], "me", "{what}");
}

fn a_notice_cuts_the_lease_and_returns_the_owner(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let token = held(&mut client);
    assert_eq!(call!(client, "GPULOCK.FORCERELEASE", "k", "AFTER", LONG_MS), "me");
    assert_cut(&mut client, LONG_MS, "the default reason");
    assert_eq!(inspect(&mut client, "revoked_reason"), "forced");
    assert_eq!(inspect(&mut client, "token"), token);
    assert_eq!(client.line("GET k"), "me");
    assert_eq!(lawful_stats(&mut client)["revocations"], 1);
    assert_counters(&mut client, 1, 0);
    assert!(client.line("GPULOCK.LOG").list().is_empty());
    // The hold goes on: its owner alone can renew and release it.
    assert_eq!(client.line("GPULOCK.ACQUIRE k you"), Value::Null);
    assert_eq!(client.line("GPULOCK.EXTEND k me"), token);
    assert_eq!(call!(client, "GPULOCK.RELEASE", "k", "me", "TOKEN", token), 1);
    // The next hold has no notice.
    held(&mut client);
    assert!(client.line("PTTL k").int() > LONG_MS);
    assert!(inspect(&mut client, "revoked_ms").is_null());
}

fn a_notice_that_is_longer_than_the_lease_leaves_it(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    held(&mut client);
    let before = client.line("PEXPIRETIME k").int();
    for ms in [700_000, (1 << 53) - 1] {
        call!(client, "GPULOCK.FORCERELEASE", "k");
        held(&mut client);
        let before = client.line("PEXPIRETIME k").int().max(before);
        give(&mut client, ms);
        assert_eq!(client.line("PEXPIRETIME k"), before, "{ms}");
        let left = inspect(&mut client, "revoked_ms").int();
        assert!((600_000..=ms).contains(&left), "{left}");
    }
    // It limits later leases.
    call!(client, "GPULOCK.FORCERELEASE", "k");
    held(&mut client);
    give(&mut client, 700_000);
    client.line("GPULOCK.EXTEND k me PX 5000000");
    assert_cut(&mut client, 700_000, "extended");
    assert!(client.line("PTTL k").int() > 600_000);
}

fn without_a_match_nothing_changes(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let mut subscriber = subscriber(&server, "*");
    let token = held(&mut client);
    client.line("RPUSH list x");
    let before = client.line("PEXPIRETIME k").int();
    for (line, reply) in [
        ("k OWNER you AFTER 5".to_owned(), None),
        (format!("k TOKEN {} AFTER 5", token + 1), None),
        (format!("k OWNER you TOKEN {token} AFTER 5"), None),
        ("free AFTER 5".to_owned(), None),
        ("list AFTER 5".to_owned(), Some("WRONGTYPE")),
        ("k AFTER 0".to_owned(), Some("ERR AFTER must be an integer from 1")),
        ("k AFTER -1".to_owned(), Some("ERR AFTER must be an integer from 1")),
        ("k AFTER x".to_owned(), Some("ERR AFTER must be an integer from 1")),
        (format!("k AFTER {}", 1_u64 << 53), Some("ERR AFTER must be")),
    ] {
        let answer = client.line(&format!("GPULOCK.FORCERELEASE {line}"));
        match reply {
            None => assert!(answer.is_null(), "{line}: {answer:?}"),
            Some(error) => assert!(answer.err().starts_with(error), "{answer:?}"),
        }
    }
    assert_eq!(client.line("PEXPIRETIME k"), before);
    assert!(inspect(&mut client, "revoked_ms").is_null());
    assert_eq!(stats(&mut client)["revocations"], 0);
    call!(client, "PUBLISH", "the end", "");
    assert_eq!(next_message(&mut subscriber).0, b"the end");
    // Both match.
    let line = format!("GPULOCK.FORCERELEASE k OWNER me TOKEN {token} AFTER {LONG_MS}");
    assert_eq!(client.line(&line), "me");
}

fn the_event_is_exactly_the_documented_one(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let mut subscriber = subscriber(&server, "*");
    let token = call!(client, "GPULOCK.ACQUIRE", "k", "locked_by_asr").int();
    assert_eq!(client.line(&notice(1_500)), "locked_by_asr");
    let expires_ms = client.line("PEXPIRETIME k").int();
    let (channel, text) = next_message(&mut subscriber);
    assert_eq!(channel, b"gpu_lock:k");
    let text = String::from_utf8(text).expect("JSON is UTF-8");
    let written = |name: &str| {
        let rest = text.split_once(&format!("\"{name}\":")).expect(name).1;
        rest.split_once(',').expect("more").0.to_owned()
    };
    let (timestamp, deadline) = (written("timestamp"), written("deadline"));
    assert_eq!(
        text,
        format!(
            r#"{{"event_type":"lock_revoked","lock_key":"k","task_name":"asr","release_reason":"drain","timestamp":{timestamp},"deadline":{deadline},"owner":"locked_by_asr","token":{token},"db":0}}"#
        )
    );
    let ms = |seconds: &str| (seconds.parse::<f64>().expect("seconds") * 1000.0).round();
    #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
    let expires_ms = expires_ms as f64;
    assert!((ms(&deadline) - expires_ms).abs() < 0.5, "{text}");
    assert!((ms(&deadline) - ms(&timestamp) - 1_500.0).abs() < 0.5, "{text}");
}

fn the_setting_events_selects_whether_a_notice_is_published(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let mut subscriber = subscriber(&server, "gpu_lock:*");
    for (setting, published) in [
        ("off", &[][..]),
        ("release", &["lock_revoked", "lock_released"]),
        ("all", &["lock_acquired", "lock_revoked", "lock_released"]),
    ] {
        assert_eq!(call!(client, "CONFIG", "SET", "gpulock.events", setting), "OK");
        held(&mut client);
        give(&mut client, LONG_MS);
        client.line("GPULOCK.RELEASE k me");
        for expected in published {
            assert_eq!(next_event(&mut subscriber)["event_type"], *expected, "{setting}");
        }
        call!(client, "PUBLISH", "gpu_lock:the end", "");
        assert_eq!(next_message(&mut subscriber).0, b"gpu_lock:the end", "{setting}");
    }
}

fn no_renewal_makes_the_lease_longer(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let token = client.line("GPULOCK.ACQUIRE k me PX 600000 UNIQUE").int();
    give(&mut client, LONG_MS);
    let end = client.line("PEXPIRETIME k").int();
    for line in [
        "GPULOCK.EXTEND k me PX 900000",
        "GPULOCK.EXTEND k me",
        "GPULOCK.ACQUIRE k me PX 900000 UNIQUE",
        "GPULOCK.ACQUIRE k me PX 900000 UNIQUE SESSION",
    ] {
        assert_eq!(client.line(line), token, "{line}");
        assert_eq!(client.line("PEXPIRETIME k"), end, "{line}");
    }
    // In a lock set.
    let any = client.line("GPULOCK.ACQUIREANY 2 k other me COUNT 2 PX 900000 UNIQUE");
    assert_eq!(any.list().len(), 2, "{any:?}");
    assert_eq!(client.line("PEXPIRETIME k"), end, "ACQUIREANY");
    assert!(
        client.line("PTTL other").int() > LONG_MS,
        "only the lock under notice is cut"
    );
    // A shorter lease is set as ever, and can be extended up to the notice.
    assert_eq!(client.line("GPULOCK.EXTEND k me PX 60000"), token);
    assert!((1..=60_000).contains(&client.line("PTTL k").int()));
    assert_eq!(client.line("GPULOCK.EXTEND k me PX 900000"), token);
    assert_eq!(client.line("PEXPIRETIME k"), end);
    assert_eq!(lawful_stats(&mut client)["revocations"], 1);
}

/// Changes of the lease by other clients.
const LONGER: [&str; 5] = [
    "PEXPIRE k 900000",
    "PERSIST k",
    "SET k me",
    "GETEX k PERSIST",
    "SET k me PX 900000",
];

fn other_clients_cannot_make_the_lease_longer(flavour: &Flavour) {
    for (how, server) in server_variants(flavour) {
        let mut client = server.client();
        held(&mut client);
        give(&mut client, LONG_MS);
        let end = client.line("PEXPIRETIME k").int();
        let cut = |client: &mut Client, what: &str| {
            wait_until(DEADLINE, format!("the cut after {what}: {how}"), || {
                client.line("PEXPIRETIME k") == end
            });
        };
        for line in LONGER {
            // The module notices the change without a command that names the lock.
            assert!(!client.line(line).is_err(), "{line}");
            assert_ne!(client.line("PEXPIRETIME k"), end, "{line}");
            cut(&mut client, line);
            // And after one: the next command finds the lease cut.
            client.line(line);
            client.line("GPULOCK.INSPECT k");
            client.line("GPULOCK.INSPECT k");
            assert_eq!(client.line("PEXPIRETIME k"), end, "{line}");
        }
        // A waiter makes no difference.
        let next = join_queue(&server, &mut client, "k", "next", "BLOCK 0");
        for line in LONGER {
            client.line(line);
            cut(&mut client, line);
        }
        assert_eq!(client.line("PEXPIRE k 60000"), 1);
        assert!((1..=60_000).contains(&inspect(&mut client, "lease_ms").int()));
        assert_counters(&mut client, 1, 1);
        drop(next);
    }
}

fn a_key_that_outlives_its_notice_is_deleted(flavour: &Flavour) {
    // The server notices nothing within the time of the notice, and then only when asked.
    for is_waited_for in [false, true] {
        let server = flavour.server().arg("hz", 1).start();
        let mut client = server.client();
        let mut subscriber = subscriber(&server, "gpu_lock:*");
        held(&mut client);
        let next =
            is_waited_for.then(|| waiter(&server, "GPULOCK.ACQUIRE k next BLOCK 0"));
        if is_waited_for {
            wait_queue(&mut client, "k", &["next"]);
        }
        // Nothing runs between the loss of the lease and the end of the notice.
        client.send_lines(&[&notice(20), "PERSIST k", "DEBUG SLEEP 0.05"]);
        assert_eq!(client.read(), "me");
        assert_eq!(client.read(), 1);
        assert_eq!(client.read(), "OK");
        match next {
            Some(mut next) => {
                assert!(next.read().int() > 0);
                assert_eq!(client.line("GET k"), "next");
            }
            None => {
                wait_free(&mut client);
                assert_eq!(client.line("EXISTS k"), 0);
            }
        }
        assert_forced(&mut client, &mut subscriber, "persisted");
    }
}

fn the_holder_cannot_renew_by_other_commands_beyond_a_notice(flavour: &Flavour) {
    // The value of a long owner does not show whether the key was set again.
    let long = "x".repeat(1_024);
    for owner in ["me", &long] {
        // The cron notices little.
        let server = flavour.server().arg("hz", 1).start();
        let mut client = server.client();
        for ended in 1..=3 {
            call!(client, "SET", "k", owner, "PX", 900_000);
            assert_eq!(client.line(&notice(300)), owner);
            assert_eq!(client.line("PEXPIRE k 900000"), 1);
            wait_until(DEADLINE, "the end of the hold", || {
                stats(&mut client)["emergency_releases"] == ended
            });
            assert_eq!(client.line("EXISTS k"), 0);
            assert_counters(&mut client, 0, 0);
        }
    }
}

fn max_hold_can_end_a_hold_before_its_notice(flavour: &Flavour) {
    let server = flavour.server().module_args(&["gpulock.max-hold", "2000"]).start();
    let mut client = server.client();
    held(&mut client);
    give(&mut client, LONG_MS);
    client.line("GPULOCK.EXTEND k me");
    assert_cut(&mut client, 2_000, "max-hold");
    wait_free(&mut client);
    assert_ended(&mut client, "expired", "max-hold");
}

fn a_second_notice_only_shortens(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let mut subscriber = subscriber(&server, "gpu_lock:*");
    held(&mut client);
    give(&mut client, LONG_MS);
    let end = client.line("PEXPIRETIME k").int();
    assert_eq!(next_event(&mut subscriber)["release_reason"], "drain");
    let again = |ms: i64| format!("GPULOCK.FORCERELEASE k AFTER {ms} REASON again");
    assert_eq!(client.line(&again(2 * LONG_MS)), "me");
    assert_eq!(client.line("PEXPIRETIME k"), end);
    assert_eq!(inspect(&mut client, "revoked_reason"), "drain");
    assert_eq!(stats(&mut client)["revocations"], 1);
    assert_eq!(client.line(&again(LONG_MS / 2)), "me");
    assert_cut(&mut client, LONG_MS / 2, "a second notice");
    assert_eq!(inspect(&mut client, "revoked_reason"), "again");
    assert_eq!(stats(&mut client)["revocations"], 2);
    // The first one without effect is not published.
    let event = next_event(&mut subscriber);
    assert_eq!(
        (&event["event_type"], &event["release_reason"]),
        (&"lock_revoked".into(), &"again".into())
    );
    assert!(event["deadline"].as_f64() < Some(end as f64 / 1000.0), "{event}");
    client.line("GPULOCK.RELEASE k me");
    assert_eq!(next_event(&mut subscriber)["event_type"], "lock_released");
}

fn at_the_end_the_lock_passes_to_the_next_waiter(flavour: &Flavour) {
    for (how, server) in server_variants(flavour) {
        let mut client = server.client();
        let mut subscriber = subscriber(&server, "gpu_lock:*");
        let token = held(&mut client);
        let mut next = join_queue(&server, &mut client, "k", "next", "PX 600000 BLOCK 0");
        let start = Instant::now();
        give(&mut client, SHORT_MS);
        client.line("GPULOCK.EXTEND k me");
        assert_no_reply(&mut client, &mut next);
        assert!(next.read().int() > token);
        let took = start.elapsed();
        // Times are truncated to whole milliseconds.
        let early = Duration::from_millis(999);
        assert!((early..Duration::from_secs(6)).contains(&took), "{took:?}: {how}");
        assert_forced(&mut client, &mut subscriber, how);
        assert!(client.line("PTTL k").int() > LONG_MS, "the new hold has no notice");
        assert!(inspect(&mut client, "revoked_ms").is_null());
        assert_counters(&mut client, 1, 0);
    }
}

fn at_the_end_a_lock_without_waiters_ends_by_force(flavour: &Flavour) {
    for (how, server) in server_variants(flavour) {
        let mut client = server.client();
        let mut subscriber = subscriber(&server, "gpu_lock:*");
        held(&mut client);
        give(&mut client, 50);
        wait_free(&mut client);
        assert_eq!(client.line("EXISTS k"), 0);
        assert_forced(&mut client, &mut subscriber, how);
    }
    // A command that names the lock finds its end, too.
    let server = flavour.server().arg("hz", 1).start();
    let mut client = server.client();
    let mut subscriber = subscriber(&server, "gpu_lock:*");
    held(&mut client);
    give(&mut client, 5);
    wait_until(DEADLINE, "the end of the key", || client.line("EXISTS k") == 0);
    assert!(client.line("GPULOCK.INSPECT k").is_null());
    assert_forced(&mut client, &mut subscriber, "INSPECT");
}

fn a_lease_that_ends_before_the_notice_expires(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    held(&mut client);
    give(&mut client, LONG_MS);
    client.line("GPULOCK.EXTEND k me PX 20");
    wait_free(&mut client);
    assert_ended(&mut client, "expired", "a shorter lease");
}

fn a_lock_released_in_time_counts_as_released(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let mut subscriber = subscriber(&server, "gpu_lock:*");
    held(&mut client);
    give(&mut client, LONG_MS);
    assert_eq!(client.line("GPULOCK.RELEASE k me"), 1);
    assert_ended(&mut client, "releases", "released");
    assert_eq!(next_event(&mut subscriber)["event_type"], "lock_revoked");
    assert_eq!(next_event(&mut subscriber)["release_reason"], "normal");
    assert!(client.line("GPULOCK.LOG").list().is_empty());
}

fn a_key_deleted_by_another_client_counts_as_removed(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    held(&mut client);
    give(&mut client, LONG_MS);
    assert_eq!(client.line("DEL k"), 1);
    wait_free(&mut client);
    assert_ended(&mut client, "removed", "deleted");
}

fn a_release_by_force_ends_a_notice_at_once(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let mut subscriber = subscriber(&server, "gpu_lock:*");
    held(&mut client);
    give(&mut client, LONG_MS);
    assert_eq!(client.line("GPULOCK.FORCERELEASE k REASON now"), "me");
    assert_eq!(client.line("EXISTS k"), 0);
    assert_ended(&mut client, "emergency_releases", "at once");
    assert_eq!(next_event(&mut subscriber)["event_type"], "lock_revoked");
    assert_eq!(next_event(&mut subscriber)["release_reason"], "now");
}

fn the_grace_period_or_the_notice_ends_the_hold_whichever_is_first(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let hold = |grace_ms: i64| {
        let mut holder = server.client();
        let request =
            format!("GPULOCK.ACQUIRE k me PX 600000 UNIQUE SESSION GRACE {grace_ms}");
        assert!(holder.line(&request).int() > 0);
        holder
    };
    // The notice is given before the connection closes, or in the grace period.
    for is_before in [true, false] {
        for (grace_ms, notice_ms, counter) in [
            (0, LONG_MS, "session_releases"),
            (300, LONG_MS, "session_releases"),
            (LONG_MS, 300, "emergency_releases"),
        ] {
            if !is_before && grace_ms == 0 {
                continue;
            }
            let what = format!("GRACE {grace_ms}, AFTER {notice_ms}, {is_before}");
            client.line("GPULOCK.RESETSTATS");
            let holder = hold(grace_ms);
            if is_before {
                give(&mut client, notice_ms);
                close(holder, &mut client);
            } else {
                close(holder, &mut client);
                give(&mut client, notice_ms);
            }
            wait_free(&mut client);
            assert_ended(&mut client, counter, &what);
            assert_eq!(client.line("EXISTS k"), 0, "{what}");
        }
    }
    // An owner that comes back in time has its lock, and its notice.
    let holder = hold(LONG_MS);
    give(&mut client, 2 * LONG_MS);
    close(holder, &mut client);
    wait_until(DEADLINE, "the grace period", || {
        !inspect(&mut client, "grace_ms").is_null()
    });
    assert_cut(&mut client, LONG_MS, "the grace period");
    client.line("GPULOCK.EXTEND k me PX 900000");
    assert_cut(&mut client, 2 * LONG_MS, "after the grace period");
    assert!(client.line("PTTL k").int() > LONG_MS);
}

fn an_adopted_lock_can_be_given_notice(flavour: &Flavour) {
    for (how, server) in server_variants(flavour) {
        let mut client = server.client();
        for set in ["SET k me PX 600000", "SET k me"] {
            client.line("GPULOCK.RESETSTATS");
            client.line("GPULOCK.LOG RESET");
            let mut subscriber = subscriber(&server, "gpu_lock:*");
            assert_eq!(client.line(set), "OK");
            give(&mut client, SHORT_MS);
            assert_cut(&mut client, SHORT_MS, set);
            assert_eq!(inspect(&mut client, "adopted"), 1);
            assert_eq!(client.line("PERSIST k"), 1);
            wait_free(&mut client);
            assert_eq!(client.line("EXISTS k"), 0, "{set}: {how}");
            let stats = stats(&mut client);
            assert_eq!((stats["adopted"], stats["revocations"]), (1, 1), "{set}: {how}");
            assert_forced(&mut client, &mut subscriber, set);
        }
    }
}

fn in_a_transaction_and_a_script_a_notice_has_the_same_effect(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    held(&mut client);
    client.line("MULTI");
    assert_eq!(client.line(&notice(LONG_MS)), "QUEUED");
    assert_eq!(client.line("PERSIST k"), "QUEUED");
    assert_eq!(client.line("GPULOCK.EXTEND k me"), "QUEUED");
    assert_eq!(client.line("PTTL k"), "QUEUED");
    let replies = client.line("EXEC");
    assert_eq!(replies.list()[0], "me");
    assert!((1..=LONG_MS).contains(&replies.list()[3].int()), "{replies:?}");
    assert_eq!(client.line("GPULOCK.RELEASE k me"), 1);
    held(&mut client);
    let script =
        "local owner = redis.call('GPULOCK.FORCERELEASE', KEYS[1], 'AFTER', ARGV[1])
        redis.call('PERSIST', KEYS[1])
        redis.call('GPULOCK.INSPECT', KEYS[1])
        return owner";
    assert_eq!(call!(client, "EVAL", script, 1, "k", LONG_MS), "me");
    // The script itself sees its own change; the cut follows.
    wait_until(DEADLINE, "the cut", || {
        (1..=LONG_MS).contains(&client.line("PTTL k").int())
    });
    assert_eq!(lawful_stats(&mut client)["revocations"], 2);
}

/// Checks that a server knows the lock with its lease, but not the notice.
#[track_caller]
fn assert_forgotten(client: &mut Client, end: i64) {
    assert_eq!(client.line("PEXPIRETIME k"), end);
    let seen = client.line("GPULOCK.INSPECT k");
    assert_eq!(seen.field("owner"), "me");
    assert!(seen.field("revoked_ms").is_null(), "{seen:?}");
    assert!(seen.field("revoked_reason").is_null(), "{seen:?}");
}

fn a_restart_forgets_the_notice_and_keeps_the_lease(flavour: &Flavour) {
    let mut server = flavour.server().arg("appendonly", "yes").start();
    let mut client = server.client();
    held(&mut client);
    give(&mut client, LONG_MS);
    let end = client.line("PEXPIRETIME k").int();
    server.restart();
    let mut client = server.client();
    assert_forgotten(&mut client, end);
    client.line("GPULOCK.EXTEND k me PX 900000");
    assert!(client.line("PTTL k").int() > LONG_MS);
}

fn a_failover_forgets_the_notice_and_keeps_the_lease(flavour: &Flavour) {
    let primary = flavour.server().named("primary").start();
    let replica = flavour.server().named("replica").replica_of(&primary).start();
    let (mut client, mut other) = (primary.client(), replica.client());
    held(&mut client);
    give(&mut client, LONG_MS);
    let end = client.line("PEXPIRETIME k").int();
    replica.wait_caught_up_with(&primary);
    assert_forgotten(&mut other, end);
    let refused = other.line(&notice(5));
    assert!(refused.err().starts_with("READONLY "), "{refused:?}");
    assert_eq!(other.line("REPLICAOF NO ONE"), "OK");
    assert_forgotten(&mut other, end);
    other.line("GPULOCK.EXTEND k me PX 900000");
    assert!(other.line("PTTL k").int() > LONG_MS);
    // The old primary forgets it as well.
    let port = other.line("CONFIG GET port").list()[1].text();
    assert_eq!(call!(client, "REPLICAOF", "127.0.0.1", port), "OK");
    wait_until(DEADLINE, "no hold of its own", || stats(&mut client)["locks_held"] == 0);
    primary.wait_link_up();
    primary.wait_caught_up_with(&replica);
    assert!(inspect(&mut client, "revoked_ms").is_null());
}

fn replicas_and_the_file_get_the_cut_leases(flavour: &Flavour) {
    let server = flavour
        .server()
        .arg("appendonly", "yes")
        .arg("appendfsync", "always")
        .arg("notify-keyspace-events", "KEA")
        .start();
    let mut client = server.client();
    held(&mut client);
    let mut subscriber = subscriber(&server, "__keyevent@*");
    let before = server.aof().len();
    give(&mut client, LONG_MS);
    let end = client.line("PEXPIRETIME k").int();
    assert!(end <= unix_ms() + LONG_MS);
    client.line("PERSIST k");
    wait_until(DEADLINE, "the cut", || client.line("PEXPIRETIME k") == end);
    client.line("GPULOCK.EXTEND k me PX 900000");
    let cut = format!("PEXPIREAT k {end}");
    let stream: Vec<String> =
        commands_since(&server, before).iter().map(|words| words.join(" ")).collect();
    assert_eq!(stream, [&*cut, "PERSIST k", &cut, &cut]);
    let events: Vec<String> = (0..4)
        .map(|_| String::from_utf8(next_message(&mut subscriber).0).expect("text"))
        .collect();
    let expire = "__keyevent@0__:expire";
    assert_eq!(events, [expire, "__keyevent@0__:persist", expire, expire]);
}

/// The row of `k` in LIST.
#[track_caller]
fn row(client: &mut Client) -> Value {
    let rows = client.line("GPULOCK.LIST");
    let [row] = rows.list() else { panic!("{rows:?}") };
    row.clone()
}

fn inspect_and_list_show_the_notice(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    held(&mut client);
    let rest = |client: &mut Client| {
        let listed = row(client).field("revoked_ms");
        [inspect(client, "revoked_ms"), listed]
    };
    assert_eq!(rest(&mut client), [Value::Null, Value::Null]);
    give(&mut client, LONG_MS);
    for left in rest(&mut client) {
        assert!((1..=LONG_MS).contains(&left.int()), "{left:?}");
    }
    assert_eq!(inspect(&mut client, "revoked_reason"), "drain");
    // It is the rest of the notice, not of the lease.
    client.line("GPULOCK.EXTEND k me PX 5000");
    for left in rest(&mut client) {
        assert!((5_001..=LONG_MS).contains(&left.int()), "{left:?}");
    }
    // While no other client can see the lock longer, LIST shows the lease within the notice.
    client.line("PERSIST k");
    assert!((1..=LONG_MS).contains(&row(&mut client).field("lease_ms").int()));
    client.line("GPULOCK.RELEASE k me");
    let _next = waiter(&server, "GPULOCK.ACQUIRE k next");
    held_by(&server, "next");
    assert_eq!(rest(&mut client), [Value::Null, Value::Null]);
}

/// Waits until an owner holds `k`.
#[track_caller]
fn held_by(server: &Server, owner: &str) {
    let mut client = server.client();
    wait_until(DEADLINE, format!("{owner} to hold the lock"), || {
        client.line("GET k") == owner
    });
}
