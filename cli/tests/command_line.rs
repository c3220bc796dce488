//! What the command line accepts, the help that it prints, and its tips.

use std::ffi::OsStr;
use std::fs::File;
use std::process::{Command, Stdio};

/// The result of a run.
#[derive(Debug)]
struct Invocation {
    status: i32,
    out: String,
    err: String,
}

/// Runs the program with the address of a server in its environment; nothing listens there.
fn gpulock(args: &[impl AsRef<OsStr>]) -> Invocation {
    run(program().env("GPULOCK_URL", "redis://127.0.0.1:1").args(args))
}

/// The program without an address in its environment.
fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_gpulock"));
    program.env_remove("GPULOCK_URL").stdin(Stdio::null());
    program
}

fn run(command: &mut Command) -> Invocation {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Invocation {
        status: output.status.code().expect("gpulock was killed"),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// Subcommands that users do not run themselves, and the former name of `queue`.
const HIDDEN: [&str; 2] = ["__", "\n  line "];

#[test]
fn without_a_subcommand_the_help_is_printed() {
    let no_args: [&str; 0] = [];
    let bare = [
        run(&mut program()),
        gpulock(&no_args),
        gpulock(&["--url", "redis://127.0.0.1:6379"]),
    ];
    for result in bare {
        assert_eq!((result.status, &*result.out), (2, ""), "{result:?}");
        assert!(result.err.contains("Usage: gpulock [OPTIONS] <COMMAND>"), "{result:?}");
        assert!(result.err.contains("\n  inspect "), "{result:?}");
        assert!(result.err.contains("GPULOCK_URL]"), "{result:?}");
        assert!(!HIDDEN.iter().any(|name| result.err.contains(name)), "{result:?}");
    }
}

#[test]
fn hidden_commands_are_never_suggested() {
    for misspelled in ["__chil", "__watchdo"] {
        let result = gpulock(&[misspelled]);
        assert_eq!(result.status, 2, "{result:?}");
        assert!(!result.err.contains("similar"), "{result:?}");
    }
}

#[test]
fn a_command_without_dashes_before_it_gets_a_tip() {
    let url = "redis://:secret@127.0.0.1";
    let result = gpulock(&["run", "--url", url, "--key", "k", "sleep", "5"]);
    assert_eq!((result.status, &*result.out), (2, ""), "{result:?}");
    let tip = "tip: put `--` before the command: gpulock run … -- sleep 5\n";
    assert!(result.err.contains(tip), "{result:?}");
    assert!(!result.err.contains("secret"), "{result:?}");
}

#[test]
fn the_usage_does_not_depend_on_the_environment() {
    for args in
        [&["force", "k"][..], &["run", "--key", "k"], &["man"], &["run", "--", "ls"]]
    {
        let result = gpulock(args);
        assert_eq!(result.status, 2, "{result:?}");
        let usage = format!("\nUsage: gpulock {} ", args[0]);
        assert!(result.err.contains(&usage), "{result:?}");
        assert!(!result.err.contains("--url"), "{result:?}");
        assert_eq!(result.err, run(program().args(args)).err);
    }
}

#[test]
fn empty_names_are_refused() {
    let cases: &[&[&str]] = &[
        &["run", "--key", "", "--", "true"],
        &["run", "--keys", "", "--", "true"],
        &["run", "--keys", "a,,b", "--", "true"],
        &["run", "--keys", "a,b,", "--", "true"],
        &["run", "--keys", "a", "--keys=", "--", "true"],
        &["run", "--pool", "", "--", "true"],
        &["run", "--key", "k", "--owner", "", "--", "true"],
        &["inspect", ""],
        &["queue", ""],
        &["stats", ""],
        &["release", "", "--owner", "me"],
        &["release", "k", "--owner", ""],
        &["force", "", "--any", "--yes"],
        &["force", "k", "--owner", "", "--yes"],
    ];
    for args in cases {
        let result = gpulock(args);
        assert_eq!((result.status, &*result.out), (2, ""), "{args:?}: {result:?}");
    }
}

/// A file on a disk without space.
fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    for args in [
        &["--help"][..],
        &["--version"],
        &["run", "--help"],
        &["help", "ls"],
        &["completions", "bash"],
        &["completions", "elvish"],
    ] {
        let result = run(program().args(args).stdout(full()));
        assert_eq!(result.status, 1, "{args:?}: {result:?}");
        let expected = "gpulock: failed to write the output: No space left on device";
        assert!(result.err.starts_with(expected), "{args:?}: {result:?}");
    }
}

#[test]
fn messages_that_cannot_be_written_do_not_change_the_status() {
    #[rustfmt::skip]
    let cases: &[(&[&str], i32)] = &[
        (&[],                           2),
        (&["ls", "--nothing"],          2),
        (&["ls", "--url", "redis://127.0.0.1:1"], 69),
        (&["exporter", "--listen", "192.0.2.1:1"], 1),
    ];
    for (args, status) in cases {
        let result = run(program().args(*args).stderr(full()));
        assert_eq!((result.status, &*result.out), (*status, ""), "{args:?}");
    }
}
