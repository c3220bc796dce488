//! While no command runs, the module does nothing: no timer fires, and locks are probed once in a
//! while only. The first command ends the silence, whatever way it takes through the server.

use std::time::{Duration, Instant};

use gpulock_testkit::{Client, Flavour, Server, call, send, wait_until};
use tempfile::TempDir;

use crate::support::background_load::with_background_load;
use crate::support::c_library::build_c_library;
use crate::support::clock::DEADLINE;
use crate::support::locks::acquire;
use crate::support::queue::join_queue;
use crate::support::silence::{filters, process_of, wait_silent};

tests! {
    whatever_frees_a_lock_in_silence_is_noticed_at_once,
    a_command_postponed_by_a_pause_is_noticed_at_once,
    a_call_of_another_module_is_noticed_at_once,
    a_key_deleted_by_another_module_without_a_command_is_noticed,
    a_change_among_many_queues_is_noticed_at_once,
    a_lease_that_ends_in_silence_passes_the_lock_on,
    the_end_of_a_list_is_noticed_at_once,
    a_server_is_listened_to_only_in_silence_and_while_there_are_locks,
    the_module_unloads_while_it_listens,
}

/// The sweep, which would find a change as well, runs once a second with `hz 1`.
fn server(flavour: &Flavour) -> Server {
    flavour.server().arg("hz", 1).start()
}

/// The sweep needs up to a second. The fastest of three is faster only by chance, one time in
/// seven, so a change that is not heard of is detected in most runs of the tests. A busy machine
/// delays each of three by chance only, too.
const AT_ONCE: Duration = Duration::from_millis(50);

/// Measures three times how long a change takes to reach the waiter.
#[track_caller]
fn assert_at_once(what: &str, mut measure: impl FnMut() -> Duration) {
    let times: Vec<Duration> = (0..3).map(|_| measure()).collect();
    let fastest = times.iter().min().expect("three");
    println!("{what}: {fastest:?}");
    assert!(*fastest < AT_ONCE, "{what}: {times:?}");
}

/// A server on which `me` holds `k` and a client waits for it. Nothing happens there.
struct Silent<'a> {
    server: &'a Server,
    process: u32,
    client: Client,
}

impl<'a> Silent<'a> {
    fn new(server: &'a Server) -> Self {
        let (process, client) = (process_of(server), server.client());
        Self { server, process, client }
    }

    /// Begins the next round: all keys are new.
    #[track_caller]
    fn begin(&mut self) -> Client {
        assert_eq!(self.client.line("FLUSHALL"), "OK");
        acquire(&mut self.client, "k", "me");
        let waiter =
            join_queue(self.server, &mut self.client, "k", "waiter", "PX 100000 BLOCK 0");
        self.wait();
        waiter
    }

    #[track_caller]
    fn wait(&self) {
        wait_silent(self.server, self.process);
    }
}

/// What frees `k`, or leaves it to expire at once.
const CHANGES: &[&[&str]] = &[
    &["DEL k"],
    &["UNLINK k"],
    &["GETDEL k"],
    &["RENAME k elsewhere"],
    &["MOVE k 1"],
    &["PEXPIRE k 1"],
    &["SET k other PX 1"],
    &["FLUSHALL"],
    &["FLUSHDB ASYNC"],
    &["SWAPDB 0 1"],
    &["EVAL redis.call('DEL',KEYS[1]) 1 k"],
    &["FCALL free 1 k"],
    &["MULTI", "DEL k", "EXEC"],
    &["GPULOCK.FORCERELEASE k"],
];

fn whatever_frees_a_lock_in_silence_is_noticed_at_once(flavour: &Flavour) {
    let server = server(flavour);
    let mut silent = Silent::new(&server);
    let function = "#!lua name=lib\nredis.register_function('free', function(keys) \
                    return redis.call('DEL', keys[1]) end)";
    call!(silent.client, "FUNCTION", "LOAD", function);
    for change in CHANGES {
        assert_at_once(&format!("{change:?}"), || {
            let mut waiter = silent.begin();
            let start = Instant::now();
            silent.client.send_lines(change);
            assert!(waiter.read().int() > 0);
            let elapsed = start.elapsed();
            change.iter().for_each(|_| drop(silent.client.read()));
            elapsed
        });
    }
}

fn a_command_postponed_by_a_pause_is_noticed_at_once(flavour: &Flavour) {
    let server = server(flavour);
    let mut silent = Silent::new(&server);
    let mut other = server.client();
    assert_at_once("DEL in a pause", || {
        let mut waiter = silent.begin();
        assert_eq!(silent.client.line("CLIENT PAUSE 100000 WRITE"), "OK");
        send!(other, "DEL", "k");
        wait_until(DEADLINE, "DEL to be postponed", || {
            silent.client.info("clients")["blocked_clients"] == "2"
        });
        let start = Instant::now();
        assert_eq!(silent.client.line("CLIENT UNPAUSE"), "OK");
        assert!(waiter.read().int() > 0);
        assert_eq!(other.read(), 1);
        start.elapsed()
    });
}

