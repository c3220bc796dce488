//! While no command runs, the module does nothing: no timer fires, and locks are probed once in a
//! while only. The first command ends the silence, whatever way it takes through the server.

use std::time::Instant;

use gpulock_testkit::{Client, Flavour, Server, call, send, wait_until};
use tempfile::TempDir;

use crate::support::background_load::with_background_load;
use crate::support::c_library::build_c_library;
use crate::support::clock::DEADLINE;
use crate::support::locks::acquire;
use crate::support::queue::join_queue;
use crate::support::silence::{filters, process_of, wait_silent};

tests! {
    whatever_frees_a_lock_is_noticed_by_the_timer,
    a_command_postponed_by_a_pause_is_noticed_by_the_timer,
    a_command_postponed_by_a_pause_that_no_tick_saw_is_noticed_by_the_timer,
    a_call_of_another_module_is_noticed_by_the_timer,
    a_key_deleted_by_another_module_without_a_command_is_noticed_by_the_sweep,
    changes_among_many_queues_are_noticed_by_the_timer,
    a_lease_that_ends_is_noticed_by_the_timer,
    the_end_of_a_list_is_noticed_by_the_timer,
    a_lease_that_ends_in_hours_does_not_keep_the_server_busy,
    a_server_is_listened_to_only_in_silence_and_while_there_are_locks,
    the_module_unloads_while_it_listens,
}

