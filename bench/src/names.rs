//! The words that figures go by: the parts of the bench, its peers and what is measured.
//! Tables, plots and targets look figures up by them, so they stand here once.

/// Taking a free lock and giving it back.
pub(crate) const PAIR: &str = "pair";
/// One lock that passes from worker to worker.
pub(crate) const HAND_OFF: &str = "hand-off";
/// A hand-off with few and with many clients in line.
pub(crate) const IN_LINE: &str = "in line";
/// Few and many locks held.
pub(crate) const HELD: &str = "held";
/// Taking one lock of a pool.
pub(crate) const POOLS: &str = "pools";
/// From the death of a holder to the next.
pub(crate) const RECOVERY: &str = "recovery";
/// Until a command under a lock has begun, and is over.
pub(crate) const START: &str = "start";
/// What other people's commands cost.
pub(crate) const BYSTANDERS: &str = "bystanders";

/// Where the instructions of our pair go.
pub(crate) const CALLS: &str = "calls";
/// Memory of clients that wait.
pub(crate) const WAITERS: &str = "waiters";

/// Nobody is told of anything.
pub(crate) const EVENTS_OFF: &str = "events off";
/// A message at each release, the default; nobody listens.
pub(crate) const EVENTS_ON: &str = "events on";
/// With an append-only file, written to the disk each second.
pub(crate) const AOF: &str = "AOF";
/// With one replica.
pub(crate) const REPLICA: &str = "replica";

/// A lock that is named, not one of a pool.
pub(crate) const ONE_LOCK: &str = "one lock";
/// A pool that nobody else uses.
pub(crate) fn all_free(size: usize) -> String {
    format!("one of {size}, all free")
}
/// A pool in which the lock named last is the only free one.
pub(crate) fn last_free(size: usize) -> String {
    format!("one of {size}, the last free")
}
/// How large the pools are.
pub(crate) const POOL_SIZES: [usize; 3] = [8, 64, 512];

/// So many processes want one lock.
pub(crate) fn workers(count: usize) -> String {
    format!("{count} workers")
}
/// How many workers the targets speak of.
pub(crate) const WORKERS: usize = 8;
/// How many are in line.
pub(crate) const WAITING: [usize; 4] = [10, 100, 1_000, 10_000];
/// How many locks are held.
pub(crate) const HELD_COUNTS: [usize; 4] = [10, 1_000, 100_000, 1_000_000];

/// Clients in line for one lock.
pub(crate) fn waiting(clients: usize) -> String {
    format!("{} waiting", in_thousands(clients))
}
/// Locks that are held.
pub(crate) fn held(locks: usize) -> String {
    format!("{} held", in_thousands(locks))
}
/// The least that a waiter can ask for.
pub(crate) const FOR_ONE_LOCK: &str = "1,000 waiting for one lock";
/// The most.
pub(crate) const FOR_OWN_LOCK: &str = "1,000 waiting each for its own, UNIQUE SESSION";

/// The holder's lock ends with its connection.
pub(crate) const SESSION: &str = "SESSION";
/// The holder's lock ends with its lease alone.
pub(crate) const LEASE: &str = "a lease of 1 s";

/// The command, without a lock.
pub(crate) const NO_LOCK: &str = "the command alone";
/// The lock of a file, of util-linux.
pub(crate) const FLOCK: &str = "flock";
/// The command `gpulock`.
pub(crate) const GPULOCK_RUN: &str = "gpulock run";
/// How a command is run.
pub(crate) const RUNS: [&str; 3] = [NO_LOCK, FLOCK, GPULOCK_RUN];
/// Until the first byte of its output.
pub(crate) const TO_OUTPUT: &str = "until its first output";
/// Until whoever started it has its status.
pub(crate) const TO_STATUS: &str = "until its status";

