//! What the command line accepts, the help that it prints, and its tips.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

#[path = "support/invoke.rs"]
mod invoke;
use invoke::{Invocation, at};

/// No server listens on port 1.
const NOWHERE: &str = "redis://127.0.0.1:1";

fn gpulock(args: &[impl AsRef<OsStr>]) -> Invocation {
    Invocation::from(at(NOWHERE).args(args).output().unwrap())
}

/// Subcommands that users do not run themselves, and the former name of `queue`.
const HIDDEN: [&str; 2] = ["__", "\n  line "];

#[test]
fn without_a_subcommand_the_help_is_printed() {
    let without_url = Command::new(env!("CARGO_BIN_EXE_gpulock"))
        .env_remove("GPULOCK_URL")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let no_args: [&str; 0] = [];
    let bare = [
        Invocation::from(without_url),
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
    let result = gpulock(&["run", "--key", "k", "sleep", "5"]);
    assert_eq!((result.status, &*result.out), (2, ""), "{result:?}");
    let tip = "tip: put `--` before the command: gpulock run --key k -- sleep 5\n";
    assert!(result.err.contains(tip), "{result:?}");
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
