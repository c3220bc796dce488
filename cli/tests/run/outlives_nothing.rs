//! A command never outlives its locks: whatever happens to the server, to the way there, to
//! the locks or to `gpulock` itself, it is dead before the lease or the grace ends.

use std::fs;
use std::time::Duration;

use gpulock_testkit::{Server, call, on_every_server, servers, wait_until};
use rustix::process::Signal;

use crate::lease_end::{lease_end, unix_time};
use crate::relay::Relay;
use crate::runner::{Runner, gpulock_run, gpulock_run_at, send, state, wait_dead};

/// A command that says who it is, and ends when it is told to.
const ENDS: &str = "echo $$ >pid; while :; do sleep 0.05; done";

/// One that does not.
const GOES_ON: &str = "trap '' TERM; echo $$ >pid; while :; do sleep 0.05; done";

/// One with a grandchild that does not, either.
const WITH_GRANDCHILD: &str = "sh -c 'trap \"\" TERM; echo $$ >grand; \
                               while :; do sleep 0.05; done' & echo $$ >pid; wait";

fn server() -> Server {
    servers()[0].server().arg("appendonly", "yes").start()
}

/// `gpulock run` of a shell script under the lock `k`, at a port.
fn run_at(port: u16, args: &[&str], script: &str) -> Runner {
    let args = [&["--key", "k"], args, &["--", "sh", "-c", script]].concat();
    let run = gpulock_run_at(port, &args).start();
    run.line("pid");
    run
}

/// Waits for the command's death and answers when it was, in Unix time.
fn death(run: &Runner) -> Duration {
    wait_dead(run.number("pid"));
    unix_time()
}

#[test]
fn it_is_dead_before_the_lease_ends_when_the_server_hangs() {
    on_every_server(|flavour| {
        for script in [ENDS, GOES_ON] {
            let mut server = flavour.server().arg("appendonly", "yes").start();
            let mut run = run_at(server.port(), &["--lease", "4s"], script);
            server.freeze();
            let death = death(&run);
            assert!(death < lease_end(&server, "k"), "{script}");
            assert_eq!(run.status(), 76);
        }
    });
}

#[test]
fn it_is_dead_before_the_lease_ends_when_the_way_is_silent() {
    for script in [ENDS, GOES_ON] {
        let server = server();
        let relay = Relay::to(server.port());
        let mut run = run_at(relay.port(), &["--lease", "4s"], script);
        relay.silence();
        let death = death(&run);
        assert!(death < lease_end(&server, "k"), "{script}");
        assert_eq!(run.status(), 76);
        // What waits in the relay must not reach the server after the test.
        relay.cut();
    }
}

#[test]
fn it_is_dead_before_the_grace_ends_when_the_server_dies() {
    let mut server = server();
    let mut run = run_at(server.port(), &["--lease", "1h", "--grace", "3s"], GOES_ON);
    let killed = unix_time();
    server.kill9();
    let death = death(&run);
    assert!(death < killed + Duration::from_secs(3), "{:?}", death - killed);
    assert_eq!(run.status(), 76);
    assert!(run.err().contains("lock lost"), "{}", run.err());
}

#[test]
fn it_is_dead_before_the_lock_is_anothers_when_gpulock_is_killed() {
    let server = server();
    let mut next = server.client();
    for script in [ENDS, WITH_GRANDCHILD] {
        let mut run = run_at(server.port(), &["--grace", "3s"], script);
        let command = run.number("pid");
        let grandchild = (script == WITH_GRANDCHILD).then(|| run.number("grand"));
        run.signal(Signal::KILL);
        let token =
            call!(next, "GPULOCK.ACQUIRE", "k", "next", "EX", 600, "BLOCK", 60000);
        assert!(token.int() > 0);
        for pid in [Some(command), grandchild].into_iter().flatten() {
            assert_eq!(state(pid), None, "process {pid} of {script}");
        }
        run.ended();
        call!(next, "GPULOCK.RELEASE", "k", "next");
    }
}

#[test]
fn it_is_dead_before_the_lease_ends_when_gpulock_is_stopped() {
    let server = server();
    let mut run = run_at(server.port(), &["--lease", "4s"], WITH_GRANDCHILD);
    let (command, grandchild) = (run.number("pid"), run.number("grand"));
    run.signal(Signal::STOP);
    for pid in [command, grandchild] {
        wait_dead(pid);
        assert!(unix_time() < lease_end(&server, "k"));
    }
    run.signal(Signal::CONT);
    assert_eq!(run.status(), 76);
}

#[test]
fn it_is_dead_before_a_lease_ends_that_the_server_cuts() {
    let builder = servers()[0].server().arg("appendonly", "yes");
    let server = builder.module_args(&["gpulock.max-hold", "5000"]).start();
    let mut run = run_at(server.port(), &["--lease", "4s"], GOES_ON);
    let death = death(&run);
    assert!(death < lease_end(&server, "k"));
    assert_eq!(run.status(), 76);
}

#[test]
fn it_dies_with_gpulock_when_the_guard_was_killed_before() {
    let server = server();
    let mut run = run_at(server.port(), &[], GOES_ON);
    let command = run.number("pid");
    let children = format!("/proc/{0}/task/{0}/children", run.pid());
    let children = fs::read_to_string(children).expect("the children of a process");
    let guards: Vec<u32> =
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    for guard in guards.into_iter().filter(|pid| *pid != command) {
        send(guard, Signal::KILL);
        wait_dead(guard);
    }
    run.signal(Signal::KILL);
    wait_dead(command);
    run.ended();
}

