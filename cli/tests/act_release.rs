//! `gpulock release`: gives back only what the owner holds.

use std::time::Duration;

use gpulock_testkit::{call, on_every_server, send};
use serde_json::json as document;

#[path = "support/called.rs"]
mod called;
#[path = "support/printed.rs"]
mod printed;
use called::gpulock;
use printed::{json, printed};

#[test]
fn what_the_owner_holds_is_released() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut client = server.client();
        call!(client, "GPULOCK.ACQUIRE", "gpu:0", "asr");
        let told = printed(&server, &["release", "gpu:0", "--owner", "asr"]);
        assert_eq!(told, "gpu:0 released\n");
        assert_eq!(call!(client, "EXISTS", "gpu:0"), 0);
    });
}

#[test]
fn what_another_holds_stays_and_is_told() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut client = server.client();
        let token = call!(client, "GPULOCK.ACQUIRE", "gpu:0", "asr").int();
        let other = (token + 1).to_string();
        let calls: [&[&str]; 3] = [
            &["release", "gpu:0", "--owner", "tts"],
            &["release", "gpu:0", "--owner", "asr", "--token", &other],
            &["release", "gpu:1", "--owner", "asr"],
        ];
        for args in calls {
            let called = gpulock(&server, args);
            assert_eq!((called.status, &*called.out), (1, ""), "{called:?}");
            assert!(called.err.contains("is not held by"), "{called:?}");
        }
        assert_eq!(call!(client, "GET", "gpu:0"), "asr");
        let token = token.to_string();
        printed(&server, &["release", "gpu:0", "--owner", "asr", "--token", &token]);
        assert_eq!(call!(client, "EXISTS", "gpu:0"), 0);
    });
}

#[test]
fn the_reason_is_told_to_those_who_listen() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let (mut client, mut listener) = (server.client(), server.client());
        send!(listener, "SUBSCRIBE", "gpu_lock:gpu:0");
        listener.read();
        call!(client, "GPULOCK.ACQUIRE", "gpu:0", "asr");
        printed(
            &server,
            &["release", "gpu:0", "--owner", "asr", "--reason", "preempted"],
        );
        let message = listener.read_within(Duration::from_secs(20)).unwrap();
        let message = message.list()[2].text();
        assert!(message.contains(r#""release_reason":"preempted""#), "{message}");
    });
}

#[test]
fn programs_are_told_by_status_and_document() {
    on_every_server(|flavour| {
        let server = flavour.start();
        call!(server.client(), "GPULOCK.ACQUIRE", "gpu:0", "asr");
        let args = ["release", "gpu:0", "--owner", "asr"];
        let released = json(&server, &args);
        assert_eq!(released, document!({ "key": "gpu:0", "released": true }));
        let again = gpulock(&server, &[&args[..], &["--json"]].concat());
        assert_eq!(again.status, 1);
        let told: serde_json::Value = serde_json::from_str(&again.out).unwrap();
        assert_eq!(told, document!({ "key": "gpu:0", "released": false }));
    });
}
