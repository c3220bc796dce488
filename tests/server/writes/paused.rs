//! While the server is paused, fails over or waits to shut down, the module writes nothing by
//! itself: a write would crash the server or give a lock two owners. Waits still time out, and
//! afterwards all deferred work runs.

use std::time::{Duration, Instant};

use gpulock_testkit::{Client, Flavour, Server, Value, call, send, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::counters::stats;
use crate::support::queue::{queue_of, wait_queue};

tests! {
    deferred_work_runs_after_a_pause_of_writes,
    deferred_work_runs_after_a_pause_of_all_commands,
    deferred_work_runs_after_an_aborted_failover,
    deferred_work_runs_after_an_aborted_shutdown,
    deferred_work_ends_on_the_old_primary_after_a_failover,
    a_continued_shutdown_succeeds,
    deferred_work_ends_on_a_server_demoted_in_the_pause,
}

/// The wait timeout of clients whose null shows that the pause has lasted long enough: leases
/// and grace periods that end in it are shorter.
const DEADLINE_MS: u64 = 2_500;

/// The duration of a pause of all commands, which cannot be ended early.
const PAUSE_MS: u64 = 6_000;

/// Why the server cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    PauseWrite,
    PauseAll,
    Failover,
    Shutdown,
}

impl Stop {
    fn needs_replica(self) -> bool {
        matches!(self, Self::Failover | Self::Shutdown)
    }

    fn begin(self) -> String {
        match self {
            Self::PauseWrite => "CLIENT PAUSE 600000 WRITE".to_owned(),
            Self::PauseAll => format!("CLIENT PAUSE {PAUSE_MS} ALL"),
            Self::Failover => "FAILOVER".to_owned(),
            Self::Shutdown => "SHUTDOWN NOSAVE".to_owned(),
        }
    }

    /// Ends it, and returns the time of its end.
    #[track_caller]
    fn end(self, client: &mut Client, stopped: Instant) -> Instant {
        let start = Instant::now();
        let line = match self {
            Self::PauseWrite => "CLIENT UNPAUSE",
            // The reply comes when the server notices the end of the pause. Redis 7.0 does so up
            // to a tenth of a second late: when idle, it reads the clock every 100 ms.
            Self::PauseAll => {
                assert_eq!(client.line("PING"), "PONG");
                assert!(stopped.elapsed() > Duration::from_millis(PAUSE_MS - 50));
                return Instant::now();
            }
            Self::Failover => "FAILOVER ABORT",
            Self::Shutdown => "SHUTDOWN ABORT",
        };
        assert_eq!(client.line(line), "OK");
        start
    }
}

/// A primary with an append-only file and, if needed, a replica.
struct Pair {
    server: Server,
    replica: Option<Server>,
}

impl Pair {
    #[track_caller]
    fn start(flavour: &Flavour, stop: Stop) -> Self {
        let builder = flavour.server().named("primary").arg("appendonly", "yes");
        let server = builder.arg("shutdown-timeout", 600).start();
        let replica = stop.needs_replica().then(|| {
            let builder = flavour.server().named("replica").arg("appendonly", "yes");
            builder.replica_of(&server).start()
        });
        Self { server, replica }
    }

    /// Makes the replica receive no further writes.
    fn freeze_replica(&mut self) {
        if let Some(replica) = &mut self.replica {
            replica.freeze();
        }
    }

    fn thaw_replica(&mut self) {
        if let Some(replica) = &mut self.replica {
            replica.thaw();
        }
    }
}

/// Locks by what happens to them while the server cannot be written, or in the same iteration
/// of the event loop just before.
#[rustfmt::skip]
const LOCKS: [&str; 6] = [
    "lease",    // The lease ends.
    "session",  // The holder disconnects.
    "grace",    // The holder disconnects, and the grace period ends.
    "running",  // The holder disconnected before, and the grace period ends.
    "released", // Its new holder is killed in the same iteration: it is handed off at once.
    "deleted",  // Another command deletes the key.
];