/// A server without the module, with as many keys as locks elsewhere.
pub(crate) const NO_MODULE: &str = "no module";
/// Locks are held, nobody waits.
pub(crate) const LOCKS_HELD: &str = "1,000 locks held";
/// As [`NO_MODULE`], with as many idle clients as wait elsewhere.
pub(crate) const IDLE_CLIENTS: &str = "no module, 100 idle clients";
/// Clients wait for some of the locks.
pub(crate) const CLIENTS_WAITING: &str = "100 clients waiting";

/// `GPULOCK.ACQUIRE` and `GPULOCK.RELEASE`.
pub(crate) const OURS: &str = "GPULOCK";
/// Two commands that do nothing: the server's own limit.
pub(crate) const PING: &str = "PING, PING";
/// Two reads.
pub(crate) const GET: &str = "GET, GET";
/// The native pair, which compares no owner.
pub(crate) const NATIVE: &str = "SET NX PX, DEL";
/// The native wait.
pub(crate) const BLPOP: &str = "BLPOP";
/// What the server asks for a client that any module lets wait (`bench/blocks.c`).
pub(crate) const BLOCKS: &str = "a module that only blocks";
/// The native compare-and-delete of Valkey 9.
pub(crate) const DELIFEQ: &str = "SET NX PX, DELIFEQ";
/// What most lock libraries do.
pub(crate) const SET_EVALSHA: &str = "SET NX PX, EVALSHA";
/// The Lua pair of the replaced system.
pub(crate) const LUA: &str = "EVALSHA, EVALSHA";
/// The same two scripts as functions of a library in the server.
pub(crate) const FCALL: &str = "FCALL, FCALL";

/// redis-py's `Lock` as it comes (looks every 100 ms).
pub(crate) const REDIS_PY: &str = "redis-py Lock";
/// redis-py's `Lock` that looks every millisecond.
pub(crate) const REDIS_PY_1MS: &str = "redis-py Lock, sleep=0.001";
/// python-redis-lock, which waits by `BLPOP`.
pub(crate) const PYTHON_REDIS_LOCK: &str = "python-redis-lock";
/// The scheme of the replaced system: a message at each release, then `SET NX` by all.
pub(crate) const PUBSUB: &str = "pub/sub and Lua";

/// Who is measured at a hand-off.
pub(crate) const HAND_OFF_PEERS: [&str; 5] =
    [OURS, REDIS_PY, REDIS_PY_1MS, PYTHON_REDIS_LOCK, PUBSUB];
/// Who is measured with few and with many in line.
pub(crate) const IN_LINE_PEERS: [&str; 3] = [OURS, NATIVE, BLOCKS];

/// Instructions, under callgrind.
pub(crate) const INSTRUCTIONS: &str = "instructions";
/// CPU time of the server's process, user and system, by the operating system.
pub(crate) const CPU_US: &str = "server CPU, us";
/// Times by the clock.
pub(crate) const P50_MS: &str = "p50, ms";
/// As [`P50_MS`].
pub(crate) const P99_MS: &str = "p99, ms";
/// As [`P50_MS`].
pub(crate) const MAX_MS: &str = "max, ms";
/// So many times a second.
pub(crate) const RATE: &str = "a second";
/// Commands that the server ran, those in scripts too.
pub(crate) const COMMANDS: &str = "commands";
/// Jain's index of fairness: 1 when all have the same share.
pub(crate) const JAIN: &str = "Jain";
/// The longest run of hand-offs that somebody sat out.
pub(crate) const SAT_OUT: &str = "longest sat out";
/// Memory by `used_memory`.
pub(crate) const BYTES: &str = "bytes";
/// Entries of the slow log.
pub(crate) const SLOW: &str = "commands over 2 ms";
/// CPU time between the beginning of 50 commands and that of the next 50, the most of all.
pub(crate) const BATCH_MS: &str = "most server CPU for 50 commands, ms";
/// How often a function is called.
pub(crate) const TIMES: &str = "times";

/// 1,000,000 is easier to read than 1000000.
fn in_thousands(number: usize) -> String {
    match (number / 1_000, number % 1_000) {
        (0, rest) => rest.to_string(),
        (thousands, rest) => format!("{},{rest:03}", in_thousands(thousands)),
    }
}
