//! `gpulock release`: releases only what the owner holds.

use std::fs::File;
use std::time::Duration;

use gpulock_testkit::{call, on_every_server, send};
use serde_json::json as document;

#[path = "support/invoke.rs"]
mod invoke;
#[path = "support/printed.rs"]
mod printed;
use invoke::{command, gpulock};
use printed::{json, printed};

#[test]
fn a_lock_of_the_owner_is_released() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut client = server.client();
        call!(client, "GPULOCK.ACQUIRE", "gpu:0", "asr");
        let out = printed(&server, &["release", "gpu:0", "--owner", "asr"]);
        assert_eq!(out, "gpu:0 released\n");
        assert_eq!(call!(client, "EXISTS", "gpu:0"), 0);
    });
}

#[test]
fn a_lock_of_another_owner_or_token_is_not_released() {
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
            let result = gpulock(&server, args);
            assert_eq!((result.status, &*result.out), (1, ""), "{result:?}");
            assert!(result.err.contains("is not held by"), "{result:?}");
        }
        assert_eq!(call!(client, "GET", "gpu:0"), "asr");
        let token = token.to_string();
        printed(&server, &["release", "gpu:0", "--owner", "asr", "--token", &token]);
        assert_eq!(call!(client, "EXISTS", "gpu:0"), 0);
    });
}

#[test]
fn the_event_has_the_reason() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let (mut client, mut subscriber) = (server.client(), server.client());
        send!(subscriber, "SUBSCRIBE", "gpu_lock:gpu:0");
        subscriber.read();
        call!(client, "GPULOCK.ACQUIRE", "gpu:0", "asr");
        printed(
            &server,
            &["release", "gpu:0", "--owner", "asr", "--reason", "preempted"],
        );
        let message = subscriber.read_within(Duration::from_secs(20)).unwrap();
        let message = message.list()[2].text();
        assert!(message.contains(r#""release_reason":"preempted""#), "{message}");
    });
}

#[test]
fn json_and_status_show_the_result() {
    on_every_server(|flavour| {
        let server = flavour.start();
        call!(server.client(), "GPULOCK.ACQUIRE", "gpu:0", "asr");
        let args = ["release", "gpu:0", "--owner", "asr"];
        let released = json(&server, &args);
        assert_eq!(released, document!({ "key": "gpu:0", "released": true }));
        let again = gpulock(&server, &[&args[..], &["--json"]].concat());
        assert_eq!(again.status, 1);
        let printed: serde_json::Value = serde_json::from_str(&again.out).unwrap();
        assert_eq!(printed, document!({ "key": "gpu:0", "released": false }));
    });
}

#[test]
fn a_message_that_cannot_be_written_does_not_change_the_status() {
    on_every_server(|flavour| {
        let server = flavour.start();
        for args in
            [&["release", "k", "--owner", "me"][..], &["force", "k", "--any", "--yes"]]
        {
            let full = File::options().write(true).open("/dev/full").unwrap();
            let status = command(&server).args(args).stderr(full).status().unwrap();
            assert_eq!(status.code(), Some(1), "{args:?}");
        }
    });
}
