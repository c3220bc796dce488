//! The tables of `ls`, `inspect`, `queue`, `stats` and `log`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use gpulock_testkit::{Client, Server, call, on_every_server, send, wait_until};

#[path = "support/invoke.rs"]
mod invoke;
#[path = "support/printed.rs"]
mod printed;
use invoke::{command, gpulock};
use printed::{json, printed};

/// The cells of a table row, which are separated by at least two spaces.
fn cells(line: &str) -> Vec<&str> {
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

/// Acquires `gpu:0` for `asr`, and returns the token.
fn with_a_lock(server: &Server) -> (Client, String) {
    let mut client = server.client();
    let token = call!(client, "GPULOCK.ACQUIRE", "gpu:0", "asr", "EX", 36_000).int();
    (client, token.to_string())
}

#[test]
fn ls_shows_each_lock_with_owner_lease_and_waiters() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let (mut client, token) = with_a_lock(&server);
        call!(client, "SET", "gpu:1", "locked_by_llm");
        call!(client, "GPULOCK.ACQUIRE", "gpu:1", "me");
        let mut waiter = server.client();
        send!(waiter, "GPULOCK.ACQUIRE", "gpu:0", "tts", "BLOCK", 0);
        server.wait_blocked(1);

        let table = printed(&server, &["ls"]);
        let lines: Vec<_> = table.lines().map(cells).collect();
        let names = ["KEY", "OWNER", "HELD FOR", "LEASE LEFT", "WAITING", "TOKEN"];
        assert_eq!(lines[0], names, "{table}");
        let [key, owner, _held, lease, waiting, shown] = lines[1][..] else {
            panic!("{table}")
        };
        assert_eq!((key, owner, waiting, shown), ("gpu:0", "asr", "1", &*token));
        assert!(lease.starts_with("9h 5") || lease == "10h 00m", "{table}");
        assert_eq!(lines[2], ["gpu:1", "locked_by_llm", "-", "no TTL", "0", "-"]);
        assert_eq!(lines.len(), 3, "{table}");
    });
}

#[test]
fn ls_respects_match_and_limit() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut client = server.client();
        for key in ["a:0", "b:0", "a:1", "a:2"] {
            call!(client, "GPULOCK.ACQUIRE", key, "me");
        }
        let keys = |args: &[&str]| -> Vec<String> {
            let table = printed(&server, args);
            table.lines().skip(1).map(|line| cells(line)[0].to_owned()).collect()
        };
        assert_eq!(keys(&["ls", "--match", "a:*"]), ["a:0", "a:1", "a:2"]);
        assert_eq!(keys(&["ls", "--match", "a:*", "-n", "3"]), ["a:0", "a:1", "a:2"]);
        assert_eq!(keys(&["ls", "--match", "nothing"]), [""; 0]);
    });
}

#[test]
fn ls_shows_a_gpu_with_its_slots_as_one_row() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut client = server.client();
        for call in [
            "GPULOCK.ACQUIREANY 2 {p:h}:GPU-a:0 {p:h}:GPU-a:1 asr COUNT 2 EX 600",
            "GPULOCK.ACQUIRE gpu:0 llm EX 600",
            "GPULOCK.ACQUIRE {p:h}:GPU-a:2 tts EX 60",
        ] {
            assert!(!client.line(call).is_err());
        }
        let mut waiter = server.client();
        waiter.send_lines(&[
            "GPULOCK.ACQUIREANY 3 {p:h}:GPU-a:0 {p:h}:GPU-a:1 {p:h}:GPU-a:2 me BLOCK 0",
        ]);
        server.wait_blocked(1);

        let table = printed(&server, &["ls"]);
        let lines: Vec<_> = table.lines().skip(1).map(cells).collect();
        assert_eq!(lines.len(), 2, "{table}");
        assert_eq!(
            lines[0][..2],
            ["{p:h}:GPU-a (3 slots)", "asr (2), tts (1)"],
            "{table}"
        );
        assert!(lines[0][3] == "1m 00s" || lines[0][3].starts_with('5'), "{table}");
        assert_eq!(lines[0][4..], ["1", "-"], "{table}");
        assert_eq!(lines[1][..2], ["gpu:0", "llm"], "{table}");

        let slots = printed(&server, &["ls", "--slots"]);
        assert_eq!(slots.lines().count(), 5, "{slots}");
        assert!(slots.contains("{p:h}:GPU-a:2"), "{slots}");
        assert_eq!(json(&server, &["ls"]).as_array().unwrap().len(), 4);
    });
}

