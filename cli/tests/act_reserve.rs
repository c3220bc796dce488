//! `gpulock reserve`: locks that no process holds, for the processes of a shell.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use gpulock_testkit::{Server, call, on_every_server, send, servers, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, getuid};

#[path = "support/invoke.rs"]
mod invoke;
#[path = "support/printed.rs"]
mod printed;
#[path = "support/shell.rs"]
mod shell;
use invoke::{Invocation, at, command, gpulock};
use printed::json;
use shell::{script, shell};

/// Timeout that only a hang exceeds.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Reserves `k`, which another owner holds, and waits until it is in the queue.
fn waiting(server: &Server, args: &[&str]) -> Child {
    call!(server.client(), "GPULOCK.ACQUIRE", "k", "other", "EX", 600);
    let mut command = command(server);
    command.args(["reserve", "--key", "k"]).args(args);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    server.wait_blocked(1);
    child.expect("starting gpulock")
}

fn value(lines: &str, name: &str) -> String {
    let prefix = format!("{name}=");
    let value = lines.lines().find_map(|line| line.strip_prefix(&prefix));
    value.unwrap_or_else(|| panic!("no {name} in {lines}")).to_owned()
}

#[test]
fn the_shell_gets_the_variables_of_the_locks() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let reserve = "eval \"$(gpulock reserve --keys a,b,c -n 2 --for 1h)\"; env";
        let result = script(&server, reserve);
        assert_eq!(result.status, 0, "{result:?}");
        assert!(result.err.contains("reserved a, b until 20"), "{result:?}");
        let owner = value(&result.out, "GPULOCK_OWNER");
        assert_eq!(value(&result.out, "GPULOCK_KEYS"), "a,b");
        let mut client = server.client();
        let mut tokens = Vec::new();
        for key in ["a", "b"] {
            assert_eq!(call!(client, "GET", key), &*owner);
            let lock = call!(client, "GPULOCK.INSPECT", key);
            tokens.push(lock.field("token").int().to_string());
            assert!(lock.field("session").is_null(), "{lock:?}");
            let lease = lock.field("lease_ms").int();
            assert!((3_500_000..=3_600_000).contains(&lease), "{lock:?}");
        }
        assert_eq!(value(&result.out, "GPULOCK_TOKENS"), tokens.join(","));
        let until: i64 = value(&result.out, "GPULOCK_RESERVED_UNTIL").parse().unwrap();
        let end = call!(client, "EXPIRETIME", "a").int();
        assert!((end - 2..=end).contains(&until), "{until} is not just before {end}");
    });
}

#[test]
fn the_lock_is_free_after_the_time() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let result = script(&server, "eval \"$(gpulock reserve --key k --for 1s)\"; env");
        assert_eq!(value(&result.out, "GPULOCK_KEYS"), "k");
        let mut next = server.client();
        assert!(call!(next, "GPULOCK.ACQUIRE", "k", "next", "BLOCK", 60_000).int() > 0);
        let counters = server.client().line("GPULOCK.STATS");
        assert_eq!(counters.field("renewed"), 0);
        assert_eq!(counters.field("expired"), 1);
    });
}

/// The wait is longer than the reservation.
#[test]
fn the_time_counts_from_the_grant_even_after_a_wait() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let reserve = waiting(&server, &["--for", "30s"]);
        let mut admin = server.client();
        wait_until(TIMEOUT, "a wait of a tenth of the time", || {
            let lock = call!(admin, "GPULOCK.INSPECT", "k");
            lock.field("waiters").list()[0].field("waited_ms").int() > 3_100
        });
        call!(admin, "GPULOCK.RELEASE", "k", "other");
        let result = Invocation::from(reserve.wait_with_output().unwrap());
        assert_eq!(result.status, 0, "{result:?}");
        let lock = call!(admin, "GPULOCK.INSPECT", "k");
        let (held, lease) = (lock.field("held_ms").int(), lock.field("lease_ms").int());
        assert!(held + lease <= 30_050, "{lock:?}");
        assert_eq!(server.info_int("gpulock", "gpulock_renewed"), 0);
    });
}

#[test]
fn any_key_is_quoted_for_the_shell() {
    let server = servers()[0].start();
    let keys: [&[u8]; 5] = [
        b"it's \"gpu\" 0",
        b"$(touch pwned) `touch pwned` \\ !x *",
        b"two\nlines",
        b"\xff\xfe",
        b"{gpus:node7}:gpu:0",
    ];
    for key in keys {
        let folder = tempfile::tempdir().unwrap();
        let reserve = "eval \"$(gpulock reserve --key \"$KEY\" --for 1h)\"; \
                       printf %s \"$GPULOCK_KEYS\" >key; \
                       eval \"$(gpulock release)\"; env >env";
        let mut shell = shell(&server, reserve);
        shell.current_dir(folder.path()).env("KEY", OsStr::from_bytes(key));
        let output = shell.output().unwrap();
        assert!(output.stdout.is_empty(), "{output:?}");
        assert_eq!(fs::read(folder.path().join("key")).unwrap(), key, "{output:?}");
        assert!(!folder.path().join("pwned").exists());
        assert_eq!(call!(server.client(), "EXISTS", key), 0, "{output:?}");
    }
}

