//! The names in result files: the parts of the benchmark, their cases and peers, and the
//! quantities measured. Tables and targets look series up by these names.

/// Acquiring and releasing a free lock.
pub(crate) const PAIR: &str = "pair";
/// One lock that passes from worker to worker.
pub(crate) const HAND_OFF: &str = "hand-off";
/// A hand-off with a short and with a long wait queue.
pub(crate) const QUEUE: &str = "queue";
/// Few and many locks held.
pub(crate) const HELD: &str = "held";
/// Acquiring one lock of a pool.
pub(crate) const POOLS: &str = "pools";
/// From the death of a holder to the next grant.
pub(crate) const RECOVERY: &str = "recovery";
/// Starting a command under a lock.
pub(crate) const STARTUP: &str = "startup";
/// Commands unrelated to locks.
pub(crate) const OTHER_COMMANDS: &str = "other-commands";
/// Commands unrelated to locks, with the module's work between them.
pub(crate) const LOAD: &str = "load";
/// A server on which nothing happens.
pub(crate) const IDLE: &str = "idle";
/// From a change by another client to the grant.
pub(crate) const OUTSIDE_CHANGES: &str = "outside-changes";
/// Where the instructions of the GPULOCK pair are spent.
pub(crate) const BREAKDOWN: &str = "breakdown";
/// Memory of waiting clients.
pub(crate) const WAITERS: &str = "waiters";
/// The longest time of each command at its limits.
pub(crate) const WORST_CASES: &str = "worst-cases";

/// No events are published.
pub(crate) const EVENTS_OFF: &str = "events off";
/// An event at each release, the default; without subscribers.
pub(crate) const EVENTS_ON: &str = "events on";
/// With an append-only file, fsynced once a second.
pub(crate) const AOF: &str = "AOF";
/// With one replica.
pub(crate) const REPLICA: &str = "replica";

/// A named lock, not one of a pool.
pub(crate) const ONE_LOCK: &str = "one lock";
/// A pool whose locks are all free.
pub(crate) fn all_free(size: usize) -> String {
    format!("one of {size}, all free")
}
/// A pool in which only the last named lock is free.
pub(crate) fn last_free(size: usize) -> String {
    format!("one of {size}, the last free")
}
/// A native command that names as many keys as a call for a pool does.
pub(crate) fn exists(size: usize) -> String {
    format!("EXISTS of {size} keys")
}
/// Sizes of the pools.
pub(crate) const POOL_SIZES: [usize; 3] = [8, 64, 512];

/// Number of processes that compete for one lock.
pub(crate) fn workers(count: usize) -> String {
    format!("{count} workers")
}
/// Number of workers that the targets refer to.
pub(crate) const WORKERS: usize = 8;
/// Lengths of the wait queue.
pub(crate) const WAITING: [usize; 4] = [10, 100, 1_000, 10_000];
/// Numbers of locks held.
pub(crate) const HELD_COUNTS: [usize; 4] = [10, 1_000, 100_000, 1_000_000];

/// Clients waiting for one lock.
pub(crate) fn waiting(clients: usize) -> String {
    format!("{} waiting", with_commas(clients))
}
/// Locks held.
pub(crate) fn held(locks: usize) -> String {
    format!("{} held", with_commas(locks))
}
/// The cheapest kind of waiter.
pub(crate) const FOR_ONE_LOCK: &str = "1,000 waiting for one lock";
/// The most expensive kind of waiter.
pub(crate) const FOR_OWN_LOCK: &str = "1,000 waiting for a lock each, UNIQUE SESSION";

/// The lock ends with the holder's connection.
pub(crate) const SESSION: &str = "SESSION";
/// The lock ends with its lease only.
pub(crate) const LEASE: &str = "a lease of 1 s";

/// The command without a lock.
pub(crate) const NO_LOCK: &str = "no lock";
/// The file lock of util-linux.
pub(crate) const FLOCK: &str = "flock";
/// The `gpulock` command.
pub(crate) const GPULOCK_RUN: &str = "gpulock run";
/// The ways to run a command.
pub(crate) const LAUNCHERS: [&str; 3] = [NO_LOCK, FLOCK, GPULOCK_RUN];
/// Until the first byte of output.
pub(crate) const TO_OUTPUT: &str = "first output";
/// Until the parent process has the exit status.
pub(crate) const TO_STATUS: &str = "exit status";

/// A server without the module, with as many keys as there are locks elsewhere.
pub(crate) const NO_MODULE: &str = "no module";
/// Locks are held, no client waits.
pub(crate) const LOCKS_HELD: &str = "1,000 locks held";
/// As [`NO_MODULE`], with as many idle clients as there are waiters elsewhere.
pub(crate) const IDLE_CLIENTS: &str = "no module, 100 idle clients";
/// Clients wait for some of the locks.
pub(crate) const CLIENTS_WAITING: &str = "100 clients waiting";