#[test]
fn ls_and_log_show_more_than_one_call_returns() {
    on_every_server(|flavour| {
        let server = flavour.server().module_args(&["gpulock.log-len", "2000"]).start();
        let mut client = server.client();
        let send = |client: &mut Client, lines: Vec<String>| {
            client.send_lines(&lines.iter().map(String::as_str).collect::<Vec<_>>());
            for _ in lines {
                assert!(!client.read().is_err());
            }
        };
        let acquire = |n| format!("GPULOCK.ACQUIRE gpu:{n} me");
        client.line("SET adopted other EX 600");
        client.line("GPULOCK.ACQUIRE adopted me");
        send(&mut client, vec![acquire(0)]);
        wait_until(Duration::from_secs(10), "time to pass", || {
            client.line("GPULOCK.INSPECT gpu:0").field("held_ms").int() > 1
        });
        send(&mut client, (1..3_000).map(acquire).collect());
        assert!(client.line("GPULOCK.LIST LIMIT 5000").is_err());
        let table = printed(&server, &["ls", "-n", "5000"]);
        let lines: Vec<&str> = table.lines().skip(1).map(|line| cells(line)[0]).collect();
        assert_eq!(lines.len(), 3_001);
        assert_eq!((lines[0], lines[3_000]), ("gpu:0", "adopted"));
        assert_eq!(gpulock(&server, &["ls", "-n", "2000"]).out.lines().count(), 2_001);

        let release = |n| format!("GPULOCK.RELEASE k owner{n}");
        send(&mut client, (0..1_200).map(release).collect());
        for (count, expected) in [("700", 700), ("5000", 1_200)] {
            let entries = json(&server, &["log", "-n", count]);
            let callers: Vec<&str> = (entries.as_array().unwrap().iter())
                .map(|entry| entry["caller"].as_str().unwrap())
                .collect();
            let newest_first: Vec<String> =
                (0..1_200).rev().take(expected).map(|n| format!("owner{n}")).collect();
            assert_eq!(callers, newest_first);
        }
    });
}

#[test]
fn the_database_of_the_url_is_used() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut client = server.client();
        call!(client, "SELECT", 5);
        call!(client, "GPULOCK.ACQUIRE", "five", "me");
        let url = format!("redis://127.0.0.1:{}/5", server.port());
        assert!(printed(&server, &["ls", "--url", &url]).contains("five"));
        assert!(!printed(&server, &["ls"]).contains("five"));
    });
}

#[test]
fn inspect_shows_the_holder_and_the_queue() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut holder = server.client();
        let id = holder.id().to_string();
        let token = holder.line("GPULOCK.ACQUIRE gpu:0 asr EX 600 SESSION").int();
        let mut waiter = server.client();
        send!(waiter, "GPULOCK.ACQUIRE", "gpu:0", "tts", "BLOCK", 0);
        server.wait_blocked(1);
        let sheet = printed(&server, &["inspect", "gpu:0"]);
        let lines: Vec<_> = sheet.lines().map(cells).collect();
        assert_eq!(lines[0], ["key", "gpu:0"]);
        assert_eq!(lines[1], ["owner", "asr"]);
        assert_eq!(lines[2], ["token", &token.to_string()]);
        assert_eq!(lines[5], ["session", &format!("client {id}")]);
        assert_eq!(lines[6], ["adopted", "no"]);
        assert_eq!(lines[7], ["waiting", "1"]);
        assert_eq!(lines[10][..2], ["1", "tts"]);
        assert_eq!(lines.len(), 11, "{sheet}");
    });
}

#[test]
fn inspect_shows_a_notice_and_a_share() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut client = server.client();
        client.line("GPULOCK.ACQUIRE gpu:0 asr EX 600 SHARE team-a");
        let before = printed(&server, &["inspect", "gpu:0"]);
        assert!(!before.contains("notice"), "{before}");
        client.line("GPULOCK.FORCERELEASE gpu:0 AFTER 300000 REASON maintenance");
        let sheet = printed(&server, &["inspect", "gpu:0"]);
        let line = |name: &str| {
            let line = sheet.lines().map(cells).find(|cells| cells[0] == name);
            line.unwrap_or_else(|| panic!("{sheet}"))[1]
        };
        assert_eq!(line("share"), "team-a");
        let notice = line("notice");
        assert!(
            notice.starts_with("ends in ") && notice.ends_with(" (maintenance)"),
            "{notice}"
        );
    });
}