#[test]
fn ls_shows_who_reserved_the_lock() {
    let server = servers()[0].start();
    let user = User::from_uid(getuid()).unwrap().unwrap().name;
    let expected = [
        (vec!["--key", "a"], format!("reserved:{user}@")),
        (vec!["--key", "b", "--owner", "kim"], "reserved:kim@".to_owned()),
    ];
    for (args, prefix) in expected {
        let reserve =
            gpulock(&server, &[&["reserve", "--for", "1h"], &args[..]].concat());
        assert_eq!(reserve.status, 0, "{reserve:?}");
        let locks = json(&server, &["ls", "--match", args[1]]);
        let owner = locks[0]["owner"].as_str().unwrap();
        assert!(owner.starts_with(&prefix), "{owner}");
    }
}

#[test]
fn json_has_the_locks_and_the_environment() {
    let server = servers()[0].start();
    let exact = json(&server, &["reserve", "--key", "a\\b\n", "--for", "1h", "-q"]);
    assert_eq!(exact["environment"]["GPULOCK_KEYS"], "a\\b\n");
    let binary = [OsStr::new("--key"), OsStr::from_bytes(b"\xff"), OsStr::new("--json")];
    let reserve = [OsStr::new("reserve"), OsStr::new("--for"), OsStr::new("1h")];
    let binary = gpulock(&server, &[reserve, binary].concat());
    assert_eq!((binary.status, &*binary.out), (1, ""), "{binary:?}");
    assert_eq!(call!(server.client(), "EXISTS", b"\xff"), 0);
    let reserved = json(&server, &["reserve", "--key", "k", "--for", "1h", "-q"]);
    let lock = call!(server.client(), "GPULOCK.INSPECT", "k");
    assert_eq!(reserved["locks"][0]["key"], "k");
    assert_eq!(reserved["locks"][0]["token"], lock.field("token").int());
    assert_eq!(lock.field("owner"), reserved["owner"].as_str().unwrap());
    assert_eq!(reserved["environment"]["GPULOCK_OWNER"], reserved["owner"]);
    let end = call!(server.client(), "PEXPIRETIME", "k").int();
    let until = reserved["until_unix_ms"].as_i64().unwrap();
    assert!((end - 1000..=end + 50).contains(&until), "{until} is not about {end}");
}

#[test]
fn a_failure_prints_no_variables_and_holds_nothing() {
    let server = servers()[0].start();
    call!(server.client(), "GPULOCK.ACQUIRE", "held", "other", "EX", 600);
    let cases: [(&[&str], i32, &str); 7] = [
        (&["--key", "held", "--for", "1h", "--no-wait"], 75, "held by other"),
        (&["--key", "held", "--for", "1h", "--wait", "10ms"], 75, "timed out"),
        (&["--key", "k", "--for", "48h"], 1, "--for 2days is longer than the server"),
        (&["--key", "k", "--for", "10ms"], 2, "must be at least 1s"),
        (&["--key", "k"], 2, "--for"),
        (&["--key", "a,b", "--for", "1h"], 2, "invalid key a,b"),
        (&["--keys", "a,b", "-n", "3", "--for", "1h"], 2, "only 2 locks"),
    ];
    for (args, status, message) in cases {
        let result = gpulock(&server, &[&["reserve"], args].concat());
        assert_eq!((result.status, &*result.out), (status, ""), "{result:?}");
        assert!(result.err.contains(message), "{result:?}");
    }
    let nowhere =
        at("redis://127.0.0.1:1").args(["reserve", "--key=k", "--for=1h"]).output();
    let nowhere = Invocation::from(nowhere.unwrap());
    assert_eq!((nowhere.status, &*nowhere.out), (69, ""), "{nowhere:?}");
    let full = script(&server, "gpulock reserve --key k --for 1h >/dev/full");
    assert_eq!(full.status, 1, "{full:?}");
    assert!(full.err.contains("failed to print"), "{full:?}");
    assert_eq!(server.client().line("DBSIZE"), 1);
}

#[test]
fn a_hold_that_the_server_shortens_is_reported() {
    let server =
        servers()[0].server().module_args(&["gpulock.max-hold", "600000"]).start();
    let result = gpulock(&server, &["reserve", "--key", "k", "--for", "1h"]);
    assert_eq!(result.status, 0, "{result:?}");
    assert!(result.err.contains("shortens the reservation to 9m 59s"), "{result:?}");
}

