//! The test kit itself, on every server and without the module.

use std::panic::catch_unwind;
use std::time::{Duration, Instant};

use gpulock_testkit::{Cluster, Value, call, on_every_server, send, wait_until};

#[test]
fn both_protocols_work() {
    on_every_server(|flavour| {
        let server = flavour.server().without_module().start();
        let mut resp2 = server.client();
        assert_eq!(call!(resp2, "SET", "k", [0xff, b'\r', b'\n', 0]), "OK");
        assert_eq!(resp2.line("GET k").bytes(), [0xff, b'\r', b'\n', 0]);
        assert_eq!(call!(resp2, "INCRBY", "n", 41), 41);
        assert_eq!(resp2.line("GET nothing"), Value::Null);
        assert!(resp2.line("INCR k").err().starts_with("ERR"));
        assert_eq!(
            resp2.line("CONFIG GET port").field("port"),
            &*server.port().to_string()
        );

        let mut resp3 = server.client3();
        assert!(matches!(resp3.line("CONFIG GET port"), Value::Map(_)));
        assert!(resp3.line("GET nothing").is_null());
        assert_ne!(resp2.id(), resp3.id());
        assert!(server.used_memory() > 0);
    });
}

#[test]
fn replies_can_be_read_later() {
    on_every_server(|flavour| {
        let server = flavour.server().without_module().start();
        let mut blocked = server.client();
        let mut other = server.client();
        send!(blocked, "BLPOP", "queue", 0);
        server.wait_blocked(1);
        assert_eq!(blocked.read_within(Duration::ZERO), None);
        let start = Instant::now();
        assert_eq!(blocked.read_within(Duration::from_millis(20)), None);
        assert!(start.elapsed() >= Duration::from_millis(20));
        assert_eq!(call!(other, "RPUSH", "queue", "you"), 1);
        assert_eq!(blocked.read().list()[1], "you");

        other.send_lines(&["INCR n", "INCR n"]);
        assert_eq!((other.read(), other.read()), (Value::Int(1), Value::Int(2)));

        let mut watcher = server.client3();
        assert_eq!(watcher.line("CLIENT TRACKING ON BCAST"), "OK");
        assert_eq!(watcher.line("SET k v"), "OK");
        let push = watcher.push_within(Duration::from_secs(10)).unwrap();
        assert_eq!(push.list()[0], "invalidate");
    });
}

#[test]
fn connections_close_in_each_way() {
    on_every_server(|flavour| {
        let server = flavour.server().without_module().start();
        let mut admin = server.client();
        for end in ["drop", "reset", "half-close", "kill"] {
            let mut client = server.client();
            let id = client.id();
            match end {
                "drop" => drop(client),
                "reset" => client.reset(),
                "half-close" => {
                    client.half_close();
                    client.wait_closed();
                }
                _ => {
                    assert_eq!(call!(admin, "CLIENT", "KILL", "ID", id), 1);
                    client.wait_closed();
                }
            }
            wait_until(Duration::from_secs(10), format!("the close by {end}"), || {
                call!(admin, "CLIENT", "LIST", "ID", id).text().trim().is_empty()
            });
        }
    });
}

#[test]
fn data_survives_a_kill_and_a_restart() {
    on_every_server(|flavour| {
        let mut server =
            flavour.server().without_module().arg("appendonly", "yes").start();
        assert_eq!(server.client().line("SET k v"), "OK");
        assert!(server.aof().contains(&vec!["SET".into(), "k".into(), "v".into()]));
        let (pid, port) = (server.pid(), server.port());
        server.kill9();
        assert!(!server.is_running());
        server.restart();
        assert_ne!(server.pid(), pid);
        assert_eq!(server.port(), port);
        assert_eq!(server.client().line("GET k"), "v");
        server.stop();
        server.restart();
        server.restart();
        assert_eq!(server.client().line("GET k"), "v");
    });
}

#[test]
fn a_replica_replicates() {
    on_every_server(|flavour| {
        let primary = flavour.server().without_module().named("primary").start();
        let mut replica = flavour.server().without_module().replica_of(&primary).start();
        assert_eq!(primary.client().line("SET k v"), "OK");
        replica.wait_caught_up_with(&primary);
        assert_eq!(replica.client().line("GET k"), "v");
        replica.freeze();
        let mut client = replica.client();
        send!(client, "PING");
        assert_eq!(client.read_within(Duration::from_millis(20)), None);
        replica.thaw();
        assert_eq!(client.read(), "PONG");
    });
}

#[test]
fn a_cluster_serves_keys() {
    on_every_server(|flavour| {
        let mut cluster = Cluster::start_with(flavour, 3, |node| node.without_module());
        assert_eq!(cluster.slot("{a}:0"), cluster.slot("{a}:1"));
        assert_eq!(cluster.primary_of("k").client().line("SET k v"), "OK");
        let primary = cluster.primary_index("k");
        let elsewhere = &cluster.nodes()[(primary + 1) % 3];
        assert!(elsewhere.client().line("GET k").err().starts_with("MOVED"));
        let replica = cluster.add_replica(primary);
        cluster.nodes()[replica].wait_caught_up_with(&cluster.nodes()[primary]);
        assert_eq!(cluster.nodes()[replica].client().line("DBSIZE"), 1);
    });
}

#[test]
fn failures_are_reported() {
    on_every_server(|flavour| {
        let builder = || flavour.server().without_module();
        let refused = builder().arg("maxmemory-policy", "nonsense").try_start();
        assert!(refused.is_err_and(|output| output.contains("maxmemory-policy")));

        let crash = |crashes: fn(&mut gpulock_testkit::Client)| {
            let builder = builder();
            let caught = catch_unwind(move || {
                let server = builder.start();
                crashes(&mut server.client());
            });
            *caught.expect_err("the crash was not reported").downcast::<String>().unwrap()
        };
        let message = crash(|client| {
            send!(client, "DEBUG", "SEGFAULT");
            client.wait_closed();
        });
        assert!(message.contains("BUG REPORT"), "{message}");
        let message = crash(|client| {
            call!(client, "DEBUG", "LOG", "thread 'main' panicked");
        });
        assert!(message.contains("\"panicked\" in its log"), "{message}");

        let expected = builder().expect_panics().start();
        call!(expected.client(), "DEBUG", "LOG", "thread 'main' panicked");
    });
}

#[test]
fn a_server_with_a_password_starts_and_stops() {
    on_every_server(|flavour| {
        let mut server =
            flavour.server().without_module().arg("requirepass", "x").start();
        assert!(server.client().line("PING").err().starts_with("NOAUTH"));
        server.stop();
    });
}