#[test]
fn inspect_distinguishes_free_reserved_and_adopted_locks() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut client = server.client();
        let free = printed(&server, &["inspect", "free"]);
        assert_eq!(free, "free is free and has no waiters\n");

        client.line("GPULOCK.ACQUIRE held asr");
        let mut waiter = server.client();
        waiter.send(&[
            "GPULOCK.ACQUIREANY",
            "2",
            "held",
            "reserved",
            "train",
            "COUNT",
            "2",
            "BLOCK",
            "0",
        ]);
        server.wait_blocked(1);
        let reserved = printed(&server, &["inspect", "reserved"]);
        assert!(reserved.contains("- (free, reserved for train)"), "{reserved}");
        assert!(reserved.contains("2 of 2"), "{reserved}");

        call!(client, "SET", "empty", "");
        let empty = printed(&server, &["inspect", "empty"]);
        assert!(empty.contains("- (the key's value is not an owner)"), "{empty}");

        client.line("SET old locked_by_llm EX 600");
        let old = printed(&server, &["inspect", "old"]);
        let lines: Vec<_> = old.lines().map(cells).collect();
        assert_eq!(lines[2], ["token", "-"]);
        assert_eq!(lines[6], ["adopted", "yes"]);
    });
}

#[test]
fn inspect_shows_the_remaining_grace_period() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut holder = server.client();
        holder.line("GPULOCK.ACQUIRE gpu:0 asr EX 600 SESSION GRACE 300000");
        holder.half_close();
        wait_until(Duration::from_secs(20), "the grace period", || {
            let sheet = printed(&server, &["inspect", "gpu:0"]);
            sheet.lines().map(cells).any(|line| {
                line[0] == "session" && line[1].starts_with("closed, grace period left ")
            })
        });
    });
}

#[test]
fn queue_shows_waiters_and_kept_positions_in_order() {
    on_every_server(|flavour| {
        let server =
            flavour.server().module_args(&["gpulock.place-keep", "3600000"]).start();
        let (mut client, _) = with_a_lock(&server);
        let none = printed(&server, &["queue", "gpu:0"]);
        assert_eq!(none, "gpu:0 has no waiters\n");
        client.line("GPULOCK.ACQUIRE gpu:0 away BLOCK 1 UNIQUE");
        let mut waiter = server.client();
        let id = waiter.id().to_string();
        waiter.send(&[
            "GPULOCK.ACQUIREANY",
            "3",
            "gpu:0",
            "gpu:1",
            "gpu:2",
            "train",
            "COUNT",
            "3",
            "BLOCK",
            "0",
        ]);
        server.wait_blocked(1);

        let table = printed(&server, &["queue", "gpu:0"]);
        let lines: Vec<_> = table.lines().map(cells).collect();
        let names = ["POSITION", "OWNER", "CLIENT", "WAITED FOR", "WANTS", "RESERVED"];
        assert_eq!(lines[0], names);
        assert_eq!(lines[1][..3], ["1", "away", "disconnected"]);
        assert_eq!(lines[1][4..], ["1 of 1", "-"]);
        assert_eq!(lines[2][..3], ["2", "train", &id]);
        assert_eq!(lines[2][4..], ["3 of 3", "gpu:1 gpu:2"]);
    });
}

#[test]
fn a_long_queue_ends_with_the_number_of_omitted_waiters() {
    on_every_server(|flavour| {
        let server =
            flavour.server().module_args(&["gpulock.place-keep", "3600000"]).start();
        let (mut client, _) = with_a_lock(&server);
        for owner in 0..3 {
            let line = format!("GPULOCK.ACQUIRE gpu:0 away{owner} BLOCK 1 UNIQUE");
            assert!(client.line(&line).is_null());
        }
        let mut waiters: Vec<_> = (0..100).map(|_| server.client()).collect();
        for (owner, waiter) in waiters.iter_mut().enumerate() {
            waiter.send_lines(&[&format!("GPULOCK.ACQUIRE gpu:0 o{owner} BLOCK 0")]);
        }
        server.wait_blocked(100);
        let table = printed(&server, &["queue", "gpu:0"]);
        assert_eq!(table.lines().last(), Some("(and 3 more)"), "{table}");
        assert_eq!(table.lines().count(), 102, "{table}");
    });
}