/// A shell goes on with the script if a command that was interrupted only returns a status.
#[test]
fn a_signal_ends_the_wait_and_the_process() {
    on_every_server(|flavour| {
        let server = flavour.start();
        for (signal, killed_by, status) in
            [(Signal::SIGINT, Some(2), None), (Signal::SIGTERM, None, Some(143))]
        {
            let reserve = waiting(&server, &["--for", "1h"]);
            kill(Pid::from_raw(reserve.id().cast_signed()), signal).unwrap();
            let output = reserve.wait_with_output().unwrap();
            assert_eq!(output.status.signal(), killed_by, "{output:?}");
            assert_eq!(output.status.code(), status, "{output:?}");
            assert!(output.stdout.is_empty(), "{output:?}");
            call!(server.client(), "GPULOCK.RELEASE", "k", "other");
            wait_until(TIMEOUT, "the lock to be free", || {
                call!(server.client(), "GPULOCK.INSPECT", "k").is_null()
            });
        }
    });
}

#[test]
fn a_wait_survives_a_broken_connection() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let reserve = waiting(&server, &["--for", "1h"]);
        let mut admin = server.client();
        call!(admin, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
        server.wait_blocked(1);
        call!(admin, "GPULOCK.RELEASE", "k", "other");
        let result = Invocation::from(reserve.wait_with_output().unwrap());
        assert_eq!(result.status, 0, "{result:?}");
        assert!(result.out.contains("export GPULOCK_KEYS=k\n"), "{result:?}");
    });
}

#[test]
fn it_waits_in_the_fair_queue() {
    let server = servers()[0].start();
    let first = waiting(&server, &["--for", "1h"]);
    let mut second = server.client();
    send!(second, "GPULOCK.ACQUIRE", "k", "second", "BLOCK", 0);
    server.wait_blocked(2);
    call!(server.client(), "GPULOCK.RELEASE", "k", "other");
    let result = Invocation::from(first.wait_with_output().unwrap());
    assert_eq!(result.status, 0, "{result:?}");
    assert_eq!(server.info_int("clients", "blocked_clients"), 1);
}

#[test]
fn a_second_reservation_of_a_shell_is_refused_until_the_first_has_ended() {
    let server = servers()[0].start();
    let both = "eval \"$(gpulock reserve --key a --for 1h)\"; \
                gpulock reserve --key b --for 1h";
    let result = script(&server, both);
    assert_eq!((result.status, &*result.out), (1, ""), "{result:?}");
    assert!(result.err.contains("gpulock release"), "{result:?}");
    assert_eq!(call!(server.client(), "EXISTS", "b"), 0);
    let ended = "eval \"$(gpulock reserve --key c --for 1s)\"; i=0; \
                 until gpulock reserve --key b --for 1h; do \
                 i=$((i+1)); [ $i -lt 600 ] || exit; sleep 0.1; done";
    let result = script(&server, ended);
    assert_eq!(result.status, 0, "{result:?}");
    assert_eq!(call!(server.client(), "EXISTS", "b"), 1);
}

#[test]
fn a_run_for_reserved_locks_uses_the_reservation() {
    let server = servers()[0].start();
    let run = "eval \"$(gpulock reserve --keys a,b -n 2 --for 1h -q)\"; \
               echo \"$GPULOCK_TOKENS\"; \
               gpulock run --key b -- sh -c 'echo \"$GPULOCK_TOKENS\"; exit 9'";
    let result = script(&server, run);
    assert_eq!(result.status, 9, "{result:?}");
    let tokens: Vec<_> = result.out.lines().collect();
    assert_eq!(tokens.len(), 2, "{result:?}");
    assert_eq!(tokens[0], tokens[1], "{result:?}");
    assert!(result.err.contains("which ends in 59m 5"), "{result:?}");
    assert_eq!(call!(server.client(), "EXISTS", "b"), 1);
}

#[test]
fn the_gpus_of_a_pool_are_visible_until_the_release() {
    let server = servers()[0].start();
    let folder = tempfile::tempdir().unwrap();
    let stub = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/run/nvml.c");
    let library = folder.path().join("libnvidia-ml.so.1");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(stub);
    assert!(compiler.status().unwrap().success());
    let gpus = folder.path().join("gpus");
    fs::write(&gpus, "GPU-a 9000\nGPU-b 9000\n").unwrap();
    let reserve = "eval \"$(gpulock reserve --pool p -n 2 --for 1h)\"; \
                   echo \"$CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER\"; \
                   eval \"$(gpulock release)\"; env";
    let mut shell = shell(&server, reserve);
    shell.env("LD_LIBRARY_PATH", folder.path()).env("STUB_GPUS", &gpus);
    let result = Invocation::from(shell.output().unwrap());
    let (visible, env) = result.out.split_once('\n').unwrap();
    assert_eq!(visible, "GPU-a,GPU-b PCI_BUS_ID", "{result:?}");
    assert!(!env.contains("CUDA_"), "{result:?}");
}