/// A server with the waiters `first`, `second` and `late` for each lock, which then cannot be
/// written.
struct Locks {
    /// The first connected waiter of each lock.
    next_waiters: Vec<(&'static str, &'static str, Client)>,
    /// The waiters behind them.
    others: Vec<Client>,
    /// The waiter that was granted `released` and killed in the same iteration.
    killed: Option<Client>,
    /// The waiters that time out in the meantime, and the start of their waits.
    late: Vec<(Client, Instant)>,
    /// The connections to close.
    holders: Vec<Client>,
    /// The connection that stopped the writes.
    _admin: Client,
    stopped: Instant,
}

impl Locks {
    #[track_caller]
    fn prepare(pair: &mut Pair, stop: Stop) -> Self {
        let server = &pair.server;
        let (mut client, mut admin) = (server.client(), server.client());
        let mut holders = Vec::new();
        let mut running = None;
        for key in LOCKS {
            let mut holder = server.client();
            let options = match key {
                "session" => "SESSION",
                "grace" => "SESSION GRACE 100",
                "running" => "SESSION GRACE 2000",
                _ => "",
            };
            let held = format!("GPULOCK.ACQUIRE {key} holder PX 600000 {options}");
            assert!(holder.line(&held).int() > 0);
            match key {
                "session" | "grace" => holders.push(holder),
                "running" => running = Some(holder),
                _ => {}
            }
        }
        let (mut next_waiters, mut others, mut late) =
            (Vec::new(), Vec::new(), Vec::new());
        let (mut kill, mut killed, mut handed_off) = (String::new(), None, None);
        for key in LOCKS {
            let join = |owner: &str| {
                let mut one = server.client();
                let id = one.id();
                send!(one, "GPULOCK.ACQUIRE", key, owner, "PX", 600_000, "BLOCK", 0);
                (one, id)
            };
            let (first, id) = join("first");
            wait_queue(&mut client, key, &["first"]);
            let (second, _) = join("second");
            wait_queue(&mut client, key, &["first", "second"]);
            if key == "released" {
                kill = format!("CLIENT KILL ID {id}");
                (killed, handed_off) = (Some(first), Some(second));
            } else {
                next_waiters.push((key, "first", first));
                others.push(second);
            }
        }
        pair.freeze_replica();
        for key in LOCKS {
            let mut one = pair.server.client();
            let start = Instant::now();
            send!(one, "GPULOCK.ACQUIRE", key, "late", "BLOCK", DEADLINE_MS);
            late.push((one, start));
        }
        drop(running);
        wait_until(DEADLINE, "the grace period", || {
            !client.line("GPULOCK.INSPECT running").field("grace_ms").is_null()
        });
        let begin = stop.begin();
        let stopped = Instant::now();
        admin.send_lines(&[
            "GPULOCK.EXTEND lease holder PX 100",
            "GPULOCK.RELEASE released holder",
            &kill,
            // A command of the module runs the deferred work for closed connections first.
            "GPULOCK.INSPECT released",
            "DEL deleted",
            &begin,
        ]);
        assert!(admin.read().int() > 0);
        assert_eq!([admin.read(), admin.read()], [1, 1].map(Value::Int));
        assert_eq!(admin.read().field("owner"), "second");
        assert_eq!(admin.read(), 1);
        if stop != Stop::Shutdown {
            assert_eq!(admin.read(), "OK");
        }
        assert!(handed_off.expect("the second waiter").read().int() > 0);
        if stop == Stop::Shutdown {
            // It has no reply before it is aborted; the log shows its start.
            pair.server.wait_log("aiting for replicas before shutting down");
        }
        Self { next_waiters, others, killed, late, holders, _admin: admin, stopped }
    }

