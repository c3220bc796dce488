//! While the server is paused, hands over or waits to shut down, and where a slot leaves,
//! the module writes nothing of its own initiative: a write would abort the server, or
//! give one lock to two. Deadlines hold all the same, and everything is made good
//! afterwards.

use std::time::{Duration, Instant};

use gpulock_testkit::{Client, Cluster, Flavour, Server, Value, call, send, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::counters::stats;
use crate::support::queue::{queue_of, wait_queue};

tests! {
    all_is_made_good_after_a_pause_of_writes,
    all_is_made_good_after_a_pause_of_everything,
    all_is_made_good_after_a_failover_that_is_given_up,
    all_is_made_good_after_a_shutdown_that_is_given_up,
    after_a_failover_nothing_is_made_good_on_the_old_primary,
    a_shutdown_that_goes_on_ends_well,
    on_a_server_that_became_a_replica_in_the_pause_nothing_is_made_good,
    a_lock_that_is_migrated_under_its_waiters_has_one_holder,
    in_a_slot_that_leaves_a_release_passes_the_lock_on_and_a_delete_does_not,
    in_a_slot_that_leaves_a_lease_that_ends_passes_nothing_on,
    a_slot_without_keys_moves_from_under_its_waiters,
    slots_migrate_as_a_whole_with_the_module_loaded,
}

/// How long those wait who tell, by their null, that all else is over: the leases and
/// graces that end meanwhile are shorter.
const DEADLINE_MS: u64 = 2_500;

/// How long a pause is that cannot be lifted, since it stops that command too.
const PAUSE_MS: u64 = 6_000;

const MOVING: &str = "TRYAGAIN the slot of this lock is moving, ask again";

/// How the server is kept from being written.
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

    /// Lifts it, and answers when it was over.
    #[track_caller]
    fn end(self, client: &mut Client, stopped: Instant) -> Instant {
        let began = Instant::now();
        let line = match self {
            Self::PauseWrite => "CLIENT UNPAUSE",
            // It answers when the server finds the pause over. Redis 7.0 does so up to a
            // tenth of a second late: idle, it reads the clock no oftener.
            Self::PauseAll => {
                assert_eq!(client.line("PING"), "PONG");
                assert!(stopped.elapsed() > Duration::from_millis(PAUSE_MS - 50));
                return Instant::now();
            }
            Self::Failover => "FAILOVER ABORT",
            Self::Shutdown => "SHUTDOWN ABORT",
        };
        assert_eq!(client.line(line), "OK");
        began
    }
}

/// A primary with an append-only file, and, where it takes one, a replica.
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

    /// Nothing that is written from now on reaches the replica.
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

/// What happens to a lock while the server may not be written, or in the same turn of the
/// loop just before.
const LOCKS: [&str; 6] = [
    // Its lease ends.
    "lease",   // The holder's connection closes.
    "session", // Likewise, and the grace ends too.
    "grace",   // The connection had closed before, and the grace ends.
    "running",
    // Released, and the one who was granted it is gone before it heard: it passes on at once.
    "taken", // Another command deletes the key.
    "deleted",
];

/// A server with a line of `first`, `second` and `late` at each lock, which then may not
/// be written.
struct Scene {
    /// The first of the line who lives, by lock.
    heirs: Vec<(&'static str, &'static str, Client)>,
    /// Who waits behind them.
    others: Vec<Client>,
    /// The one who was granted `taken` and closed in the same turn.
    killed: Option<Client>,
    /// Those whose time is over meanwhile, and since when they waited.
    late: Vec<(Client, Instant)>,
    /// Those that are to close.
    holders: Vec<Client>,
    /// The connection that stopped the server.
    _admin: Client,
    stopped: Instant,
}

