//! Keys, owners and reasons are bytes that a client chooses. They remain data in every text of
//! the module and the server. Events, the labels of METRICS and DEADLOCK errors have tests of
//! their own in `observability` and `deadlock`.

use gpulock_testkit::{Client, Flavour, Server, Value, call, send, wait_until};

use crate::support::clock::DEADLINE;

tests! {
    info_and_the_servers_log_contain_no_byte_of_a_name,
    replies_contain_names_byte_by_byte,
    names_survive_the_append_only_file,
    names_are_replicated_unchanged,
}

/// In every hostile name, and nowhere else.
const MARK: &str = "INJECTED";

/// Names that would be visible where bytes are taken for lines, formats or the protocol.
fn hostile() -> Vec<Vec<u8>> {
    [
        "\r\nINJECTED:1\r\n",
        "\n# INJECTED\ngpulock_locks_held 99\n",
        "\r\n-ERR INJECTED\r\n",
        "\r\n*1\r\n$8\r\nINJECTED\r\n",
        "%s%n%d%99999999sINJECTED",
        "\"} 1\nINJECTED{\"",
        "\",\"INJECTED\":\"1",
        "\0INJECTED",
        "INJECTED\0\r\n",
        "\x1b[2J\x1b]0;INJECTED\x07",
        "$(INJECTED) `INJECTED` ; INJECTED",
        "id=1 addr=INJECTED name=INJECTED",
    ]
    .iter()
    .map(|name| name.as_bytes().to_vec())
    .chain([b"\xff\xfe\xc3INJECTED\xed\xa0\x80".to_vec()])
    .collect()
}

/// Uses a name in every argument, in valid and invalid calls.
fn use_everywhere(server: &Server, client: &mut Client, name: &[u8]) {
    call!(client, "GPULOCK.ACQUIRE", name, name, "UNIQUE");
    call!(client, "GPULOCK.ACQUIRE", name, "you");
    call!(client, "GPULOCK.RELEASE", name, "you", "REASON", name);
    call!(client, "GPULOCK.EXTEND", name, name);
    call!(client, "GPULOCK.LIST", "MATCH", name);
    call!(client, "GPULOCK.STATS", "KEY", name);
    call!(client, "GPULOCK.ACQUIRE", name, name, "PX", name);
    call!(client, "GPULOCK.ACQUIRE", name, name, name);
    call!(client, "GPULOCK.LOG", name);
    call!(client, name, name);
    // The second owner waits for the first, which closes a cycle.
    let other = [name, b"2"].concat();
    call!(client, "GPULOCK.ACQUIRE", "second", &other, "UNIQUE", "PX", 600_000);
    let mut waiter = server.client();
    send!(waiter, "GPULOCK.ACQUIRE", name, &other, "UNIQUE", "BLOCK", 0);
    server.wait_blocked(1);
    let refused = call!(client, "GPULOCK.ACQUIRE", "second", name, "UNIQUE", "BLOCK", 0);
    assert!(refused.err().starts_with("DEADLOCK \""), "{refused:?}");
    call!(client, "GPULOCK.FORCERELEASE", name, "REASON", name);
    assert!(waiter.read().int() > 0);
    call!(client, "GPULOCK.RELEASE", "second", &other);
    call!(client, "DEL", name);
    call!(client, "GPULOCK.RELEASE", name, &other);
}

fn info_and_the_servers_log_contain_no_byte_of_a_name(flavour: &Flavour) {
    let server = flavour
        .server()
        .module_args(&["gpulock.events", "all", "gpulock.warn-hold", "1"])
        .arg("loglevel", "debug")
        .start();
    let mut client = server.client();
    assert_eq!(call!(client, "CONFIG", "SET", "gpulock.channel-prefix", MARK), "OK");
    for name in hostile() {
        use_everywhere(&server, &mut client, &name);
    }
    for section in ["all", "everything"] {
        let info = call!(client, "INFO", section).text();
        assert!(!info.contains(MARK), "{info}");
    }
    let info = call!(client, "INFO", "gpulock").text();
    for line in info.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("{line:?}"));
        assert!(name.starts_with("gpulock_"), "{line:?}");
        let number = |part: &str| part.rsplit('=').next().is_some_and(is_number);
        assert!(value.split(',').all(number), "{line:?}");
    }
    server.wait_log("Client closed connection");
    let log = server.log();
    assert!(!log.contains(MARK), "{log}");
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn replies_contain_names_byte_by_byte(flavour: &Flavour) {
    let server = flavour.start();
    for mut client in [server.client(), server.client3()] {
        for name in hostile() {
            call!(client, "GPULOCK.LOG", "RESET");
            call!(client, "GPULOCK.ACQUIRE", &name, &name);
            let caller = [&name[..], b"2"].concat();
            call!(client, "GPULOCK.RELEASE", &name, &caller, "REASON", &name);
            let log = call!(client, "GPULOCK.LOG");
            assert_eq!(log.list().len(), 1, "{log:?}");
            let entry = &log.list()[0];
            for (field, expected) in [
                ("key", &name),
                ("holder", &name),
                ("caller", &caller),
                ("reason", &name),
            ] {
                assert_eq!(entry.field(field).bytes(), expected, "{field}: {log:?}");
            }
            let line = entry.field("client").text();
            assert!(!line.contains(['\r', '\n']) && !line.contains(MARK), "{line:?}");

            let mut waiter = server.client();
            send!(waiter, "GPULOCK.ACQUIRE", &name, &caller, "BLOCK", 0);
            server.wait_blocked(1);
            let seen = call!(client, "GPULOCK.INSPECT", &name);
            assert_eq!(seen.field("owner").bytes(), name);
            let position = seen.field("waiters").list()[0].clone();
            assert_eq!(position.field("owner").bytes(), caller);
            let forced = call!(client, "GPULOCK.FORCERELEASE", &name);
            assert_eq!(forced.bytes(), name);
            assert!(waiter.read().int() > 0);
            assert_eq!(call!(client, "GPULOCK.RELEASE", &name, &caller), 1);
        }
    }
}

fn names_survive_the_append_only_file(flavour: &Flavour) {
    let mut server = flavour.server().arg("appendonly", "yes").start();
    let mut client = server.client();
    for name in hostile() {
        let granted = call!(client, "GPULOCK.ACQUIRE", &name, &name, "PX", 600_000);
        assert!(granted.int() > 0);
    }
    let before = client.line("DEBUG DIGEST");
    server.restart();
    let mut client = server.client();
    assert_eq!(client.line("DEBUG DIGEST"), before);
    for name in hostile() {
        assert_eq!(call!(client, "GPULOCK.RELEASE", &name, &name), 1);
    }
    assert_eq!(client.line("DBSIZE"), 0);
}

fn names_are_replicated_unchanged(flavour: &Flavour) {
    let server = flavour.start();
    let replica = flavour.server().without_module().replica_of(&server).start();
    let (mut client, mut reader) = (server.client(), replica.client());
    for name in hostile() {
        assert!(call!(client, "GPULOCK.ACQUIRE", &name, &name).int() > 0);
        wait_until(DEADLINE, "the replica to have the lock", || {
            call!(reader, "GET", &name) != Value::Null
        });
        assert_eq!(call!(reader, "GET", &name).bytes(), name);
        assert_eq!(call!(client, "GPULOCK.RELEASE", &name, &name), 1);
    }
    replica.wait_caught_up_with(&server);
    assert_eq!(reader.line("DBSIZE"), 0);
}