    /// Waits until everything has happened that happens in the pause, and checks that no lock is
    /// granted.
    #[track_caller]
    fn wait_through(&mut self, stop: Stop) {
        self.holders.clear();
        for (late, start) in &mut self.late {
            assert_eq!(late.read(), Value::Null);
            let took = start.elapsed();
            // Times are truncated to whole milliseconds.
            let deadline = Duration::from_millis(DEADLINE_MS - 1);
            let late_by = took.checked_sub(deadline).expect("not early");
            assert!(late_by < Duration::from_secs(2), "{stop:?}: {late_by:?} late");
        }
        assert!(
            stop != Stop::PauseAll
                || self.stopped.elapsed() < Duration::from_millis(PAUSE_MS - 100),
            "the machine is too slow"
        );
        for (key, _, next) in &mut self.next_waiters {
            assert_eq!(next.read_within(Duration::ZERO), None, "{stop:?}: {key}");
        }
    }
}

/// The time from the end of the pause to each grant. Checks that no other client is granted a
/// lock.
#[track_caller]
fn assert_deferred_work_done(
    locks: &mut Locks,
    pair: &Pair,
    end: Instant,
    stop: Stop,
) -> Vec<Duration> {
    let mut took = Vec::new();
    for (key, _, next) in &mut locks.next_waiters {
        let reply = next.read();
        took.push(Instant::now().saturating_duration_since(end));
        assert!(matches!(reply, Value::Int(1..)), "{stop:?}: {key}: {reply:?}");
    }
    if let Some(killed) = &mut locks.killed {
        killed.wait_closed();
    }
    let mut client = pair.server.client();
    for (key, owner, _) in &locks.next_waiters {
        assert_eq!(call!(client, "GET", key), *owner, "{stop:?}: {key}");
        assert_eq!(queue_of(&mut client, key), ["second"], "{stop:?}: {key}");
    }
    for other in &mut locks.others {
        assert_eq!(other.read_within(Duration::ZERO), None, "{stop:?}");
    }
    let stats = stats(&mut client);
    for (name, count) in [
        ("session_releases", 3),
        ("expired", 1),
        ("removed", 1),
        ("undelivered", 1),
        ("releases", 1),
        ("wait_timeouts", 6),
        ("locks_held", 6),
        ("internal_errors", 0),
    ] {
        assert_eq!(stats[name], count, "{name}: {stop:?}");
    }
    took
}

/// The owners of the locks.
#[track_caller]
fn owners(server: &Server) -> Vec<Value> {
    let mut client = server.client();
    LOCKS.iter().map(|key| call!(client, "GET", key)).collect()
}

#[track_caller]
fn assert_deferred_work_runs_after(flavour: &Flavour, stop: Stop) {
    let mut pair = Pair::start(flavour, stop);
    let mut locks = Locks::prepare(&mut pair, stop);
    locks.wait_through(stop);
    let end = stop.end(&mut pair.server.client(), locks.stopped);
    let mut took = assert_deferred_work_done(&mut locks, &pair, end, stop);
    pair.thaw_replica();
    let owners_after = owners(&pair.server);
    if let Some(replica) = &pair.replica {
        replica.wait_link_up();
        replica.wait_caught_up_with(&pair.server);
        assert_eq!(owners(replica), owners_after, "{stop:?}");
    }
    // The append-only file has the same owners.
    pair.server.restart();
    assert_eq!(owners(&pair.server), owners_after, "{stop:?}");
    took.sort();
    let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
    eprintln!("{stop:?} on {flavour}: median {median:?}, worst {worst:?}");
    assert!(median < Duration::from_millis(500), "{stop:?}: {median:?}");
}

fn deferred_work_runs_after_a_pause_of_writes(flavour: &Flavour) {
    assert_deferred_work_runs_after(flavour, Stop::PauseWrite);
}

fn deferred_work_runs_after_a_pause_of_all_commands(flavour: &Flavour) {
    assert_deferred_work_runs_after(flavour, Stop::PauseAll);
}