impl Scene {
    #[track_caller]
    fn set(pair: &mut Pair, stop: Stop) -> Self {
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
        let (mut heirs, mut others, mut late) = (Vec::new(), Vec::new(), Vec::new());
        let (mut kill, mut killed, mut passed) = (String::new(), None, None);
        for key in LOCKS {
            let ask = |owner: &str| {
                let mut one = server.client();
                let id = one.id();
                send!(one, "GPULOCK.ACQUIRE", key, owner, "PX", 600_000, "BLOCK", 0);
                (one, id)
            };
            let (first, id) = ask("first");
            wait_queue(&mut client, key, &["first"]);
            let (second, _) = ask("second");
            wait_queue(&mut client, key, &["first", "second"]);
            if key == "taken" {
                kill = format!("CLIENT KILL ID {id}");
                (killed, passed) = (Some(first), Some(second));
            } else {
                heirs.push((key, "first", first));
                others.push(second);
            }
        }
        pair.freeze_replica();
        for key in LOCKS {
            let mut one = pair.server.client();
            let began = Instant::now();
            send!(one, "GPULOCK.ACQUIRE", key, "late", "BLOCK", DEADLINE_MS);
            late.push((one, began));
        }
        drop(running);
        wait_until(DEADLINE, "the grace to run", || {
            !client.line("GPULOCK.INSPECT running").field("grace_ms").is_null()
        });
        let begin = stop.begin();
        let stopped = Instant::now();
        admin.send_lines(&[
            "GPULOCK.EXTEND lease holder PX 100",
            "GPULOCK.RELEASE taken holder",
            &kill,
            // Every command of ours finds done what the end of a connection asks for.
            "GPULOCK.INSPECT taken",
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
        assert!(passed.expect("who waited behind it").read().int() > 0);
        if stop == Stop::Shutdown {
            // It answers when it is given up; that it has begun the log tells.
            pair.server.wait_log("aiting for replicas before shutting down");
        }
        Self { heirs, others, killed, late, holders, _admin: admin, stopped }
    }

    /// Lets pass what is to happen in the pause, and checks that nobody is granted
    /// anything.
    #[track_caller]
    fn let_pass(&mut self, stop: Stop) {
        self.holders.clear();
        for (late, began) in &mut self.late {
            assert_eq!(late.read(), Value::Null);
            let took = began.elapsed();
            // Deadlines are kept in whole milliseconds, cut off.
            let deadline = Duration::from_millis(DEADLINE_MS - 1);
            let late_by = took.checked_sub(deadline).expect("not before its time");
            assert!(late_by < Duration::from_secs(2), "{stop:?}: {late_by:?} late");
        }
        assert!(
            stop != Stop::PauseAll
                || self.stopped.elapsed() < Duration::from_millis(PAUSE_MS - 100),
            "too slow a machine"
        );
        for (key, _, heir) in &mut self.heirs {
            assert_eq!(heir.read_within(Duration::ZERO), None, "{stop:?}: {key}");
        }
    }
}

/// How long it took after the pause until each lock was its heir's; and nobody else has
/// one.
#[track_caller]
fn made_good(scene: &mut Scene, pair: &Pair, over: Instant, stop: Stop) -> Vec<Duration> {
    let mut took = Vec::new();
    for (key, _, heir) in &mut scene.heirs {
        let answer = heir.read();
        took.push(Instant::now().saturating_duration_since(over));
        assert!(matches!(answer, Value::Int(1..)), "{stop:?}: {key}: {answer:?}");
    }
    if let Some(killed) = &mut scene.killed {
        killed.wait_closed();
    }
    let mut client = pair.server.client();
    for (key, owner, _) in &scene.heirs {
        assert_eq!(call!(client, "GET", key), *owner, "{stop:?}: {key}");
        assert_eq!(queue_of(&mut client, key), ["second"], "{stop:?}: {key}");
    }
    for other in &mut scene.others {
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

/// The owners that the keys show.
#[track_caller]
fn owners(server: &Server) -> Vec<Value> {
    let mut client = server.client();
    LOCKS.iter().map(|key| call!(client, "GET", key)).collect()
}

#[track_caller]
fn all_is_made_good_after(flavour: &Flavour, stop: Stop) {
    let mut pair = Pair::start(flavour, stop);
    let mut scene = Scene::set(&mut pair, stop);
    scene.let_pass(stop);
    let over = stop.end(&mut pair.server.client(), scene.stopped);
    let mut took = made_good(&mut scene, &pair, over, stop);
    pair.thaw_replica();
    let owners_now = owners(&pair.server);
    if let Some(replica) = &pair.replica {
        replica.wait_link_up();
        replica.wait_caught_up_with(&pair.server);
        assert_eq!(owners(replica), owners_now, "{stop:?}");
    }
    // What the file says is what was so.
    pair.server.restart();
    assert_eq!(owners(&pair.server), owners_now, "{stop:?}");
    took.sort();
    let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
    eprintln!("{stop:?} on {flavour}: median {median:?}, worst {worst:?}");
    assert!(median < Duration::from_millis(500), "{stop:?}: {median:?}");
}

fn all_is_made_good_after_a_pause_of_writes(flavour: &Flavour) {
    all_is_made_good_after(flavour, Stop::PauseWrite);
}

fn all_is_made_good_after_a_pause_of_everything(flavour: &Flavour) {
    all_is_made_good_after(flavour, Stop::PauseAll);
}

fn all_is_made_good_after_a_failover_that_is_given_up(flavour: &Flavour) {
    all_is_made_good_after(flavour, Stop::Failover);
}

fn all_is_made_good_after_a_shutdown_that_is_given_up(flavour: &Flavour) {
    all_is_made_good_after(flavour, Stop::Shutdown);
}

fn after_a_failover_nothing_is_made_good_on_the_old_primary(flavour: &Flavour) {
    let mut pair = Pair::start(flavour, Stop::Failover);
    let mut scene = Scene::set(&mut pair, Stop::Failover);
    scene.let_pass(Stop::Failover);
    pair.thaw_replica();
    for (key, _, heir) in &mut scene.heirs {
        let answer = heir.read();
        assert!(answer.err().starts_with("UNBLOCKED "), "{key}: {answer:?}");
    }
    let old = &pair.server;
    let new = pair.replica.as_ref().expect("a replica");
    wait_until(DEADLINE, "the replica to be the primary", || {
        new.info("replication")["role"] == "master"
    });
    old.wait_link_up();
    old.wait_caught_up_with(new);
    assert_eq!(owners(old), owners(new));
    // What was owed ended with the role: the lease alone holds.
    let mut client = new.client();
    for key in ["session", "grace"] {
        assert_eq!(call!(client, "GET", key), "holder");
        assert_eq!(call!(client, "GPULOCK.ACQUIRE", key, "next"), Value::Null);
        assert!(call!(client, "PTTL", key).int() > 100_000);
    }
    // What the release had granted, and had passed on, had been written before the pause.
    assert_eq!(call!(client, "GET", "taken"), "second");
    for key in ["lease", "running", "deleted"] {
        assert!(call!(client, "GPULOCK.ACQUIRE", key, "next").int() > 0, "{key}");
    }
    assert_eq!(stats(&mut old.client())["locks_held"], 0);
}

fn a_shutdown_that_goes_on_ends_well(flavour: &Flavour) {
    let mut pair = Pair::start(flavour, Stop::Shutdown);
    let mut scene = Scene::set(&mut pair, Stop::Shutdown);
    scene.let_pass(Stop::Shutdown);
    pair.thaw_replica();
    for (key, _, heir) in &mut scene.heirs {
        match heir.try_read(DEADLINE) {
            Err(_) => {}
            Ok(answer) => panic!("{key}: {answer:?}"),
        }
    }
    wait_until(DEADLINE, "the server to be down", || !pair.server.is_running());
    let replica = pair.replica.as_ref().expect("a replica");
    let left = owners(replica);
    pair.server.restart();
    replica.wait_link_up();
    assert_eq!(owners(&pair.server), left);
    assert_eq!(left[1], "holder");
}

fn on_a_server_that_became_a_replica_in_the_pause_nothing_is_made_good(
    flavour: &Flavour,
) {
    let primary = flavour.server().named("primary").start();
    let mut theirs = primary.client();
    for key in LOCKS {
        let held = call!(theirs, "GPULOCK.ACQUIRE", key, "theirs", "PX", 600_000);
        assert!(held.int() > 0);
    }
    let stop = Stop::PauseWrite;
    let mut pair = Pair::start(flavour, stop);
    let mut scene = Scene::set(&mut pair, stop);
    scene.let_pass(stop);
    let mut client = pair.server.client();
    assert_eq!(call!(client, "REPLICAOF", "127.0.0.1", primary.port()), "OK");
    for (key, _, heir) in &mut scene.heirs {
        let answer = heir.read();
        assert!(answer.err().starts_with("UNBLOCKED "), "{key}: {answer:?}");
    }
    assert_eq!(client.line("CLIENT UNPAUSE"), "OK");
    pair.server.wait_link_up();
    pair.server.wait_caught_up_with(&primary);
    assert_eq!(owners(&pair.server), owners(&primary));
    assert_eq!(owners(&primary), vec![Value::Bulk(b"theirs".to_vec()); LOCKS.len()]);
    assert_eq!(stats(&mut client)["locks_held"], 0);
}

/// Two primaries, and a slot that is to go from one to the other.
struct Move {
    cluster: Cluster,
    slot: i64,
    from: usize,
    to: usize,
}

impl Move {
    #[track_caller]
    fn prepare(flavour: &Flavour) -> Self {
        let cluster =
            Cluster::start_with(flavour, 2, |node| node.arg("appendonly", "yes"));
        let (slot, from) = (cluster.slot("k"), cluster.primary_index("k"));
        Self { cluster, slot, from, to: 1 - from }
    }

    fn source(&self) -> &Server {
        &self.cluster.nodes()[self.from]
    }

    fn target(&self) -> &Server {
        &self.cluster.nodes()[self.to]
    }

    #[track_caller]
    fn set(&self, on: &Server, state: &str, node: usize) {
        let (mut client, id) = (on.client(), self.cluster.id(node));
        assert_eq!(call!(client, "CLUSTER", "SETSLOT", self.slot, state, id), "OK");
    }

    #[track_caller]
    fn begin(&self) {
        self.set(self.target(), "IMPORTING", self.from);
        self.set(self.source(), "MIGRATING", self.to);
    }

    #[track_caller]
    fn end(&self) {
        self.set(self.target(), "NODE", self.to);
        self.set(self.source(), "NODE", self.to);
    }

    /// Two who wait for `k` on the source, the first of them by UNIQUE.
    #[track_caller]
    fn waiters(&self, client: &mut Client) -> [Client; 2] {
        let (mut first, mut second) = (self.source().client(), self.source().client());
        first.send_lines(&["GPULOCK.ACQUIRE k first BLOCK 0 UNIQUE"]);
        wait_queue(client, "k", &["first"]);
        second.send_lines(&["GPULOCK.ACQUIRE k second BLOCK 0 SESSION"]);
        wait_queue(client, "k", &["first", "second"]);
        [first, second]
    }
}

/// Checks that each is told once, within a second and what a busy machine adds, to ask again.
#[track_caller]
fn told_to_ask_again(waiters: &mut [Client], since: Instant) {
    for waiter in &mut *waiters {
        assert_eq!(waiter.read().err(), MOVING);
    }
    let took = since.elapsed();
    eprintln!("told after {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    for waiter in waiters {
        assert_eq!(waiter.line("PING"), "PONG");
    }
}

/// Checks that `me` holds the lock at the target, and that it goes on to the next there.
#[track_caller]
fn goes_on_at_the_target(moved: &Move) {
    let mut there = moved.target().client();
    assert_eq!(there.line("GET k"), "me");
    let mut next = moved.target().client();
    next.send_lines(&["GPULOCK.ACQUIRE k next BLOCK 0"]);
    wait_queue(&mut there, "k", &["next"]);
    assert_eq!(there.line("GPULOCK.RELEASE k me"), 1);
    assert!(next.read().int() > 0);
    let mut here = moved.source().client();
    assert!(here.line("GPULOCK.INSPECT k").err().starts_with("MOVED "));
    assert_eq!(stats(&mut here)["locks_held"], 0);
}

fn a_lock_that_is_migrated_under_its_waiters_has_one_holder(flavour: &Flavour) {
    let moved = Move::prepare(flavour);
    let mut client = moved.source().client();
    let mut holder = moved.source().client();
    let held = "GPULOCK.ACQUIRE k me PX 600000 SESSION";
    assert!(holder.line(held).int() > 0);
    let mut waiters = moved.waiters(&mut client);
    moved.begin();
    // Half-way, and all is as before.
    assert_eq!(queue_of(&mut client, "k"), ["first", "second"]);
    let since = Instant::now();
    let port = moved.target().port();
    let answer = call!(client, "MIGRATE", "127.0.0.1", port, "k", 0, 5_000);
    assert_eq!(answer, "OK");
    told_to_ask_again(&mut waiters, since);
    // The session ended with the lock's time here.
    drop(holder);
    let stats = stats(&mut client);
    assert_eq!((stats["moved"], stats["acquired_after_wait"]), (1, 0));
    assert_eq!((stats["session_releases"], stats["clients_waiting"]), (0, 0));
    moved.end();
    goes_on_at_the_target(&moved);
}

fn in_a_slot_that_leaves_a_release_passes_the_lock_on_and_a_delete_does_not(
    flavour: &Flavour,
) {
    let moved = Move::prepare(flavour);
    let mut client = moved.source().client();
    assert!(client.line("GPULOCK.ACQUIRE k me PX 600000").int() > 0);
    let mut waiters = moved.waiters(&mut client);
    moved.begin();
    // The key is here, and so is the lock.
    assert_eq!(client.line("GPULOCK.RELEASE k me"), 1);
    assert!(waiters[0].read().int() > 0);
    assert_eq!(queue_of(&mut client, "k"), ["second"]);
    let since = Instant::now();
    assert_eq!(client.line("DEL k"), 1);
    told_to_ask_again(&mut waiters[1..], since);
    moved.end();
    let mut there = moved.target().client();
    assert!(there.line("GPULOCK.ACQUIRE k me").int() > 0);
    goes_on_at_the_target(&moved);
}

fn in_a_slot_that_leaves_a_lease_that_ends_passes_nothing_on(flavour: &Flavour) {
    let moved = Move::prepare(flavour);
    let mut client = moved.source().client();
    assert!(client.line("GPULOCK.ACQUIRE k me PX 600000").int() > 0);
    let mut waiters = moved.waiters(&mut client);
    moved.begin();
    let since = Instant::now();
    assert!(client.line("GPULOCK.EXTEND k me PX 1").int() > 0);
    told_to_ask_again(&mut waiters, since);
    assert_eq!(stats(&mut client)["acquired_after_wait"], 0);
    moved.end();
    let mut there = moved.target().client();
    assert!(there.line("GPULOCK.ACQUIRE k me").int() > 0);
    goes_on_at_the_target(&moved);
}

fn a_slot_without_keys_moves_from_under_its_waiters(flavour: &Flavour) {
    let moved = Move::prepare(flavour);
    let mut client = moved.source().client();
    assert!(client.line("GPULOCK.ACQUIRE k me PX 600000").int() > 0);
    let mut waiters = moved.waiters(&mut client);
    let id = moved.cluster.id(moved.to);
    let since = Instant::now();
    client.send_lines(&["DEL k", &format!("CLUSTER SETSLOT {} NODE {id}", moved.slot)]);
    assert_eq!(client.read(), 1);
    assert_eq!(client.read(), "OK");
    moved.set(moved.target(), "NODE", moved.to);
    told_to_ask_again(&mut waiters, since);
    assert_eq!(stats(&mut client)["acquired_after_wait"], 0);
    let mut there = moved.target().client();
    assert!(there.line("GPULOCK.ACQUIRE k me").int() > 0);
    goes_on_at_the_target(&moved);
}

fn slots_migrate_as_a_whole_with_the_module_loaded(flavour: &Flavour) {
    if !flavour.is_valkey() || flavour.version() < (9, 0, 0) {
        return;
    }
    let moved = Move::prepare(flavour);
    let mut client = moved.source().client();
    assert!(client.line("GPULOCK.ACQUIRE k me PX 600000 SESSION").int() > 0);
    let mut waiters = moved.waiters(&mut client);
    let (slot, id) = (moved.slot, moved.cluster.id(moved.to));
    let migrate = format!("CLUSTER MIGRATESLOTS SLOTSRANGE {slot} {slot} NODE {id}");
    assert_eq!(client.line(&migrate), "OK");
    let mut waiting = moved.source().client();
    wait_until(DEADLINE, "the slot to move", || {
        waiting.line("GPULOCK.INSPECT k").is_err()
    });
    told_to_ask_again(&mut waiters, Instant::now());
    let stats = stats(&mut client);
    assert_eq!((stats["moved"], stats["acquired_after_wait"]), (1, 0));
    wait_until(DEADLINE, "the target to know", || {
        !moved.target().client().line("GET k").is_err()
    });
    goes_on_at_the_target(&moved);
}
