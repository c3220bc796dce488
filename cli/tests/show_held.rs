//! `ls KEY`, `--exit-code`, and what `ls` reports about locks that it does not show.

use gpulock_testkit::{Server, call, on_every_server, send};
use serde_json::Value;

#[path = "support/invoke.rs"]
mod invoke;
use invoke::{Invocation, at, command, gpulock};

fn keys(json: &str) -> Vec<String> {
    let locks: Vec<Value> = serde_json::from_str(json).unwrap();
    locks.iter().map(|lock| lock["key"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn ls_reports_that_there_are_more_locks() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut client = server.client();
        for key in ["a:0", "a:1", "a:2", "b:0"] {
            call!(client, "GPULOCK.ACQUIRE", key, "me");
        }
        let more = "gpulock: there are more locks than these 2: use -n to show more\n";
        for args in [&["ls", "-n", "2"][..], &["ls", "-n", "2", "--match", "a:*"]] {
            let result = gpulock(&server, args);
            assert_eq!((result.status, &*result.err), (0, more), "{result:?}");
            assert_eq!(result.out.lines().count(), 3, "{result:?}");
        }
        let result = gpulock(&server, &["ls", "-n", "2", "--json"]);
        assert_eq!((result.status, &*result.err), (0, more), "{result:?}");
        assert_eq!(keys(&result.out), ["a:0", "a:1"]);

        let most = usize::MAX.to_string();
        for args in [
            &["ls", "-n", "4"][..],
            &["ls", "-n", &most],
            &["ls", "-n", "3", "--match", "a:*"],
        ] {
            let result = gpulock(&server, args);
            assert_eq!((result.status, &*result.err), (0, ""), "{result:?}");
        }
    });
}

#[test]
fn ls_shows_one_lock() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut client = server.client();
        for key in ["gpu:*", "gpu:0"] {
            call!(client, "GPULOCK.ACQUIRE", key, "me");
        }
        for key in ["gpu:*", "gpu:0"] {
            let result = gpulock(&server, &["ls", key, "--json"]);
            assert_eq!((result.status, &*result.err), (0, ""), "{result:?}");
            assert_eq!(keys(&result.out), [key]);
        }
        let all: Value =
            serde_json::from_str(&gpulock(&server, &["ls", "--json"]).out).unwrap();
        let one: Value =
            serde_json::from_str(&gpulock(&server, &["ls", "gpu:0", "--json"]).out)
                .unwrap();
        assert_eq!(all[1]["token"], one[0]["token"]);
        assert_eq!(all[1].as_object().unwrap().len(), one[0].as_object().unwrap().len());
        let result = gpulock(&server, &["ls", "gpu:9", "--json"]);
        assert_eq!((result.status, &*result.out), (0, "[]\n"));
        let result = gpulock(&server, &["ls", "gpu:0", "--match", "*"]);
        assert_eq!(result.status, 2, "{result:?}");
    });
}

/// The statuses of `inspect KEY` and `ls KEY` with `--exit-code`, and what they print.
fn with_exit_code(server: &Server, key: &str) -> Vec<i32> {
    let call = |args: &[&str]| {
        let (plain, coded) =
            (gpulock(server, args), gpulock(server, &[args, &["--exit-code"]].concat()));
        assert_eq!(plain.out.is_empty(), coded.out.is_empty(), "{plain:?} {coded:?}");
        assert_eq!(plain.err, coded.err);
        coded.status
    };
    vec![call(&["inspect", key]), call(&["ls", key]), call(&["ls", key, "--json"])]
}

#[test]
fn exit_code_shows_whether_a_lock_is_held() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut client = server.client();
        call!(client, "GPULOCK.ACQUIRE", "gpu:0", "me");
        call!(client, "SET", "gpu:1", "other");
        call!(client, "SET", "gpu:2", "");
        call!(client, "LPUSH", "list", "x");
        for held in ["gpu:0", "gpu:1", "gpu:2"] {
            assert_eq!(with_exit_code(&server, held), [0, 0, 0], "{held}");
        }
        assert_eq!(with_exit_code(&server, "gpu:3"), [1, 1, 1]);
        // An error must not look like a free lock.
        assert_eq!(with_exit_code(&server, "list"), [2, 2, 2]);
        let matching = |pattern: &str| {
            gpulock(&server, &["ls", "--exit-code", "--match", pattern]).status
        };
        assert_eq!((matching("gpu:*"), matching("cpu:*")), (0, 1));
        let gone = at("redis://127.0.0.1:1").args(["ls", "k", "--exit-code"]).output();
        assert_eq!(Invocation::from(gone.unwrap()).status, 69);
    });
}

#[test]
fn a_lock_that_is_only_waited_for_is_not_held() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut client = server.client();
        call!(client, "GPULOCK.ACQUIRE", "gpu:0", "me");
        let mut waiter = server.client();
        send!(
            waiter,
            "GPULOCK.ACQUIREANY",
            2,
            "gpu:0",
            "gpu:1",
            "you",
            "COUNT",
            2,
            "BLOCK",
            0
        );
        server.wait_blocked(1);
        let result = gpulock(&server, &["inspect", "gpu:1", "--exit-code"]);
        assert!(result.out.contains("reserved for you"), "{result:?}");
        assert_eq!(result.status, 1);
        assert_eq!(gpulock(&server, &["ls", "gpu:1", "--exit-code"]).status, 1);
        let status = command(&server).args(["inspect", "gpu:1"]).output().unwrap().status;
        assert!(status.success());
    });
}