#[test]
fn a_grant_that_ran_out_before_it_was_read_is_none() {
    let server = server();
    let relay = Relay::to(server.port());
    let mut other = server.client();
    call!(other, "GPULOCK.ACQUIRE", "k", "other", "EX", 600);
    let script = "echo $GPULOCK_TOKENS >>tokens; exec sleep 600";
    let args = ["--key", "k", "--lease", "1s", "--", "sh", "-c", script];
    let run = gpulock_run_at(relay.port(), &args).start();
    server.wait_blocked(1);
    relay.silence();
    call!(other, "GPULOCK.RELEASE", "k", "other");
    let next = ["GPULOCK.ACQUIRE", "k", "next", "EX", "600", "BLOCK", "60000"];
    let token = other.cmd(&next).int();
    relay.pass();
    server.wait_blocked(1);
    call!(other, "GPULOCK.RELEASE", "k", "next");
    assert!(run.line("tokens").parse::<i64>().expect("one token") > token);
}

#[test]
fn a_lock_that_is_taken_away_ends_the_command_at_once() {
    let server = server();
    let mut admin = server.client();
    for (script, taken) in [
        (ENDS, ["GPULOCK.FORCERELEASE", "k"]),
        (GOES_ON, ["GPULOCK.FORCERELEASE", "k"]),
        (WITH_GRANDCHILD, ["DEL", "k"]),
    ] {
        let args = ["--lease", "1h", "--on-lost", "env >lost"];
        let mut run = run_at(server.port(), &args, script);
        let owner = call!(admin, "GET", "k").text();
        admin.cmd(&taken);
        assert_eq!(run.status(), 76, "{script}");
        assert_eq!(state(run.number("pid")), None);
        let told = run.line("lost");
        for line in ["GPULOCK_KEYS=k", &format!("GPULOCK_OWNER={owner}"), "GPULOCK_LOST="]
        {
            assert!(told.contains(line), "{line} in {told}");
        }
    }
    assert_eq!(server.info_int("gpulock", "gpulock_ownership_violations"), 0);
}

#[test]
fn the_others_of_a_set_are_given_back_when_one_is_lost() {
    let server = server();
    let mut admin = server.client();
    let args = ["--keys", "a,b,c", "-n", "2", "--lease", "1h", "--", "sh", "-c", ENDS];
    let mut run = gpulock_run(&server, &args).start();
    run.line("pid");
    call!(admin, "GPULOCK.FORCERELEASE", "a");
    assert_eq!(run.status(), 76);
    assert!(call!(admin, "GPULOCK.LIST").list().is_empty());
    assert_eq!(server.info_int("gpulock", "gpulock_ownership_violations"), 0);
}

/// The error of one key must not hide what became of the others.
#[test]
fn a_key_that_is_no_lock_any_more_ends_the_command_at_once() {
    let server = server();
    let mut admin = server.client();
    let args = ["--keys", "a,b", "-n", "2", "--lease", "1h", "--", "sh", "-c", GOES_ON];
    let mut run = gpulock_run(&server, &args).start();
    run.line("pid");
    let script = "redis.call('DEL', 'a') redis.call('LPUSH', 'a', 'x')";
    call!(admin, "EVAL", script, 0);
    assert_eq!(run.status(), 76);
    wait_until(Duration::from_secs(60), "the grace of the other to be over", || {
        call!(admin, "EXISTS", "b") == 0
    });
}

/// A worker that has left its group and session, and does not end by itself.
const WITH_STRAY: &str = "setsid sh -c 'trap \"\" TERM; echo $$ >stray; \
                          while :; do sleep 0.05; done' & \
                          while [ ! -s stray ]; do sleep 0.01; done; echo $$ >pid; ";

#[test]
fn what_left_the_commands_group_ends_as_well() {
    let server = server();
    for (after, end, status) in
        [("wait", None, 76), ("wait", Some(Signal::KILL), 0), ("exit 4", None, 4)]
    {
        let script = format!("{WITH_STRAY}{after}");
        let mut run = run_at(server.port(), &["--lease", "1h", "--grace", "4s"], &script);
        let stray = run.number("stray");
        match end {
            Some(signal) => run.signal(signal),
            None if status == 76 => {
                call!(server.client(), "GPULOCK.FORCERELEASE", "k");
            }
            None => {}
        }
        let next = ["GPULOCK.ACQUIRE", "k", "next", "EX", "600", "BLOCK", "60000"];
        if status == 76 {
            assert_eq!(run.status(), 76);
        } else {
            assert!(server.client().cmd(&next).int() > 0);
        }
        assert_eq!(state(stray), None, "{after}, {end:?}");
        call!(server.client(), "GPULOCK.RELEASE", "k", "next");
        if status == 4 {
            assert_eq!(run.status(), 4);
            assert!(run.err().contains("left running"), "{}", run.err());
        }
    }
}

/// The stray becomes another program just when the command ends, and shows no environment
/// meanwhile.
#[test]
fn a_stray_that_is_just_being_started_is_ended_too() {
    let server = server();
    let script = "setsid python3 -c 'import time; time.sleep(600)' & exit 4";
    for round in 0..20 {
        let key = format!("k{round}");
        let args = ["--key", &key, "--", "sh", "-c", script];
        let (status, run) = gpulock_run(&server, &args).status();
        assert_eq!(status, 4);
        assert!(run.err().contains("left running"), "{round}: {}", run.err());
    }
}

#[test]
fn what_took_the_owner_off_its_environment_stays() {
    let server = server();
    let script = "env -u GPULOCK_OWNER setsid sh -c 'echo $$ >daemon; exec sleep 600' & \
                  while [ ! -s daemon ]; do sleep 0.01; done; exit 4";
    let args = ["--key", "k", "--", "sh", "-c", script];
    let (status, run) = gpulock_run(&server, &args).status();
    assert_eq!(status, 4);
    let daemon = run.number("daemon");
    assert!(state(daemon).is_some());
    send(daemon, Signal::KILL);
}