/// How long another module waits before it changes a key: until the server is silent again.
const LATER: Duration = Duration::from_millis(1_500);

fn server_with_other_module(flavour: &Flavour, folder: &TempDir) -> Server {
    let module = build_c_library("other_module", folder.path());
    flavour.server().arg("hz", 1).arg("loadmodule", module.display()).start()
}

fn a_call_of_another_module_is_noticed_at_once(flavour: &Flavour) {
    let folder = TempDir::with_prefix("gpulock-").expect("a folder");
    let server = server_with_other_module(flavour, &folder);
    let mut silent = Silent::new(&server);
    assert_at_once("DEL called by a module", || {
        let mut waiter = silent.begin();
        let start = Instant::now();
        call!(silent.client, "OTHER.CALL_LATER", "k", LATER.as_millis());
        assert!(waiter.read().int() > 0);
        start.elapsed().saturating_sub(LATER)
    });
}

fn a_key_deleted_by_another_module_without_a_command_is_noticed(flavour: &Flavour) {
    let folder = TempDir::with_prefix("gpulock-").expect("a folder");
    let server = server_with_other_module(flavour, &folder);
    let mut silent = Silent::new(&server);
    let mut waiter = silent.begin();
    call!(silent.client, "OTHER.DELETE_LATER", "k", LATER.as_millis());
    assert!(waiter.read().int() > 0, "the sweep probes it");
}

fn a_change_among_many_queues_is_noticed_at_once(flavour: &Flavour) {
    const QUEUES: usize = 600;
    let server = server(flavour);
    let (process, mut client) = (process_of(&server), server.client());
    let mut waiters = Vec::new();
    for n in 0..QUEUES {
        acquire(&mut client, &format!("k{n}"), "me");
        let mut waiter = server.client();
        send!(waiter, "GPULOCK.ACQUIRE", format!("k{n}"), "waiter", "BLOCK", 0);
        waiters.push(waiter);
    }
    server.wait_blocked(600);
    // Rounds over all queues take several ticks.
    let mut next = (0..QUEUES).rev();
    assert_at_once("DEL among many queues", || {
        wait_silent(&server, process);
        let n = next.next().expect("many");
        let start = Instant::now();
        assert_eq!(call!(client, "DEL", format!("k{n}")), 1);
        assert!(waiters[n].read().int() > 0);
        start.elapsed()
    });
}

fn a_lease_that_ends_in_silence_passes_the_lock_on(flavour: &Flavour) {
    const LEASE: Duration = Duration::from_millis(1_000);
    let server = server(flavour);
    let mut silent = Silent::new(&server);
    assert_at_once("the end of a lease", || {
        let mut waiter = silent.begin();
        let start = Instant::now();
        call!(silent.client, "GPULOCK.EXTEND", "k", "me", "PX", LEASE.as_millis());
        assert!(waiter.read().int() > 0);
        start.elapsed().saturating_sub(LEASE)
    });
}

fn the_end_of_a_list_is_noticed_at_once(flavour: &Flavour) {
    const LEFT: Duration = Duration::from_millis(700);
    let server = server(flavour);
    let mut silent = Silent::new(&server);
    assert_at_once("the end of a list", || {
        let mut waiter = silent.begin();
        let list = ["MULTI", "DEL k", "RPUSH k x", "PEXPIRE k 700", "EXEC"];
        silent.client.send_lines(&list);
        list.iter().for_each(|_| drop(silent.client.read()));
        let start = Instant::now();
        assert!(waiter.read().int() > 0);
        start.elapsed().saturating_sub(LEFT)
    });
}

fn a_server_is_listened_to_only_in_silence_and_while_there_are_locks(flavour: &Flavour) {
    let server = flavour.start();
    let mut silent = Silent::new(&server);
    silent.wait();
    assert_eq!(filters(&mut silent.client), Some(0), "there are no locks");
    let mut waiter = silent.begin();
    assert_eq!(filters(&mut silent.client), Some(1), "a client waits");
    let mut load = server.client();
    let ping = || {
        load.send_lines(&["PING"; 50]);
        (0..50).for_each(|_| assert_eq!(load.read(), "PONG"));
    };
    with_background_load(vec![ping], || {
        wait_until(DEADLINE, "a busy server not to be listened to", || {
            filters(&mut silent.client) == Some(0)
        });
    });
    silent.wait();
    assert_eq!(filters(&mut silent.client), Some(1), "it is silent again");
    silent.client.line("GPULOCK.RELEASE k me");
    assert!(waiter.read().int() > 0);
    waiter.line("GPULOCK.RELEASE k waiter");
    wait_until(DEADLINE, "no filter without locks", || {
        filters(&mut silent.client) == Some(0)
    });
}

fn the_module_unloads_while_it_listens(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    acquire(&mut client, "k", "me");
    wait_until(DEADLINE, "the server to be listened to", || {
        filters(&mut client) == Some(1)
    });
    // The server refuses this while a module has a timer.
    assert_eq!(client.line("MODULE UNLOAD gpulock"), "OK");
    let mut client = server.client();
    assert_eq!(client.line("GET k"), "me");
    assert_eq!(filters(&mut client), None);
}