/// A server whose cron is paused, and with it the sweep, which would find every change.
#[track_caller]
fn without_cron(server: &Server) {
    assert_eq!(server.client().line("DEBUG PAUSE-CRON 1"), "OK");
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

    /// Sends commands, and reads their replies after the grant to the waiter.
    #[track_caller]
    fn change(&mut self, waiter: &mut Client, commands: &[&str]) {
        let start = Instant::now();
        self.client.send_lines(commands);
        assert!(waiter.read().int() > 0, "{commands:?}");
        println!("{commands:?}: {:?}", start.elapsed());
        for command in commands {
            let reply = self.client.read();
            assert!(!reply.is_err(), "{command}: {reply:?}");
        }
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

fn whatever_frees_a_lock_is_noticed_by_the_timer(flavour: &Flavour) {
    let server = flavour.start();
    without_cron(&server);
    let mut silent = Silent::new(&server);
    let function = "#!lua name=lib\nredis.register_function('free', function(keys) \
                    return redis.call('DEL', keys[1]) end)";
    call!(silent.client, "FUNCTION", "LOAD", function);
    for change in CHANGES {
        let mut waiter = silent.begin();
        silent.change(&mut waiter, change);
    }
}

fn a_command_postponed_by_a_pause_is_noticed_by_the_timer(flavour: &Flavour) {
    let server = flavour.start();
    without_cron(&server);
    let mut silent = Silent::new(&server);
    let mut other = server.client();
    let mut waiter = silent.begin();
    assert_eq!(silent.client.line("CLIENT PAUSE 100000 WRITE"), "OK");
    send!(other, "DEL", "k");
    wait_until(DEADLINE, "DEL to be postponed", || {
        silent.client.info("clients")["blocked_clients"] == "2"
    });
    silent.change(&mut waiter, &["CLIENT UNPAUSE"]);
    assert_eq!(other.read(), 1);
}

/// The server executes the pipeline in one go, and the pause is over after that: the first tick
/// ends it, and the server executes DEL after the tick.
fn a_command_postponed_by_a_pause_that_no_tick_saw_is_noticed_by_the_timer(
    flavour: &Flavour,
) {
    let server = flavour.start();
    without_cron(&server);
    let mut silent = Silent::new(&server);
    let mut waiter = silent.begin();
    let pipeline = ["CLIENT PAUSE 50 WRITE", "DEBUG SLEEP 0.1", "PING", "DEL k"];
    silent.change(&mut waiter, &pipeline);
}

/// How long another module waits before it changes a key: until the server is silent again.
const LATER_MS: u64 = 1_500;

fn server_with_other_module(flavour: &Flavour, folder: &TempDir) -> Server {
    let module = build_c_library("other_module", folder.path());
    flavour.server().arg("loadmodule", module.display()).start()
}

fn a_call_of_another_module_is_noticed_by_the_timer(flavour: &Flavour) {
    let folder = TempDir::with_prefix("gpulock-").expect("a folder");
    let server = server_with_other_module(flavour, &folder);
    without_cron(&server);
    let mut silent = Silent::new(&server);
    let mut waiter = silent.begin();
    silent.change(&mut waiter, &[&format!("OTHER.CALL_LATER k {LATER_MS}")]);
}

fn a_key_deleted_by_another_module_without_a_command_is_noticed_by_the_sweep(
    flavour: &Flavour,
) {
    let folder = TempDir::with_prefix("gpulock-").expect("a folder");
    let server = server_with_other_module(flavour, &folder);
    let mut silent = Silent::new(&server);
    let mut waiter = silent.begin();
    silent.change(&mut waiter, &[&format!("OTHER.DELETE_LATER k {LATER_MS}")]);
}

/// Rounds over all queues take several ticks.
fn changes_among_many_queues_are_noticed_by_the_timer(flavour: &Flavour) {
    const QUEUES: usize = 600;
    let server = flavour.start();
    without_cron(&server);
    let mut silent = Silent::new(&server);
    let mut waiters = Vec::new();
    for n in 0..QUEUES {
        acquire(&mut silent.client, &format!("k{n}"), "me");
        let mut waiter = server.client();
        send!(waiter, "GPULOCK.ACQUIRE", format!("k{n}"), "waiter", "BLOCK", 0);
        waiters.push(waiter);
    }
    server.wait_blocked(600);
    for n in [0, QUEUES / 2, QUEUES - 1] {
        silent.wait();
        silent.change(&mut waiters[n], &[&format!("DEL k{n}")]);
    }
}

fn a_lease_that_ends_is_noticed_by_the_timer(flavour: &Flavour) {
    let server = flavour.start();
    without_cron(&server);
    let mut silent = Silent::new(&server);
    let mut waiter = silent.begin();
    silent.change(&mut waiter, &[&format!("GPULOCK.EXTEND k me PX {LATER_MS}")]);
}

/// It is no hold, so no alarm is set to its end.
fn the_end_of_a_list_is_noticed_by_the_timer(flavour: &Flavour) {
    let server = flavour.start();
    without_cron(&server);
    let mut silent = Silent::new(&server);
    let mut waiter = silent.begin();
    let expire = format!("PEXPIRE k {LATER_MS}");
    silent.change(&mut waiter, &["MULTI", "DEL k", "RPUSH k x", &expire, "EXEC"]);
}

/// Redis 7.0 fires a timer that is due in more than 35 minutes again and again.
fn a_lease_that_ends_in_hours_does_not_keep_the_server_busy(flavour: &Flavour) {
    let server = flavour.start();
    let mut silent = Silent::new(&server);
    let mut waiter = silent.begin();
    for lease_ms in [2_200_000, 4_000_000, 60_000_000] {
        call!(silent.client, "GPULOCK.EXTEND", "k", "me", "PX", lease_ms);
        silent.wait();
    }
    silent.change(&mut waiter, &["DEL k"]);
}

fn a_server_is_listened_to_only_in_silence_and_while_there_are_locks(flavour: &Flavour) {
    let server = flavour.start();
    let mut silent = Silent::new(&server);
    silent.wait();
    assert_eq!(filters(&mut silent.client), Some(0), "there are no locks");
    let mut waiter = silent.begin();
    await_filters(&mut silent, 1);
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
    await_filters(&mut silent, 1);
    silent.client.line("GPULOCK.RELEASE k me");
    assert!(waiter.read().int() > 0);
    waiter.line("GPULOCK.RELEASE k waiter");
    await_filters(&mut silent, 0);
}

/// Waits for a number of filters, with so few commands that the server is not busy.
#[track_caller]
fn await_filters(silent: &mut Silent<'_>, number: u32) {
    let start = Instant::now();
    while filters(&mut silent.client) != Some(number) {
        assert!(start.elapsed() < DEADLINE, "not {number} filters after {DEADLINE:?}");
        silent.wait();
    }
}

fn the_module_unloads_while_it_listens(flavour: &Flavour) {
    let server = flavour.start();
    let mut silent = Silent::new(&server);
    acquire(&mut silent.client, "k", "me");
    await_filters(&mut silent, 1);
    // The server refuses this while a module has a timer.
    assert_eq!(silent.client.line("MODULE UNLOAD gpulock"), "OK");
    let mut client = server.client();
    assert_eq!(client.line("GET k"), "me");
    assert_eq!(filters(&mut client), None);
}
