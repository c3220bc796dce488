//! What a call prints when all is well.

use std::ffi::OsStr;

use gpulock_testkit::Server;
use serde_json::Value;

use super::called::gpulock;

/// All of it.
#[track_caller]
pub(crate) fn printed(server: &Server, args: &[impl AsRef<OsStr>]) -> String {
    let called = gpulock(server, args);
    assert_eq!((called.status, &*called.err), (0, ""), "{called:?}");
    called.out
}

/// The one JSON document that it prints.
#[track_caller]
pub(crate) fn json(server: &Server, args: &[&str]) -> Value {
    let printed = printed(server, &[args, &["--json"]].concat());
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error} in {printed}"))
}
