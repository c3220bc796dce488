//! `rename-command` removes commands for everyone, including the module. No protection of a
//! lock may be lost without an error.

use std::time::Duration;

use gpulock_testkit::{Builder, Client, Cluster, Flavour, Value, call, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::queue::{wait_queue, waiter};

tests! {
    the_module_does_not_load_without_a_command_that_it_replicates,
    without_config_a_primary_without_its_replicas_grants_no_lock,
    without_config_the_log_warns_that_the_timeout_is_unknown,
    without_client_or_acl_the_module_is_not_unloaded,
    without_client_log_entries_have_no_client,
    without_other_commands_locks_work,
    without_exists_a_cluster_node_hands_off_its_locks,
}

/// A server without a command of this name.
fn without(flavour: &Flavour, command: &str) -> Builder {
    flavour
        .server()
        .arg("rename-command", format!("{command} it-was-{command}"))
        .arg("enable-module-command", "yes")
}

fn the_module_does_not_load_without_a_command_that_it_replicates(flavour: &Flavour) {
    for command in ["SET", "DEL", "PEXPIREAT"] {
        let Err(error) = without(flavour, command).try_start() else {
            panic!("{flavour}: loaded without {command}");
        };
        let expected = format!("the command \"{command}\" is renamed or disabled");
        assert!(error.contains(&expected), "{flavour}: {error}");
    }
}

/// The server counts its replicas; the module does not need the setting for that.
fn without_config_a_primary_without_its_replicas_grants_no_lock(flavour: &Flavour) {
    let server = without(flavour, "CONFIG").arg("min-replicas-to-write", 1).start();
    let mut replica = flavour.server().named("replica").replica_of(&server).start();
    let mut client = server.client();
    wait_until(DEADLINE, "a connected replica", || {
        !client.line("GPULOCK.ACQUIRE lease holder PX 600000").is_err()
    });
    let mut holder = server.client();
    assert!(holder.line("GPULOCK.ACQUIRE session holder SESSION").int() > 0);
    let mut next = ["lease", "session"].map(|key| {
        let next = waiter(&server, &format!("GPULOCK.ACQUIRE {key} next BLOCK 0"));
        wait_queue(&mut client, key, &["next"]);
        next
    });
    let mut late = waiter(&server, "GPULOCK.ACQUIRE lease late BLOCK 4000");
    assert!(client.line("GPULOCK.EXTEND lease holder PX 2000").int() > 0);
    replica.stop();
    wait_until(DEADLINE, "writes to be refused", || {
        let reply = client.line("SET x 1");
        reply.is_err() && reply.err().starts_with("NOREPLICAS ")
    });
    drop(holder);
    assert_eq!(late.read(), Value::Null);
    for next in &mut next {
        assert_eq!(next.read_within(Duration::ZERO), None);
    }
    assert_eq!(client.line("GET session"), "holder");
}

fn without_config_the_log_warns_that_the_timeout_is_unknown(flavour: &Flavour) {
    let server = without(flavour, "CONFIG").start();
    let log = server.client().line("GPULOCK.LOG");
    let reason = log.list()[0].field("reason").text();
    assert!(reason.starts_with("cannot check the setting timeout"), "{reason}");
    // Evictions are detected without CONFIG.
    let evicting = without(flavour, "CONFIG")
        .arg("maxmemory", "100mb")
        .arg("maxmemory-policy", "allkeys-lru")
        .start();
    let log = evicting.client().line("GPULOCK.LOG");
    let reasons: Vec<String> =
        log.list().iter().map(|entry| entry.field("reason").text()).collect();
    assert!(
        reasons
            .iter()
            .any(|reason| reason.contains("maxmemory-policy allows the server to evict")),
        "{reasons:?}"
    );
}

/// The module cannot find clients and ACL rules that must not outlive it.
fn without_client_or_acl_the_module_is_not_unloaded(flavour: &Flavour) {
    for command in ["CLIENT", "ACL"] {
        let server = without(flavour, command).start();
        let (mut client, mut other) = (server.client(), server.client());
        other.line("MULTI");
        assert_eq!(other.line("GPULOCK.ACQUIRE k me"), "QUEUED");
        assert!(client.line("MODULE UNLOAD gpulock").is_err(), "{command}");
        server.wait_log(&format!(
            "cannot unload: the command \"{command}\" is renamed or disabled"
        ));
        assert!(other.line("EXEC").list()[0].int() > 0, "{command}");
    }
}

fn without_client_log_entries_have_no_client(flavour: &Flavour) {
    let server = without(flavour, "CLIENT").start();
    let mut client = server.client();
    assert_eq!(call!(client, "GPULOCK.RELEASE", "k", "me"), 0);
    let log: Value = client.line("GPULOCK.LOG 1");
    assert_eq!(log.list()[0].field("client"), Value::Null);
}

/// The module depends on no other command of the server.
fn without_other_commands_locks_work(flavour: &Flavour) {
    let mut builder = flavour.server();
    for command in ["EXISTS", "GET", "PEXPIRE", "PUBLISH", "SCRIPT", "PTTL"] {
        builder = builder.arg("rename-command", format!("{command} it-was-{command}"));
    }
    let server = builder.start();
    let (mut client, mut holder) = (server.client(), server.client());
    assert!(holder.line("GPULOCK.ACQUIRE k holder SESSION").int() > 0);
    let mut next: Client = waiter(&server, "GPULOCK.ACQUIRE k next PX 100 BLOCK 0");
    wait_queue(&mut client, "k", &["next"]);
    drop(holder);
    assert!(next.read().int() > 0);
    let mut last = waiter(&server, "GPULOCK.ACQUIRE k last BLOCK 0");
    assert!(last.read().int() > 0, "after the lease");
}

/// The module needs no EXISTS to know whether a node still serves a key.
fn without_exists_a_cluster_node_hands_off_its_locks(flavour: &Flavour) {
    let cluster = Cluster::start_with(flavour, 1, |node| {
        node.arg("rename-command", "EXISTS it-was-exists")
    });
    let server = &cluster.nodes()[0];
    let mut client = server.client();
    assert!(client.line("GPULOCK.ACQUIRE k holder").int() > 0);
    let mut next = waiter(server, "GPULOCK.ACQUIRE k next BLOCK 0");
    wait_queue(&mut client, "k", &["next"]);
    assert_eq!(client.line("DEL k"), 1);
    assert!(next.read().int() > 0);
}
