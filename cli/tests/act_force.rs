//! `gpulock force`: requires a condition and a confirmation, and releases only the hold shown.

use gpulock_testkit::{Client, Server, Value, call, on_every_server, send};
use serde_json::json as document;

#[path = "support/confirmation.rs"]
mod confirmation;
#[path = "support/invoke.rs"]
mod invoke;
#[path = "support/printed.rs"]
mod printed;
use confirmation::Prompt;
use invoke::{command, gpulock};
use printed::{json, printed};

/// A server on which `asr` holds `gpu:0`, with its token.
fn held(server: &Server) -> (Client, String) {
    let mut client = server.client();
    let token = call!(client, "GPULOCK.ACQUIRE", "gpu:0", "asr", "EX", 600).int();
    (client, token.to_string())
}

fn prompt(server: &Server, args: &[&str]) -> Prompt {
    let mut command = command(server);
    command.arg("force").arg("gpu:0").args(args);
    Prompt::start(command)
}

#[test]
fn a_condition_is_required() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let (mut client, token) = held(&server);
        let calls: [&[&str]; 4] = [
            &["force", "gpu:0"],
            &["force", "gpu:0", "--yes"],
            &["force", "gpu:0", "--yes", "--any", "--owner", "asr"],
            &["force", "gpu:0", "--yes", "--any", "--token", &token],
        ];
        for args in calls {
            let result = gpulock(&server, args);
            assert_eq!((result.status, &*result.out), (2, ""), "{result:?}");
        }
        assert_eq!(call!(client, "GET", "gpu:0"), "asr");
    });
}

#[test]
fn yes_is_required_without_a_terminal() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let (mut client, _) = held(&server);
        let result = gpulock(&server, &["force", "gpu:0", "--owner", "asr"]);
        assert_eq!((result.status, &*result.out), (1, ""), "{result:?}");
        assert!(result.err.contains("--yes"), "{result:?}");
        assert_eq!(call!(client, "GET", "gpu:0"), "asr");
        let out = printed(&server, &["force", "gpu:0", "--owner", "asr", "--yes"]);
        assert_eq!(out, "gpu:0 released; it was held by asr\n");
        assert_eq!(call!(client, "EXISTS", "gpu:0"), 0);
    });
}

#[test]
fn only_a_matching_hold_is_released() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let (mut client, token) = held(&server);
        let other = (token.parse::<u64>().unwrap() + 1).to_string();
        let wrong: [&[&str]; 4] = [
            &["--owner", "tts"],
            &["--token", &other],
            &["--owner", "asr", "--token", &other],
            &["--owner", "tts", "--token", &token],
        ];
        for condition in wrong {
            let result =
                gpulock(&server, &[&["force", "gpu:0", "--yes"], condition].concat());
            assert_eq!((result.status, &*result.out), (1, ""), "{result:?}");
            assert!(result.err.contains("not released"), "{result:?}");
            assert_eq!(call!(client, "GET", "gpu:0"), "asr");
        }
        let free = gpulock(&server, &["force", "gpu:1", "--any", "--yes"]);
        assert_eq!(free.status, 1, "{free:?}");
        let right: [&[&str]; 4] = [
            &["--owner", "asr"],
            &["--token", &token],
            &["--owner", "asr", "--token", &token],
            &["--any"],
        ];
        for condition in right {
            call!(client, "DEL", "gpu:0");
            let token_now =
                call!(client, "GPULOCK.ACQUIRE", "gpu:0", "asr").int().to_string();
            let condition: Vec<&str> = condition
                .iter()
                .map(|word| if *word == token { &token_now } else { *word })
                .collect();
            printed(&server, &[&["force", "gpu:0", "--yes"], &condition[..]].concat());
            assert_eq!(call!(client, "EXISTS", "gpu:0"), 0, "{condition:?}");
        }
    });
}

#[test]
fn the_next_waiter_gets_the_lock_and_the_log_has_the_reason() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let (mut client, _) = held(&server);
        let mut waiter = server.client();
        send!(waiter, "GPULOCK.ACQUIRE", "gpu:0", "tts", "BLOCK", 0);
        server.wait_blocked(1);
        printed(
            &server,
            &["force", "gpu:0", "--owner", "asr", "--reason", "stuck", "--yes"],
        );
        assert!(waiter.read().int() > 0);
        let entry = &client.line("GPULOCK.LOG 1").list()[0].clone();
        assert_eq!(entry.field("kind"), "forced");
        assert_eq!(entry.field("reason"), "stuck");
    });
}

#[test]
fn the_prompt_shows_the_hold_and_yes_releases_it() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let (mut client, token) = held(&server);
        let prompt = prompt(&server, &["--any"]);
        for expected in ["gpu:0", "held by asr", &format!("token {token}"), "0 waiting"] {
            assert!(prompt.text().contains(expected), "{expected}: {}", prompt.text());
        }
        assert_eq!(call!(client, "GET", "gpu:0"), "asr");
        let result = prompt.answer(b"y\n");
        assert_eq!(
            (result.status, &*result.out),
            (0, "gpu:0 released; it was held by asr\n")
        );
        assert_eq!(call!(client, "EXISTS", "gpu:0"), 0);
    });
}

#[test]
fn any_other_answer_releases_nothing() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let (mut client, _) = held(&server);
        const END_OF_INPUT: &[u8] = b"\x04";
        for answer in [b"\n", b"n\n", b"no\n", b"yesterday\n", END_OF_INPUT] as [&[u8]; 5]
        {
            let result = prompt(&server, &["--owner", "asr"]).answer(answer);
            assert_eq!((result.status, &*result.out), (1, ""), "{result:?}");
            assert!(result.err.contains("not confirmed"), "{result:?}");
            assert_eq!(call!(client, "GET", "gpu:0"), "asr");
        }
    });
}

