//! `rename-command` takes commands away from everybody, the module included. Nothing that
//! protects a lock may be lost by that in silence.

use std::time::Duration;

use gpulock_testkit::{Builder, Client, Cluster, Flavour, Value, call, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::queue::{wait_queue, waiter};

tests! {
    without_a_command_that_replicas_follow_by_the_module_does_not_load,
    without_config_a_primary_without_its_replicas_hands_nothing_over,
    without_config_an_operator_is_told_that_the_timeout_is_not_known,
    without_client_or_acl_the_module_stays,
    without_client_the_log_has_no_line_of_the_client,
    without_the_other_commands_all_goes_on,
    without_exists_a_node_of_a_cluster_hands_over_what_it_serves,
}

/// A command that nobody has by its own name any more.
fn without(flavour: &Flavour, command: &str) -> Builder {
    flavour
        .server()
        .arg("rename-command", format!("{command} it-was-{command}"))
        .arg("enable-module-command", "yes")
}

fn without_a_command_that_replicas_follow_by_the_module_does_not_load(flavour: &Flavour) {
    for command in ["SET", "DEL", "PEXPIREAT"] {
        let Err(why) = without(flavour, command).try_start() else {
            panic!("{flavour}: loaded without {command}");
        };
        let expected = format!("the server has no command \"{command}\"");
        assert!(why.contains(&expected), "{flavour}: {why}");
    }
}

/// Replicas are counted by the server, not by its settings.
fn without_config_a_primary_without_its_replicas_hands_nothing_over(flavour: &Flavour) {
    let server = without(flavour, "CONFIG").arg("min-replicas-to-write", 1).start();
    let mut replica = flavour.server().named("replica").replica_of(&server).start();
    let mut client = server.client();
    wait_until(DEADLINE, "a replica that listens", || {
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
        let answer = client.line("SET x 1");
        answer.is_err() && answer.err().starts_with("NOREPLICAS ")
    });
    drop(holder);
    assert_eq!(late.read(), Value::Null);
    for next in &mut next {
        assert_eq!(next.read_within(Duration::ZERO), None);
    }
    assert_eq!(client.line("GET session"), "holder");
}

fn without_config_an_operator_is_told_that_the_timeout_is_not_known(flavour: &Flavour) {
    let server = without(flavour, "CONFIG").start();
    let log = server.client().line("GPULOCK.LOG");
    let reason = log.list()[0].field("reason").text();
    assert!(reason.starts_with("the server has no command CONFIG"), "{reason}");
    // Evictions are known without CONFIG.
    let evicting = without(flavour, "CONFIG")
        .arg("maxmemory", "100mb")
        .arg("maxmemory-policy", "allkeys-lru")
        .start();
    let log = evicting.client().line("GPULOCK.LOG");
    let reasons: Vec<String> =
        log.list().iter().map(|entry| entry.field("reason").text()).collect();
    assert!(
        reasons.iter().any(|reason| reason.contains("maxmemory-policy may evict")),
        "{reasons:?}"
    );
}

/// What must not outlive the module cannot be found then.
fn without_client_or_acl_the_module_stays(flavour: &Flavour) {
    for command in ["CLIENT", "ACL"] {
        let server = without(flavour, command).start();
        let (mut client, mut other) = (server.client(), server.client());
        other.line("MULTI");
        assert_eq!(other.line("GPULOCK.ACQUIRE k me"), "QUEUED");
        assert!(client.line("MODULE UNLOAD gpulock").is_err(), "{command}");
        server
            .wait_log(&format!("not unloaded: the server has no command \"{command}\""));
        assert!(other.line("EXEC").list()[0].int() > 0, "{command}");
    }
}

fn without_client_the_log_has_no_line_of_the_client(flavour: &Flavour) {
    let server = without(flavour, "CLIENT").start();
    let mut client = server.client();
    assert_eq!(call!(client, "GPULOCK.RELEASE", "k", "me"), 0);
    let log: Value = client.line("GPULOCK.LOG 1");
    assert_eq!(log.list()[0].field("client"), Value::Null);
}

/// Every other command of the server may go: no rule depends on it.
fn without_the_other_commands_all_goes_on(flavour: &Flavour) {
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

/// Whether a node still serves a key is not asked by a command that may be gone.
fn without_exists_a_node_of_a_cluster_hands_over_what_it_serves(flavour: &Flavour) {
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
