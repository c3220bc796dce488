//! No panic leaves the module: its client receives an error, a counter and the server's log
//! report it, and everything else works. With `RUST_BACKTRACE=1`, which crashes some servers
//! when Rust's default panic hook is installed.

use gpulock_testkit::{Client, Flavour, Server, call, module_that_panics, wait_until};

use crate::support::clock::DEADLINE;

tests! {
    a_panic_in_a_command_is_an_error_for_its_client_only,
    a_panic_in_a_transaction_or_script_affects_only_its_command,
    a_panic_in_the_background_is_counted_and_affects_nothing_else,
    the_module_can_be_unloaded_after_a_panic,
}

const IN_COMMAND: &str = "gpulock:panic:command";
const IN_BACKGROUND: &str = "gpulock:panic:background";

fn start(flavour: &Flavour) -> Server {
    flavour
        .server()
        .module_path(module_that_panics())
        .env("RUST_BACKTRACE", "1")
        .arg("appendonly", "yes")
        .expect_panics()
        .start()
}

fn errors(client: &mut Client) -> i64 {
    client.line("GPULOCK.STATS").field("internal_errors").int()
}

/// The number of panics in the log. Each entry contains the message and the location.
fn reports(server: &Server, name: &str) -> usize {
    let log = server.log();
    let message = format!("<gpulock> caught an internal error: injected at {name} (");
    let entries = log.lines().filter(|line| line.contains(&message));
    entries
        .inspect(|line| assert!(line.contains("injected_panics.rs:"), "{line}"))
        .count()
}

/// Checks that other commands work.
#[track_caller]
fn assert_alive(server: &Server) {
    let mut client = server.client();
    assert_eq!(client.line("PING"), "PONG");
    let token = client.line("GPULOCK.ACQUIRE alive me").int();
    assert_eq!(client.line("GPULOCK.EXTEND alive me"), token);
    assert_eq!(client.line("GPULOCK.RELEASE alive me"), 1);
}

fn a_panic_in_a_command_is_an_error_for_its_client_only(flavour: &Flavour) {
    let server = start(flavour);
    let (mut client, mut other) = (server.client(), server.client());
    let token = other.line("GPULOCK.ACQUIRE held me PX 600000").int();
    let lines = [
        "GPULOCK.ACQUIRE gpulock:panic:command me",
        "GPULOCK.RELEASE gpulock:panic:command me",
        "GPULOCK.EXTEND gpulock:panic:command me",
        "GPULOCK.FORCERELEASE gpulock:panic:command",
        "GPULOCK.INSPECT gpulock:panic:command",
        "GPULOCK.LIST gpulock:panic:command",
        "GPULOCK.STATS gpulock:panic:command",
        "GPULOCK.LOG gpulock:panic:command",
    ];
    let mut panics = 0;
    for line in lines {
        panics += 1;
        assert_eq!(client.line(line).err(), "ERR internal error", "{line}");
        assert_eq!(errors(&mut client), panics, "{line}");
        assert_eq!(reports(&server, IN_COMMAND), usize::try_from(panics).unwrap());
    }
    let info = server.info("gpulock");
    assert_eq!(info["gpulock_internal_errors"], panics.to_string());
    let metrics = client.line("GPULOCK.METRICS").text();
    assert!(metrics.contains(&format!("gpulock_internal_errors_total {panics}\n")));
    assert_eq!(client.line("EXISTS gpulock:panic:command"), 0);
    assert_eq!(other.line("GPULOCK.EXTEND held me"), token);
    assert_eq!(other.line("GPULOCK.RELEASE held me"), 1);
    assert_alive(&server);
    assert_eq!(client.line("GPULOCK.RESETSTATS"), "OK");
    assert_eq!(errors(&mut client), 0);
}

