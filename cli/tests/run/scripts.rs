//! Shell scripts that the tests run under a lock.

use crate::runner::{Runner, gpulock_run_at};

/// Writes its process id, and runs until TERM.
pub(crate) const ENDS: &str = "echo $$ >pid; while :; do sleep 0.05; done";

/// The same, but ignores TERM.
pub(crate) const GOES_ON: &str =
    "trap '' TERM; echo $$ >pid; while :; do sleep 0.05; done";

/// Has a grandchild that ignores TERM.
pub(crate) const WITH_GRANDCHILD: &str = "sh -c 'trap \"\" TERM; echo $$ >grand; \
                                          while :; do sleep 0.05; done' & \
                                          echo $$ >pid; wait";

/// The beginning of a script with a worker that left its group and session, and ignores TERM.
pub(crate) const WITH_STRAY: &str = "setsid sh -c 'trap \"\" TERM; echo $$ >stray; \
                                     while :; do sleep 0.05; done' & \
                                     while [ ! -s stray ]; do sleep 0.01; done; \
                                     echo $$ >pid; ";

/// Starts `gpulock run` of a shell script under the lock `k`, for a server on this port.
pub(crate) fn run_at(port: u16, args: &[&str], script: &str) -> Runner {
    let args = [&["--key", "k"], args, &["--", "sh", "-c", script]].concat();
    let run = gpulock_run_at(port, &args).start();
    run.line("pid");
    run
}
