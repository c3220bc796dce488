//! `gpulock force`: only with a guard, only after a yes, and only the hold that was meant.

use gpulock_testkit::{Client, Server, Value, call, on_every_server, send};
use serde_json::json as document;

#[path = "support/asked.rs"]
mod asked;
#[path = "support/called.rs"]
mod called;
#[path = "support/printed.rs"]
mod printed;
use asked::Asked;
use called::{command, gpulock};
use printed::{json, printed};

/// A server on which `asr` holds `gpu:0`, with its token.
fn held(server: &Server) -> (Client, String) {
    let mut client = server.client();
    let token = call!(client, "GPULOCK.ACQUIRE", "gpu:0", "asr", "EX", 600).int();
    (client, token.to_string())
}

fn ask(server: &Server, args: &[&str]) -> Asked {
    let mut command = command(server);
    command.arg("force").arg("gpu:0").args(args);
    Asked::start(command)
}

#[test]
fn without_a_guard_it_is_refused() {
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
            let called = gpulock(&server, args);
            assert_eq!((called.status, &*called.out), (2, ""), "{called:?}");
        }
        assert_eq!(call!(client, "GET", "gpu:0"), "asr");
    });
}

#[test]
fn without_a_terminal_it_takes_a_yes_on_the_command_line() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let (mut client, _) = held(&server);
        let called = gpulock(&server, &["force", "gpu:0", "--owner", "asr"]);
        assert_eq!((called.status, &*called.out), (1, ""), "{called:?}");
        assert!(called.err.contains("--yes"), "{called:?}");
        assert_eq!(call!(client, "GET", "gpu:0"), "asr");
        let told = printed(&server, &["force", "gpu:0", "--owner", "asr", "--yes"]);
        assert_eq!(told, "gpu:0 taken from asr\n");
        assert_eq!(call!(client, "EXISTS", "gpu:0"), 0);
    });
}

#[test]
fn only_the_hold_that_is_named_is_taken() {
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
        for guard in wrong {
            let called =
                gpulock(&server, &[&["force", "gpu:0", "--yes"], guard].concat());
            assert_eq!((called.status, &*called.out), (1, ""), "{called:?}");
            assert!(called.err.contains("nothing taken"), "{called:?}");
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
        for guard in right {
            call!(client, "DEL", "gpu:0");
            let token_now =
                call!(client, "GPULOCK.ACQUIRE", "gpu:0", "asr").int().to_string();
            let guard: Vec<&str> = guard
                .iter()
                .map(|word| if *word == token { &token_now } else { *word })
                .collect();
            printed(&server, &[&["force", "gpu:0", "--yes"], &guard[..]].concat());
            assert_eq!(call!(client, "EXISTS", "gpu:0"), 0, "{guard:?}");
        }
    });
}

#[test]
fn the_next_waiter_has_it_and_the_log_has_the_reason() {
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
fn on_a_terminal_it_shows_who_would_lose_the_lock_and_takes_it_after_a_yes() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let (mut client, token) = held(&server);
        let asked = ask(&server, &["--any"]);
        for told in ["gpu:0", "held by asr", &format!("token {token}"), "0 waiting"] {
            assert!(asked.question().contains(told), "{told}: {}", asked.question());
        }
        assert_eq!(call!(client, "GET", "gpu:0"), "asr");
        let called = asked.answer(b"y\n");
        assert_eq!((called.status, &*called.out), (0, "gpu:0 taken from asr\n"));
        assert_eq!(call!(client, "EXISTS", "gpu:0"), 0);
    });
}

#[test]
fn anything_but_a_yes_takes_nothing() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let (mut client, _) = held(&server);
        const END_OF_INPUT: &[u8] = b"\x04";
        for answer in [b"\n", b"n\n", b"no\n", b"yesterday\n", END_OF_INPUT] as [&[u8]; 5]
        {
            let called = ask(&server, &["--owner", "asr"]).answer(answer);
            assert_eq!((called.status, &*called.out), (1, ""), "{called:?}");
            assert!(called.err.contains("not agreed to"), "{called:?}");
            assert_eq!(call!(client, "GET", "gpu:0"), "asr");
        }
    });
}

#[test]
fn a_successor_of_the_hold_that_was_shown_keeps_the_lock() {
    on_every_server(|flavour| {
        let server = flavour.start();
        for guard in [&["--any"][..], &["--owner", "asr"]] {
            let (mut client, _) = held(&server);
            let asked = ask(&server, guard);
            call!(client, "GPULOCK.RELEASE", "gpu:0", "asr");
            // Of the same name: only the token tells it from the one that was shown.
            assert!(call!(client, "GPULOCK.ACQUIRE", "gpu:0", "asr").int() > 0);
            let called = asked.answer(b"y\n");
            assert_eq!((called.status, &*called.out), (1, ""), "{called:?}");
            assert_eq!(call!(client, "GET", "gpu:0"), "asr");
            call!(client, "DEL", "gpu:0");
        }
    });
}

#[test]
fn what_does_not_fit_the_guard_is_not_even_asked() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let (mut client, _) = held(&server);
        call!(client, "SET", "empty", "");
        for args in [["gpu:0", "--owner=tts"], ["gpu:1", "--any"], ["empty", "--any"]] {
            let mut command = command(&server);
            command.arg("force").args(args);
            let called = Asked::unasked(command);
            assert_eq!((called.status, &*called.out), (1, ""), "{called:?}");
            assert!(called.err.contains("held so"), "{called:?}");
        }
    });
}

#[test]
fn an_adopted_lock_is_taken_by_its_owner_alone() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut client = server.client();
        client.line("SET gpu:0 locked_by_llm EX 600");
        let asked = ask(&server, &["--owner", "locked_by_llm"]);
        assert!(asked.question().contains("token -"), "{}", asked.question());
        let called = asked.answer(b"yes\n");
        assert_eq!(
            (called.status, &*called.out),
            (0, "gpu:0 taken from locked_by_llm\n")
        );
    });
}

#[test]
fn programs_are_told_by_status_and_document() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let (_client, _) = held(&server);
        let args = ["force", "gpu:0", "--owner", "asr", "--yes"];
        let taken = json(&server, &args);
        assert_eq!(taken, document!({ "key": "gpu:0", "taken_from": "asr" }));
        let again = gpulock(&server, &[&args[..], &["--json"]].concat());
        assert_eq!(again.status, 1);
        let told: serde_json::Value = serde_json::from_str(&again.out).unwrap();
        assert_eq!(told, document!({ "key": "gpu:0", "taken_from": null }));
        assert_eq!(server.client().line("GPULOCK.INSPECT gpu:0"), Value::Null);
    });
}
