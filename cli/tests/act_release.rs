//! `gpulock release`: releases only what the owner holds, or the reservation of a shell.

use std::fs::File;
use std::time::Duration;

use gpulock_testkit::{call, on_every_server, send, servers};
use serde_json::json as document;

#[path = "support/invoke.rs"]
mod invoke;
#[path = "support/printed.rs"]
mod printed;
#[path = "support/shell.rs"]
mod shell;
use invoke::{Invocation, command, gpulock};
use printed::{json, printed};
use shell::{script, shell};

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

#[test]
fn without_a_key_the_reservation_of_the_shell_is_released() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let result = script(
            &server,
            "eval \"$(gpulock reserve --keys a,b -n 2 --for 1h -q)\"; \
             eval \"$(gpulock release --reason done)\"; env",
        );
        assert_eq!(result.status, 0, "{result:?}");
        assert_eq!(result.err, "gpulock: a released\ngpulock: b released\n");
        assert!(!result.out.contains("GPULOCK_OWNER"), "{result:?}");
        assert!(!result.out.contains("GPULOCK_RESERVED"), "{result:?}");
        assert_eq!(server.client().line("DBSIZE"), 0);
    });
}

#[test]
fn a_reservation_that_has_ended_releases_nothing_of_others() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let reserve = "eval \"$(gpulock reserve --keys a,b -n 2 --for 1h)\"; \
                       gpulock force a --any --yes; gpulock run --key a -- \
                       sh -c 'echo $GPULOCK_OWNER >owner; exec sleep 600' & \
                       until [ -s owner ]; do sleep 0.01; done; gpulock release; echo $?; \
                       gpulock inspect a; kill $!; wait";
        let folder = tempfile::tempdir().unwrap();
        let output = shell(&server, reserve).current_dir(folder.path()).output();
        let result = Invocation::from(output.unwrap());
        assert!(result.out.contains("unset GPULOCK_OWNER"), "{result:?}");
        let held = "not released: a is no longer held by reserved:";
        assert!(result.err.contains(held), "{result:?}");
        assert!(result.err.contains("b released"), "{result:?}");
        assert!(result.out.contains("owner       sh-"), "{result:?}");
        assert!(result.out.contains("\n1\n"), "{result:?}");
        assert_eq!(server.info_int("gpulock", "gpulock_ownership_violations"), 0);
    });
}

/// The server assigns new tokens to the holds that it has kept.
#[test]
fn a_reservation_is_released_after_a_restart_of_the_server() {
    on_every_server(|flavour| {
        let mut server = flavour.server().arg("appendonly", "yes").start();
        let reserve = gpulock(&server, &["reserve", "--key", "k", "--for", "1h"]);
        assert_eq!(reserve.status, 0, "{reserve:?}");
        server.restart();
        let mut client = server.client();
        let owner = call!(client, "GET", "k").text().to_owned();
        assert!(call!(client, "GPULOCK.EXTEND", "k", &owner, "EX", 600).int() > 0);
        let release = format!("{}gpulock release", reserve.out);
        let result = script(&server, &release);
        assert_eq!(result.status, 0, "{result:?}");
        assert_eq!(call!(client, "EXISTS", "k"), 0);
    });
}

#[test]
fn the_variables_stay_if_the_server_is_unreachable() {
    let mut server = servers()[0].start();
    let reserve = gpulock(&server, &["reserve", "--key", "k", "--for", "1h"]);
    server.kill9();
    let result = script(&server, &format!("{}gpulock release", reserve.out));
    assert_eq!((result.status, &*result.out), (69, ""), "{result:?}");
}

#[test]
fn json_lists_the_locks_of_a_reservation() {
    let server = servers()[0].start();
    let reserve = gpulock(&server, &["reserve", "--keys", "a,b", "-n2", "--for", "1h"]);
    call!(server.client(), "DEL", "b");
    let release = format!("{}gpulock release --json", reserve.out);
    let result = script(&server, &release);
    assert_eq!((result.status, &*result.err), (1, ""), "{result:?}");
    let printed: serde_json::Value = serde_json::from_str(&result.out).unwrap();
    let locks =
        document!([{ "key": "a", "released": true }, { "key": "b", "released": false }]);
    assert_eq!(printed["locks"], locks);
}

/// The variables of `gpulock run` look like those of a reservation.
#[test]
fn a_command_cannot_release_the_locks_of_its_run() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let in_run = "gpulock run --key k -- gpulock release";
        let in_reservation =
            format!("eval \"$(gpulock reserve --key r --for 1h)\"; {in_run}");
        for run in [in_run, &in_reservation] {
            let result = script(&server, run);
            assert_eq!((result.status, &*result.out), (2, ""), "{result:?}");
            assert!(result.err.contains("that of `gpulock run`"), "{result:?}");
        }
        assert_eq!(call!(server.client(), "EXISTS", "r"), 1);
        assert_eq!(server.info_int("gpulock", "gpulock_ownership_violations"), 0);
    });
}

#[test]
fn without_a_reservation_a_key_and_an_owner_are_required() {
    let server = servers()[0].start();
    let calls: [&[&str]; 4] = [
        &["release"],
        &["release", "k"],
        &["release", "--owner", "asr"],
        &["release", "--token", "1"],
    ];
    for args in calls {
        let result = gpulock(&server, args);
        assert_eq!((result.status, &*result.out), (2, ""), "{result:?}");
        assert!(
            result.err.contains("--owner") || result.err.contains("KEY"),
            "{result:?}"
        );
    }
}
