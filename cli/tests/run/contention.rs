//! Fifty runs compete for four locks: no lock has two holders, every run completes, and each
//! token is larger than the previous one of its lock.

use std::collections::BTreeMap;
use std::fs;

use gpulock_testkit::{call, on_every_server};

use crate::runner::gpulock_run;

const RUNNERS: usize = 50;

/// Each line is appended with a single write.
const SCRIPT: &str = "say() { echo $1 $GPULOCK_KEYS $GPULOCK_TOKENS >>$LOG; }; \
                      say begin; sleep 0.1; say end";

/// The locks in a line of the log, with their tokens.
fn locks(keys: &str, tokens: &str) -> Vec<(String, u64)> {
    let tokens = tokens.split(',').map(|token| token.parse().expect("a token"));
    keys.split(',').map(str::to_owned).zip(tokens).collect()
}

/// Checks the log of the commands. Panics if two held the same lock, or a token decreased.
/// Returns the number of completed commands.
fn check(log: &str) -> usize {
    let mut held: BTreeMap<String, u64> = BTreeMap::new();
    let mut highest: BTreeMap<String, u64> = BTreeMap::new();
    let mut ends = 0;
    for line in log.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        for (key, token) in locks(words[1], words[2]) {
            if words[0] == "begin" {
                let other = held.insert(key.clone(), token);
                assert_eq!(other, None, "two hold {key}: {line}\n{log}");
                let before = highest.insert(key, token).unwrap_or_default();
                assert!(token > before, "{token} after {before}\n{log}");
            } else {
                assert_eq!(held.remove(&key), Some(token), "{line}\n{log}");
            }
        }
        ends += usize::from(words[0] == "end");
    }
    assert!(held.is_empty(), "{held:?} did not end\n{log}");
    ends
}

#[test]
fn fifty_runs_share_four_locks() {
    on_every_server(|flavour| {
        let server = flavour.server().start();
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("log");
        // One in five requests two locks.
        let start = |number: usize| {
            let count = if number.is_multiple_of(5) { "2" } else { "1" };
            let args = ["--keys", "a,b,c,d", "-n", count, "--", "sh", "-c", SCRIPT];
            gpulock_run(&server, &args)
                .with(|command| {
                    command.env("LOG", &log);
                })
                .start()
        };
        let runners: Vec<_> = (0..RUNNERS).map(start).collect();
        for mut runner in runners {
            assert_eq!(runner.status(), 0);
        }
        assert_eq!(check(&fs::read_to_string(log).expect("a log")), RUNNERS);
        assert!(call!(server.client(), "GPULOCK.LIST").list().is_empty());
        assert_eq!(server.info_int("gpulock", "gpulock_ownership_violations"), 0);
        assert_eq!(server.info_int("gpulock", "gpulock_expired"), 0);
    });
}

#[test]
#[should_panic(expected = "two hold a")]
fn the_checker_detects_two_holders() {
    check("begin a 1\nbegin a 2\nend a 1\nend a 2\n");
}

#[test]
#[should_panic(expected = "1 after 2")]
fn the_checker_detects_a_decreasing_token() {
    check("begin a,b 2,3\nend a,b 2,3\nbegin a 1\nend a 1\n");
}