/// Locks are held, and clients wait for some of them.
pub(crate) const LOCKS_AND_QUEUES: &str = "1,000 locks held, 100 clients waiting";

/// Neither keys nor clients.
pub(crate) const NOTHING_HELD: &str = "nothing held";
/// Locks held, with one client waiting for each.
pub(crate) fn queues(count: usize) -> String {
    match count {
        1 => "1 waiter".to_owned(),
        count => format!("{} queues", with_commas(count)),
    }
}
/// Numbers of queues on an idle server.
pub(crate) const IDLE_QUEUES: [usize; 4] = [1, 100, 1_000, 4_000];
/// Number of locks held on an idle server without waiters.
pub(crate) const IDLE_HELD: usize = 100_000;

/// Another client sends commands all the time.
pub(crate) const BUSY: &str = "busy server";
/// No client has sent a command for more than a second.
pub(crate) const SILENT: &str = "after silence";

/// `GPULOCK.ACQUIRE` and `GPULOCK.RELEASE`.
pub(crate) const OURS: &str = "GPULOCK";
/// Two commands that do nothing: the lower bound of the server.
pub(crate) const PING: &str = "PING, PING";
/// Two reads.
pub(crate) const GET: &str = "GET, GET";
/// The native pair, which does not compare the owner.
pub(crate) const NATIVE: &str = "SET NX PX, DEL";
/// The native blocking command.
pub(crate) const BLPOP: &str = "BLPOP";
/// The server's own cost of blocking a client for a module (`bench/block_only.c`).
pub(crate) const BLOCK_ONLY: &str = "a module that only blocks";
/// The native compare-and-delete of Valkey 9.
pub(crate) const DELIFEQ: &str = "SET NX PX, DELIFEQ";
/// What most lock libraries do.
pub(crate) const SET_EVALSHA: &str = "SET NX PX, EVALSHA";
/// The Lua scripts of the lock manager that the module replaces.
pub(crate) const LUA: &str = "EVALSHA, EVALSHA";
/// The same two scripts as functions of a library in the server.
pub(crate) const FCALL: &str = "FCALL, FCALL";

/// redis-py's `Lock` with its defaults (polls every 100 ms).
pub(crate) const REDIS_PY: &str = "redis-py Lock";
/// redis-py's `Lock`, polling every millisecond.
pub(crate) const REDIS_PY_1MS: &str = "redis-py Lock, sleep=0.001";
/// python-redis-lock, which waits by `BLPOP`.
pub(crate) const PYTHON_REDIS_LOCK: &str = "python-redis-lock";
/// The protocol of the lock manager that the module replaces: a message at each release,
/// then `SET NX` by every waiter.
pub(crate) const PUBSUB: &str = "pub/sub and Lua";

/// The peers of the hand-off.
pub(crate) const HAND_OFF_PEERS: [&str; 5] =
    [OURS, REDIS_PY, REDIS_PY_1MS, PYTHON_REDIS_LOCK, PUBSUB];
/// The peers of the hand-off by queue length.
pub(crate) const QUEUE_PEERS: [&str; 3] = [OURS, NATIVE, BLOCK_ONLY];

/// Instructions, counted by callgrind.
pub(crate) const INSTRUCTIONS: &str = "instructions";
/// CPU time of the server process, user and system.
pub(crate) const CPU_US: &str = "server CPU, us";
/// The same as a part of the time that passed.
pub(crate) const CPU_PERCENT: &str = "server CPU, % of a core";
/// Median wall-clock time.
pub(crate) const P50_MS: &str = "p50, ms";
/// 99th percentile of wall-clock time.
pub(crate) const P99_MS: &str = "p99, ms";
/// Longest wall-clock time.
pub(crate) const MAX_MS: &str = "max, ms";
/// Time that the server spends with one command.
pub(crate) const LONGEST_MS: &str = "server time, ms";
/// Hand-offs per second.
pub(crate) const RATE: &str = "per second";
/// Commands that the server executed, including those in scripts.
pub(crate) const COMMANDS: &str = "commands";
/// Jain's fairness index: 1 if all workers have the same share.
pub(crate) const JAIN: &str = "Jain";
/// Most consecutive hand-offs to other workers that a worker waited through.
pub(crate) const LONGEST_WAIT: &str = "longest wait, hand-offs";
/// Memory by `used_memory`.
pub(crate) const BYTES: &str = "bytes";
/// Entries of the slow log.
pub(crate) const SLOW: &str = "commands over 2 ms";
/// Highest server CPU time from the start of one batch of 50 commands to the next.
pub(crate) const BATCH_MS: &str = "highest server CPU for 50 commands, ms";
/// Number of calls of a function.
pub(crate) const TIMES: &str = "calls";

/// `1000000` as `1,000,000`.
fn with_commas(number: usize) -> String {
    match (number / 1_000, number % 1_000) {
        (0, rest) => rest.to_string(),
        (thousands, rest) => format!("{},{rest:03}", with_commas(thousands)),
    }
}
