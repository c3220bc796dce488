//! Errors are reported in the server's own words, and invalid options by their names.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::thread;

use gpulock_testkit::{Sentinel, call, on_every_server, send, servers, wait_until};

use crate::invoke::{Invocation, at, gpulock};
use crate::job::TIMEOUT;
use crate::{CALLS, gpulock_with};

/// More keys than a server reads from a client that has not authenticated.
const MANY_KEYS: &[&str] =
    &["run", "--keys", "a,b,c,d,e,f,g,h,i,j,k,l", "--no-wait", "--", "true"];

#[track_caller]
fn assert_failed(result: &Invocation, status: i32, texts: &[&str]) {
    assert_eq!((result.status, &*result.out), (status, ""), "{result:?}");
    for text in texts {
        assert!(result.err.contains(text), "{text:?} in {result:?}");
    }
}

#[test]
fn a_missing_password_is_reported_by_every_command() {
    on_every_server(|flavour| {
        let server = flavour.server().arg("requirepass", "secret").start();
        for args in CALLS.into_iter().chain([MANY_KEYS]) {
            let result = gpulock(&server, args);
            let hint = "NOAUTH Authentication required.; give it in the URL";
            assert_failed(&result, 1, &["the server requires a password: ", hint]);
        }
    });
}

#[test]
fn a_wrong_password_is_reported_in_the_servers_words() {
    on_every_server(|flavour| {
        let server = flavour.server().arg("requirepass", "secret").start();
        let url = format!("redis://:wrong@127.0.0.1:{}", server.port());
        for args in CALLS {
            let result = at(&url).args(args).output().expect("starting gpulock").into();
            assert_failed(&result, 1, &["WRONGPASS invalid username-password pair"]);
        }
    });
}

#[test]
fn too_many_clients_are_reported_in_the_servers_words() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut admin = server.client();
        assert_eq!(call!(admin, "CONFIG", "SET", "maxclients", 1), "OK");
        for args in CALLS {
            let result = gpulock(&server, args);
            assert_failed(&result, 69, &["ERR max number of clients reached"]);
        }
        call!(admin, "CONFIG", "SET", "maxclients", 100);
    });
}

#[test]
fn too_many_clients_during_a_wait_are_reported_once() {
    let server = servers()[0].start();
    let mut admin = server.client();
    call!(admin, "GPULOCK.ACQUIRE", "k", "other", "EX", 600);
    let mut run = crate::job::Job::start(
        &format!("redis://127.0.0.1:{}", server.port()),
        &["--key", "k", "--wait", "60s"],
        "true",
    );
    server.wait_blocked(1);
    call!(admin, "CONFIG", "SET", "maxclients", 1);
    call!(admin, "CLIENT", "KILL", "TYPE", "normal");
    let words = "ERR max number of clients reached; retrying";
    wait_until(TIMEOUT, "the error", || run.err().contains(words));
    call!(admin, "CONFIG", "SET", "maxclients", 100);
    server.wait_blocked(1);
    call!(admin, "GPULOCK.RELEASE", "k", "other");
    assert_eq!(run.status(), 0);
    assert_eq!(run.err().matches(words).count(), 1, "{}", run.err());
}

#[test]
fn a_replica_and_a_loading_server_are_reported_in_their_words() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let run: &[&str] = &["run", "--key", "k", "--no-wait", "--", "true"];
        let mut admin = server.client();
        assert_eq!(call!(admin, "REPLICAOF", "127.0.0.1", 1), "OK");
        let words = "READONLY You can't write against a read only";
        assert_failed(&gpulock(&server, run), 1, &[words]);
        assert_eq!(call!(admin, "REPLICAOF", "NO", "ONE"), "OK");
        // Large values, so that the server handles clients while it loads.
        for key in 0..50 {
            call!(admin, "SET", format!("large:{key}"), "x".repeat(100_000));
        }
        assert_eq!(call!(admin, "CONFIG", "SET", "rdbcompression", "no"), "OK");
        assert_eq!(call!(admin, "CONFIG", "SET", "key-load-delay", 100_000), "OK");
        assert_eq!(
            call!(admin, "CONFIG", "SET", "loading-process-events-interval-bytes", 1024),
            "OK"
        );
        let mut loader = server.client();
        send!(loader, "DEBUG", "RELOAD");
        wait_until(TIMEOUT, "loading", || admin.info("persistence")["loading"] == "1");
        let result = gpulock(&server, run);
        assert_failed(&result, 1, &["LOADING "]);
        assert_eq!(loader.read(), "OK");
    });
}

#[test]
fn a_server_of_another_kind_is_recognized() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let _request = client.read(&mut [0; 4096]);
            let _closed = client.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    for args in CALLS {
        let url = format!("redis://127.0.0.1:{port}");
        let result = at(&url).args(args).output().expect("starting gpulock").into();
        assert_failed(&result, 69, &["is this a Redis or Valkey server"]);
    }
}

#[test]
fn a_sentinel_is_recognized() {
    let server = servers()[0].start();
    let sentinel = Sentinel::start(&server, 0);
    let url = format!("redis://127.0.0.1:{}", sentinel.port());
    let result = gpulock_with(&["ls", "--url", &url], &[]);
    let hint =
        format!("it is a Sentinel: use redis+sentinel://127.0.0.1:{}/", sentinel.port());
    assert_failed(&result, 1, &[&hint]);
}

#[test]
fn an_invalid_address_is_reported_with_its_source() {
    /// Arguments, variables, and the expected message.
    type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str);
    let cases: [Case<'_>; 9] = [
        (
            &["ls"],
            &[("GPULOCK_URL", "")],
            "invalid GPULOCK_URL: it is empty; expected redis://",
        ),
        (
            &["ls"],
            &[("GPULOCK_URL", "x")],
            "invalid GPULOCK_URL \"x\": expected redis://",
        ),
        (&["ls", "--url", ""], &[], "invalid --url: it is empty"),
        (
            &["ls", "--url", "x"],
            &[("GPULOCK_URL", "")],
            "invalid --url \"x\": expected redis://",
        ),
        (
            &["run", "--key", "k", "--", "true"],
            &[("GPULOCK_URL", "")],
            "invalid GPULOCK_URL",
        ),
        (
            &["ls", "--url", "rediss://h#insecure"],
            &[],
            "certificates are always verified",
        ),
        (
            &["exporter", "--server", "x"],
            &[],
            "invalid --server \"x\": expected redis://",
        ),
        (
            &["exporter"],
            &[("GPULOCK_SERVERS", "")],
            "invalid GPULOCK_SERVERS: it is empty",
        ),
        (
            &["exporter"],
            &[("GPULOCK_SERVERS", "redis://a x")],
            "invalid GPULOCK_SERVERS \"x\"",
        ),
    ];
    for (args, variables, message) in cases {
        let result = gpulock_with(args, variables);
        assert_failed(&result, 2, &[message]);
    }
}
