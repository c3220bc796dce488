//! Error messages and exit statuses.

use std::process::Stdio;

use gpulock_testkit::{call, on_every_server};

#[path = "support/invoke.rs"]
mod invoke;
use invoke::{Invocation, at, command, gpulock};

/// An invocation of each command that uses the server.
const CALLS: [&[&str]; 7] = [
    &["ls"],
    &["inspect", "k"],
    &["queue", "k"],
    &["stats"],
    &["log"],
    &["release", "k", "--owner", "me"],
    &["force", "k", "--any", "--yes"],
];

#[test]
fn a_server_without_the_module_is_reported() {
    on_every_server(|flavour| {
        let server = flavour.server().without_module().start();
        for args in CALLS {
            let result = gpulock(&server, args);
            assert_eq!((result.status, &*result.out), (1, ""), "{result:?}");
            let expected = "the server has not loaded the module gpulock";
            assert!(result.err.contains(expected), "{args:?}: {result:?}");
        }
    });
}

#[test]
fn an_unreachable_server_has_status_69() {
    for args in CALLS {
        // Port 1 is unused.
        let output = at("redis://127.0.0.1:1").args(args).output().unwrap();
        let result = Invocation::from(output);
        assert_eq!(result.status, 69, "{args:?}: {result:?}");
        let expected = "gpulock: failed to connect to 127.0.0.1:1: Connection refused";
        assert!(result.err.starts_with(expected), "{result:?}");
        assert_eq!(result.err.matches("Connection refused").count(), 1, "{result:?}");
    }
}

#[test]
fn a_hanging_server_times_out_with_status_69() {
    on_every_server(|flavour| {
        let mut server = flavour.start();
        server.freeze();
        let result = gpulock(&server, &["ls"]);
        server.thaw();
        assert_eq!(result.status, 69, "{result:?}");
    });
}

#[test]
fn an_error_reply_is_reported() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut client = server.client();
        client.line("ACL SETUSER viewer on nopass ~* +gpulock.list");
        call!(client, "LPUSH", "list", "x");
        let viewer = format!("redis://viewer:x@127.0.0.1:{}", server.port());
        let result = gpulock(&server, &["log", "--url", &viewer]);
        assert_eq!(result.status, 1, "{result:?}");
        assert!(
            result.err.contains("the server returned an error: NOPERM "),
            "{result:?}"
        );
        let result = gpulock(&server, &["inspect", "list"]);
        assert_eq!(result.status, 1, "{result:?}");
        assert!(
            result.err.contains("the server returned an error: WRONGTYPE "),
            "{result:?}"
        );
    });
}

#[test]
fn a_password_is_never_printed() {
    on_every_server(|flavour| {
        let mut server = flavour.start();
        let url = format!("redis://someone:hunter2@127.0.0.1:{}", server.port());
        let wrong = gpulock(&server, &["ls", "--url", &url]);
        server.stop();
        let gone = gpulock(&server, &["ls", "--url", &url]);
        for result in [wrong, gone] {
            assert_ne!(result.status, 0);
            assert!(!result.err.contains("hunter2"), "{result:?}");
        }
    });
}

#[test]
fn a_closed_pipe_is_not_an_error() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut client = server.client();
        // More than the capacity of a pipe.
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
