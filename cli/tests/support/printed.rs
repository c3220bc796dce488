//! The output of successful runs.

use std::ffi::OsStr;

use gpulock_testkit::Server;
use serde_json::Value;

use super::invoke::gpulock;

/// Runs the program, which must succeed, and returns its standard output.
#[track_caller]
pub(crate) fn printed(server: &Server, args: &[impl AsRef<OsStr>]) -> String {
    let result = gpulock(server, args);
    assert_eq!((result.status, &*result.err), (0, ""), "{result:?}");
    result.out
}

/// The same with `--json`, parsed.
#[track_caller]
pub(crate) fn json(server: &Server, args: &[&str]) -> Value {
    let printed = printed(server, &[args, &["--json"]].concat());
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error} in {printed}"))
}
