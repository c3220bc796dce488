//! What is said, and with which status, when the server cannot answer.

use std::process::Stdio;

use gpulock_testkit::{call, on_every_server};

#[path = "support/called.rs"]
mod called;
use called::{Called, at, command, gpulock};

/// A call of each command that asks the server.
const CALLS: [&[&str]; 7] = [
    &["ls"],
    &["inspect", "k"],
    &["line", "k"],
    &["stats"],
    &["log"],
    &["release", "k", "--owner", "me"],
    &["force", "k", "--any", "--yes"],
];

#[test]
fn a_server_without_the_module_is_told_as_that() {
    on_every_server(|flavour| {
        let server = flavour.server().without_module().start();
        for args in CALLS {
            let called = gpulock(&server, args);
            assert_eq!((called.status, &*called.out), (1, ""), "{called:?}");
            let told = "the server has not loaded the module gpulock";
            assert!(called.err.contains(told), "{args:?}: {called:?}");
        }
    });
}

#[test]
fn a_server_that_is_not_there_is_69() {
    for args in CALLS {
        // Nobody may listen on port 1.
        let output = at("redis://127.0.0.1:1").args(args).output().unwrap();
        let called = Called::from(output);
        assert_eq!(called.status, 69, "{args:?}: {called:?}");
        let told = "gpulock: no connection to 127.0.0.1:1: Connection refused";
        assert!(called.err.starts_with(told), "{called:?}");
        assert_eq!(called.err.matches("Connection refused").count(), 1, "{called:?}");
    }
}

#[test]
fn a_server_that_hangs_is_69_and_not_waited_for_forever() {
    on_every_server(|flavour| {
        let mut server = flavour.start();
        server.freeze();
        let called = gpulock(&server, &["ls"]);
        server.thaw();
        assert_eq!(called.status, 69, "{called:?}");
    });
}

#[test]
fn what_the_server_refuses_is_told_in_its_words() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut client = server.client();
        client.line("ACL SETUSER viewer on nopass ~* +gpulock.list");
        call!(client, "LPUSH", "list", "x");
        let viewer = format!("redis://viewer:x@127.0.0.1:{}", server.port());
        let called = gpulock(&server, &["log", "--url", &viewer]);
        assert_eq!(called.status, 1, "{called:?}");
        assert!(called.err.contains("the server answers: NOPERM "), "{called:?}");
        let called = gpulock(&server, &["inspect", "list"]);
        assert_eq!(called.status, 1, "{called:?}");
        assert!(called.err.contains("the server answers: WRONGTYPE "), "{called:?}");
    });
}

#[test]
fn a_password_is_never_told() {
    on_every_server(|flavour| {
        let mut server = flavour.start();
        let url = format!("redis://someone:hunter2@127.0.0.1:{}", server.port());
        let wrong = gpulock(&server, &["ls", "--url", &url]);
        server.stop();
        let gone = gpulock(&server, &["ls", "--url", &url]);
        for called in [wrong, gone] {
            assert_ne!(called.status, 0);
            assert!(!called.err.contains("hunter2"), "{called:?}");
        }
    });
}

#[test]
fn a_reader_that_went_away_is_no_error() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut client = server.client();
        // More than a pipe holds.
        for key in 0..300 {
            call!(client, "GPULOCK.ACQUIRE", format!("gpu:{key}"), "o".repeat(1000));
        }
        let mut child = command(&server)
            .arg("ls")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert!(output.status.success(), "{:?}", output.status);
    });
}
