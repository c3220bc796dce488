//! No panic leaves the module: the client that met it is told, the counter and the
//! server's log tell the operator, and everything else goes on. With `RUST_BACKTRACE=1`,
//! which kills some servers when Rust's own way to report a panic is in force.

use gpulock_testkit::{Client, Flavour, Server, call, module_that_panics, wait_until};

use crate::support::clock::DEADLINE;

tests! {
    a_panic_in_a_command_is_an_error_for_its_client_and_for_nobody_else,
    a_panic_within_a_transaction_a_script_or_a_function_is_that_commands_own,
    a_panic_in_the_background_is_counted_and_told_and_nothing_else_suffers,
    a_panic_leaves_the_module_fit_to_be_unloaded,
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

/// The lines that the module wrote about panics. Each names the message and the place.
fn reports(server: &Server, name: &str) -> usize {
    let log = server.log();
    let message = format!("<gpulock> internal error, caught: injected at {name} (");
    let said = log.lines().filter(|line| line.contains(&message));
    said.inspect(|line| assert!(line.contains("injected.rs:"), "{line}")).count()
}

/// That everything works but the command that panicked.
#[track_caller]
fn assert_alive(server: &Server) {
    let mut client = server.client();
    assert_eq!(client.line("PING"), "PONG");
    let token = client.line("GPULOCK.ACQUIRE alive me").int();
    assert_eq!(client.line("GPULOCK.EXTEND alive me"), token);
    assert_eq!(client.line("GPULOCK.RELEASE alive me"), 1);
}

fn a_panic_in_a_command_is_an_error_for_its_client_and_for_nobody_else(
    flavour: &Flavour,
) {
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
    let mut met = 0;
    for line in lines {
        met += 1;
        assert_eq!(client.line(line).err(), "ERR internal error", "{line}");
        assert_eq!(errors(&mut client), met, "{line}");
        assert_eq!(reports(&server, IN_COMMAND), usize::try_from(met).unwrap());
    }
    let info = server.info("gpulock");
    assert_eq!(info["gpulock_internal_errors"], met.to_string());
    let metrics = client.line("GPULOCK.METRICS").text();
    assert!(metrics.contains(&format!("gpulock_internal_errors_total {met}\n")));
    assert_eq!(client.line("EXISTS gpulock:panic:command"), 0);
    assert_eq!(other.line("GPULOCK.EXTEND held me"), token);
    assert_eq!(other.line("GPULOCK.RELEASE held me"), 1);
    assert_alive(&server);
    assert_eq!(client.line("GPULOCK.RESETSTATS"), "OK");
    assert_eq!(errors(&mut client), 0);
}

fn a_panic_within_a_transaction_a_script_or_a_function_is_that_commands_own(
    flavour: &Flavour,
) {
    let server = start(flavour);
    let mut client = server.client();
    client.line("MULTI");
    client.line("GPULOCK.ACQUIRE before me");
    call!(client, "GPULOCK.ACQUIRE", IN_COMMAND, "me");
    client.line("GPULOCK.ACQUIRE after me");
    let answers = client.line("EXEC");
    let [before, panicked, after] = answers.list() else { panic!("{answers:?}") };
    assert!(after.int() > before.int());
    assert_eq!(panicked.err(), "ERR internal error");

    let body = "redis.call('GPULOCK.RELEASE', 'before', 'me')
            local met = redis.pcall('GPULOCK.ACQUIRE', ARGV[1], 'me').err
            redis.call('GPULOCK.RELEASE', 'after', 'me')
            return met";
    let met = call!(client, "EVAL", body, 0, IN_COMMAND);
    assert_eq!(met, "ERR internal error");
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

fn a_panic_in_the_background_is_counted_and_told_and_nothing_else_suffers(
    flavour: &Flavour,
) {
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

    // The others are followed as ever, whatever their place beside the one.
    for key in ["gone:early", "gone:late"] {
        assert_eq!(call!(client, "DEL", key), 1);
    }
    wait_until(DEADLINE, "what was deleted to be found out", || {
        client.line("GPULOCK.STATS").field("removed") == 2
    });
    assert!(client.line("GPULOCK.ACQUIRE short me PX 1").int() > 0);
    wait_until(DEADLINE, "a lease to end", || {
        client.line("GPULOCK.STATS").field("expired") == 1
    });

    // The lock itself can still be used, and the panics end with it.
    assert_eq!(call!(client, "GPULOCK.RELEASE", IN_BACKGROUND, "me"), 1);
    let met = errors(&mut client);
    assert!(client.line("GPULOCK.ACQUIRE short me PX 1").int() > 0);
    wait_until(DEADLINE, "a second lease to end", || {
        client.line("GPULOCK.STATS").field("expired") == 2
    });
    assert_eq!(errors(&mut client), met);
    assert_eq!(client.line("GPULOCK.EXTEND early me"), early);
    assert_eq!(client.line("GPULOCK.EXTEND late me"), late);
}

fn a_panic_leaves_the_module_fit_to_be_unloaded(flavour: &Flavour) {
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
