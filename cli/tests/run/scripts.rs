//! What most tests run under a lock.

use crate::runner::{Runner, gpulock_run_at};

/// A command that says who it is, and ends when it is told to.
pub(crate) const ENDS: &str = "echo $$ >pid; while :; do sleep 0.05; done";

/// One that does not.
pub(crate) const GOES_ON: &str =
    "trap '' TERM; echo $$ >pid; while :; do sleep 0.05; done";

/// One with a grandchild that does not, either.
pub(crate) const WITH_GRANDCHILD: &str = "sh -c 'trap \"\" TERM; echo $$ >grand; \
                                          while :; do sleep 0.05; done' & \
                                          echo $$ >pid; wait";

/// The beginning of one with a worker that has left its group and session, and does not end
/// by itself.
pub(crate) const WITH_STRAY: &str = "setsid sh -c 'trap \"\" TERM; echo $$ >stray; \
                                     while :; do sleep 0.05; done' & \
                                     while [ ! -s stray ]; do sleep 0.01; done; \
                                     echo $$ >pid; ";

/// `gpulock run` of a shell script under the lock `k`, at a port.
pub(crate) fn run_at(port: u16, args: &[&str], script: &str) -> Runner {
    let args = [&["--key", "k"], args, &["--", "sh", "-c", script]].concat();
    let run = gpulock_run_at(port, &args).start();
    run.line("pid");
    run
}