fn deferred_work_runs_after_an_aborted_failover(flavour: &Flavour) {
    assert_deferred_work_runs_after(flavour, Stop::Failover);
}

fn deferred_work_runs_after_an_aborted_shutdown(flavour: &Flavour) {
    assert_deferred_work_runs_after(flavour, Stop::Shutdown);
}

fn deferred_work_ends_on_the_old_primary_after_a_failover(flavour: &Flavour) {
    let mut pair = Pair::start(flavour, Stop::Failover);
    let mut locks = Locks::prepare(&mut pair, Stop::Failover);
    locks.wait_through(Stop::Failover);
    pair.thaw_replica();
    for (key, _, next) in &mut locks.next_waiters {
        let reply = next.read();
        assert!(reply.err().starts_with("UNBLOCKED "), "{key}: {reply:?}");
    }
    let old = &pair.server;
    let new = pair.replica.as_ref().expect("a replica");
    wait_until(DEADLINE, "the replica to be promoted", || {
        new.info("replication")["role"] == "master"
    });
    old.wait_link_up();
    old.wait_caught_up_with(new);
    assert_eq!(owners(old), owners(new));
    // The deferred work ended with the role: these locks end with their leases.
    let mut client = new.client();
    for key in ["session", "grace"] {
        assert_eq!(call!(client, "GET", key), "holder");
        assert_eq!(call!(client, "GPULOCK.ACQUIRE", key, "next"), Value::Null);
        assert!(call!(client, "PTTL", key).int() > 100_000);
    }
    // The hand-off of the released lock was written before the pause.
    assert_eq!(call!(client, "GET", "released"), "second");
    for key in ["lease", "running", "deleted"] {
        assert!(call!(client, "GPULOCK.ACQUIRE", key, "next").int() > 0, "{key}");
    }
    assert_eq!(stats(&mut old.client())["locks_held"], 0);
}

fn a_continued_shutdown_succeeds(flavour: &Flavour) {
    let mut pair = Pair::start(flavour, Stop::Shutdown);
    let mut locks = Locks::prepare(&mut pair, Stop::Shutdown);
    locks.wait_through(Stop::Shutdown);
    pair.thaw_replica();
    for (key, _, next) in &mut locks.next_waiters {
        match next.try_read(DEADLINE) {
            Err(_) => {}
            Ok(reply) => panic!("{key}: {reply:?}"),
        }
    }
    wait_until(DEADLINE, "the server to exit", || !pair.server.is_running());
    let replica = pair.replica.as_ref().expect("a replica");
    let left = owners(replica);
    pair.server.restart();
    replica.wait_link_up();
    assert_eq!(owners(&pair.server), left);
    assert_eq!(left[1], "holder");
}

fn deferred_work_ends_on_a_server_demoted_in_the_pause(flavour: &Flavour) {
    let primary = flavour.server().named("primary").start();
    let mut other = primary.client();
    for key in LOCKS {
        let held = call!(other, "GPULOCK.ACQUIRE", key, "other", "PX", 600_000);
        assert!(held.int() > 0);
    }
    let stop = Stop::PauseWrite;
    let mut pair = Pair::start(flavour, stop);
    let mut locks = Locks::prepare(&mut pair, stop);
    locks.wait_through(stop);
    let mut client = pair.server.client();
    assert_eq!(call!(client, "REPLICAOF", "127.0.0.1", primary.port()), "OK");
    for (key, _, next) in &mut locks.next_waiters {
        let reply = next.read();
        assert!(reply.err().starts_with("UNBLOCKED "), "{key}: {reply:?}");
    }
    assert_eq!(client.line("CLIENT UNPAUSE"), "OK");
    pair.server.wait_link_up();
    pair.server.wait_caught_up_with(&primary);
    assert_eq!(owners(&pair.server), owners(&primary));
    assert_eq!(owners(&primary), vec![Value::Bulk(b"other".to_vec()); LOCKS.len()]);
    assert_eq!(stats(&mut client)["locks_held"], 0);
}