#[test]
fn a_later_hold_is_not_released() {
    on_every_server(|flavour| {
        let server = flavour.start();
        for condition in [&["--any"][..], &["--owner", "asr"]] {
            let (mut client, _) = held(&server);
            let prompt = prompt(&server, condition);
            call!(client, "GPULOCK.RELEASE", "gpu:0", "asr");
            // Same owner: only the token distinguishes this hold from the one shown.
            assert!(call!(client, "GPULOCK.ACQUIRE", "gpu:0", "asr").int() > 0);
            let result = prompt.answer(b"y\n");
            assert_eq!((result.status, &*result.out), (1, ""), "{result:?}");
            assert_eq!(call!(client, "GET", "gpu:0"), "asr");
            call!(client, "DEL", "gpu:0");
        }
    });
}

#[test]
fn there_is_no_prompt_without_a_matching_hold() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let (mut client, _) = held(&server);
        call!(client, "SET", "empty", "");
        for args in [["gpu:0", "--owner=tts"], ["gpu:1", "--any"], ["empty", "--any"]] {
            let mut command = command(&server);
            command.arg("force").args(args);
            let result = Prompt::none(command);
            assert_eq!((result.status, &*result.out), (1, ""), "{result:?}");
            assert!(result.err.contains("is not held"), "{result:?}");
        }
    });
}

#[test]
fn an_adopted_lock_is_matched_by_its_owner_only() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut client = server.client();
        client.line("SET gpu:0 locked_by_llm EX 600");
        let prompt = prompt(&server, &["--owner", "locked_by_llm"]);
        assert!(prompt.text().contains("token -"), "{}", prompt.text());
        let result = prompt.answer(b"yes\n");
        assert_eq!(
            (result.status, &*result.out),
            (0, "gpu:0 released; it was held by locked_by_llm\n")
        );
    });
}

#[test]
fn json_and_status_show_the_result() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let (_client, _) = held(&server);
        let args = ["force", "gpu:0", "--owner", "asr", "--yes"];
        let released = json(&server, &args);
        assert_eq!(released, document!({ "key": "gpu:0", "taken_from": "asr" }));
        let again = gpulock(&server, &[&args[..], &["--json"]].concat());
        assert_eq!(again.status, 1);
        let printed: serde_json::Value = serde_json::from_str(&again.out).unwrap();
        assert_eq!(printed, document!({ "key": "gpu:0", "taken_from": null }));
        assert_eq!(server.client().line("GPULOCK.INSPECT gpu:0"), Value::Null);
    });
}

#[test]
fn notice_ends_the_hold_at_its_deadline() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let (mut client, _) = held(&server);
        let args = ["force", "gpu:0", "--owner", "asr", "--reason", "drain", "--yes"];
        let notice = [&args[..], &["--after", "2m"]].concat();
        let out = printed(&server, &notice);
        let expected = "gpu:0: notice given to asr; the hold ends in 2m at the latest\n";
        assert_eq!(out, expected);
        assert_eq!(call!(client, "GET", "gpu:0"), "asr");
        let lock = call!(client, "GPULOCK.INSPECT", "gpu:0");
        let left = lock.field("revoked_ms").int();
        assert!((1..=120_000).contains(&left), "{lock:?}");
        assert_eq!(lock.field("revoked_reason"), "drain");
        let listed = printed(&server, &["ls"]);
        assert!(listed.contains("(notice)"), "{listed}");
        let sooner = json(&server, &[&args[..], &["--after", "1s"]].concat());
        let noticed = document!({ "key": "gpu:0", "notice_to": "asr", "after_ms": 1000 });
        assert_eq!(sooner, noticed);
        let next = call!(client, "GPULOCK.ACQUIRE", "gpu:0", "tts", "BLOCK", 60_000);
        assert!(next.int() > 0);
        let counters = client.line("GPULOCK.STATS");
        assert_eq!(counters.field("emergency_releases"), 1);
    });
}

#[test]
fn notice_is_given_only_to_a_matching_hold() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let (mut client, _) = held(&server);
        let other = ["force", "gpu:0", "--owner", "tts", "--after", "1m", "--yes"];
        let result = gpulock(&server, &other);
        assert_eq!((result.status, &*result.out), (1, ""), "{result:?}");
        assert!(result.err.contains("no notice given: gpu:0 is not held"), "{result:?}");
        for time in ["0s", "soon", "-1m"] {
            let after = format!("--after={time}");
            let result = gpulock(&server, &["force", "gpu:0", "--any", "--yes", &after]);
            assert_eq!((result.status, &*result.out), (2, ""), "{result:?}");
        }
        let lock = call!(client, "GPULOCK.INSPECT", "gpu:0");
        assert!(lock.field("revoked_ms").is_null(), "{lock:?}");
    });
}

#[test]
fn the_prompt_of_a_notice_shows_what_happens_to_the_holder() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let (mut client, _) = held(&server);
        let notice = ["--any", "--after", "2m"];
        let refused = prompt(&server, &notice);
        assert!(refused.text().contains("gets TERM at once"), "{}", refused.text());
        assert!(refused.text().contains("End the hold in 2m?"), "{}", refused.text());
        assert_eq!(refused.answer(b"n\n").status, 1);
        let lock = call!(client, "GPULOCK.INSPECT", "gpu:0");
        assert!(lock.field("revoked_ms").is_null(), "{lock:?}");
        assert_eq!(prompt(&server, &notice).answer(b"y\n").status, 0);
        let lock = call!(client, "GPULOCK.INSPECT", "gpu:0");
        assert!(!lock.field("revoked_ms").is_null(), "{lock:?}");
    });
}