fn a_panic_in_a_transaction_or_script_affects_only_its_command(flavour: &Flavour) {
    let server = start(flavour);
    let mut client = server.client();
    client.line("MULTI");
    client.line("GPULOCK.ACQUIRE before me");
    call!(client, "GPULOCK.ACQUIRE", IN_COMMAND, "me");
    client.line("GPULOCK.ACQUIRE after me");
    let replies = client.line("EXEC");
    let [before, panicked, after] = replies.list() else { panic!("{replies:?}") };
    assert!(after.int() > before.int());
    assert_eq!(panicked.err(), "ERR internal error");

    let body = "redis.call('GPULOCK.RELEASE', 'before', 'me')
            local met = redis.pcall('GPULOCK.ACQUIRE', ARGV[1], 'me').err
            redis.call('GPULOCK.RELEASE', 'after', 'me')
            return met";
    let panics = call!(client, "EVAL", body, 0, IN_COMMAND);
    assert_eq!(panics, "ERR internal error");
    assert_eq!(client.line("DBSIZE"), 0);
    let script = "return redis.call('GPULOCK.ACQUIRE', ARGV[1], 'me')";
    let ended = call!(client, "EVAL", script, 0, IN_COMMAND);
    assert!(ended.err().contains("internal error"), "{ended:?}");

    let library = "#!lua name=met
            redis.register_function('met', function(_, args)
                return redis.pcall('GPULOCK.ACQUIRE', args[1], 'me') end)";
    assert_eq!(call!(client, "FUNCTION", "LOAD", library), "met");
    let ended = call!(client, "FCALL", "met", 0, IN_COMMAND);
    assert!(ended.err().contains("internal error"), "{ended:?}");
    assert_eq!(errors(&mut client), 4);
    assert_eq!(reports(&server, IN_COMMAND), 4);
    assert_alive(&server);
}

fn a_panic_in_the_background_is_counted_and_affects_nothing_else(flavour: &Flavour) {
    let server = start(flavour);
    let mut client = server.client();
    let early = client.line("GPULOCK.ACQUIRE early me PX 600000").int();
    assert!(client.line("GPULOCK.ACQUIRE gone:early me").int() > 0);
    assert!(call!(client, "GPULOCK.ACQUIRE", IN_BACKGROUND, "me").int() > 0);
    assert!(client.line("GPULOCK.ACQUIRE gone:late me").int() > 0);
    let late = client.line("GPULOCK.ACQUIRE late me PX 600000").int();
    wait_until(DEADLINE, "two panics", || errors(&mut client) >= 2);
    assert!(reports(&server, IN_BACKGROUND) >= 2);
    assert_alive(&server);

    // The module still notices the ends of the other locks, before and after that one.
    for key in ["gone:early", "gone:late"] {
        assert_eq!(call!(client, "DEL", key), 1);
    }
    wait_until(DEADLINE, "the deletions to be noticed", || {
        client.line("GPULOCK.STATS").field("removed") == 2
    });
    assert!(client.line("GPULOCK.ACQUIRE short me PX 1").int() > 0);
    wait_until(DEADLINE, "a lease to end", || {
        client.line("GPULOCK.STATS").field("expired") == 1
    });

    // The lock itself can still be used, and its release ends the panics.
    assert_eq!(call!(client, "GPULOCK.RELEASE", IN_BACKGROUND, "me"), 1);
    let panics = errors(&mut client);
    assert!(client.line("GPULOCK.ACQUIRE short me PX 1").int() > 0);
    wait_until(DEADLINE, "a second lease to end", || {
        client.line("GPULOCK.STATS").field("expired") == 2
    });
    assert_eq!(errors(&mut client), panics);
    assert_eq!(client.line("GPULOCK.EXTEND early me"), early);
    assert_eq!(client.line("GPULOCK.EXTEND late me"), late);
}

fn the_module_can_be_unloaded_after_a_panic(flavour: &Flavour) {
    let server = start(flavour);
    let mut client = server.client();
    assert!(call!(client, "GPULOCK.INSPECT", IN_COMMAND).is_err());
    assert!(call!(client, "GPULOCK.ACQUIRE", IN_BACKGROUND, "me").int() > 0);
    wait_until(DEADLINE, "a panic in the background", || errors(&mut client) >= 2);
    assert_eq!(client.line("MODULE UNLOAD gpulock"), "OK");
    let path = module_that_panics().display().to_string();
    assert_eq!(call!(client, "MODULE", "LOAD", path), "OK");
    assert_eq!(errors(&mut client), 0);
    assert!(call!(client, "GPULOCK.INSPECT", IN_COMMAND).is_err());
    assert_eq!(errors(&mut client), 1);
    assert_alive(&server);
}