#[test]
fn stats_shows_counters_and_percentiles() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let (mut client, _) = with_a_lock(&server);
        client.line("GPULOCK.RELEASE gpu:0 other");
        client.line("GPULOCK.RELEASE gpu:0 asr");
        let commands: &[&[&str]] = &[&["stats"], &["stats", "gpu:0"]];
        for args in commands {
            let sheet = printed(&server, args);
            let lines: Vec<_> = sheet.lines().map(cells).collect();
            for line in
                [["acquired", "1"], ["releases", "1"], ["ownership_violations", "1"]]
            {
                assert!(lines.iter().any(|cells| *cells == line), "{line:?} in {sheet}");
            }
            assert!(
                lines.contains(&vec!["COUNT", "MEAN", "P50", "P90", "P99"]),
                "{sheet}"
            );
            let waits = ["waits before a grant", "0", "-", "-", "-", "-"];
            assert!(lines.iter().any(|cells| *cells == waits), "{sheet}");
            let holds = lines.last().unwrap();
            assert_eq!(holds[..2], ["holds", "1"]);
            assert!(holds[3].starts_with('\u{2264}'), "{sheet}");
        }
        let none = printed(&server, &["stats", "never-seen"]);
        assert_eq!(none, "the server keeps no counters for never-seen\n");
    });
}

#[test]
fn log_shows_entries_newest_first_in_local_time() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let (mut client, token) = with_a_lock(&server);
        client.line("GPULOCK.RELEASE gpu:9 other");
        client.line("GPULOCK.FORCERELEASE gpu:0 OWNER asr REASON stuck");
        let table = printed(&server, &["log"]);
        let lines: Vec<_> = table.lines().map(cells).collect();
        assert_eq!(lines[1][1..5], ["forced", "0", "gpu:0", "asr"], "{table}");
        assert!(lines[1].contains(&"stuck"), "{table}");
        assert_eq!(lines[2][1..5], ["stale_release", "0", "gpu:9", "-"], "{table}");
        assert!(lines[2][7].starts_with("127.0.0.1:"), "{table}");
        assert!(!table.contains(&token), "the token is only in --json");
        let newest = printed(&server, &["log", "-n", "1"]);
        assert_eq!(newest.lines().count(), 2, "{newest}");

        let happened = json(&server, &["log"])[0]["unix_ms"].as_i64().unwrap() / 1000;
        for (zone, offset) in [("UTC0", "+00:00"), ("JST-9", "+09:00")] {
            let output =
                command(&server).args(["log", "-n", "1"]).env("TZ", zone).output();
            let table = String::from_utf8(output.unwrap().stdout).unwrap();
            let time = table.lines().nth(1).unwrap().split(' ').next().unwrap();
            assert!(time.ends_with(offset), "{table}");
            let time: jiff::Timestamp = time.parse().unwrap();
            assert_eq!(time.as_second(), happened);
        }
    });
}

#[test]
fn a_warning_about_the_server_has_no_key() {
    on_every_server(|flavour| {
        let server = flavour.server().arg("timeout", 1000).start();
        let table = printed(&server, &["log"]);
        let warning = table.lines().map(cells).find(|cells| cells[1] == "warning");
        let warning = warning.unwrap_or_else(|| panic!("no warning in {table}"));
        assert_eq!(warning[2..6], ["-", "-", "-", "-"], "{table}");
        let entries = json(&server, &["log"]);
        assert!(entries[0]["db"].is_null() && entries[0]["key"].is_null());
    });
}

#[test]
fn any_bytes_are_escaped_in_output_and_accepted_as_arguments() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut client = server.client();
        let key = b"gpu\x1b[31m\n\xff";
        call!(client, "GPULOCK.ACQUIRE", key, "a\u{202e}b\tc");
        for table in [
            printed(&server, &["ls"]),
            printed(&server, &[OsStr::new("inspect"), OsStr::from_bytes(key)]),
        ] {
            assert!(table.contains(r"gpu\u{1b}[31m\n\xff"), "{table:?}");
            assert!(table.contains(r"a\u{202e}b\tc"), "{table:?}");
            assert!(!table.contains('\x1b'), "{table:?}");
        }
    });
}

#[test]
fn output_to_a_pipe_is_not_truncated_or_colored() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut client = server.client();
        let (key, owner) = ("k".repeat(300), "o".repeat(1024));
        call!(client, "GPULOCK.ACQUIRE", key, owner);
        let table = printed(&server, &["ls"]);
        assert_eq!(cells(table.lines().nth(1).unwrap())[..2], [&*key, &*owner]);
        assert!(!table.contains('\x1b'));
        assert!(table.lines().all(|line| line.trim_end() == line), "{table:?}");
        assert_eq!(gpulock(&server, &["inspect", &key]).status, 0);
    });
}

#[test]
fn line_is_a_hidden_alias_of_queue() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let (_client, _) = with_a_lock(&server);
        assert_eq!(
            printed(&server, &["line", "gpu:0"]),
            printed(&server, &["queue", "gpu:0"])
        );
        let help = printed(&server, &["--help"]);
        let commands: Vec<_> =
            help.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert!(commands.contains(&"queue") && !commands.contains(&"line"), "{help}");
        assert!(!help.contains("alias"), "{help}");
    });
}
