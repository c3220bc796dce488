//! WAIT after a grant reports whether a replica has the lock, for each way of being granted
//! it. An acknowledged lock survives the primary; while no replica replies, WAIT acknowledges
//! nothing.

use gpulock_testkit::{Client, Flavour, Server, call};

use crate::support::queue::{wait_queue, waiter};

tests! {
    an_acknowledged_lock_survives_the_primary,
    nothing_is_acknowledged_while_no_replica_replies,
}

/// The ways in which a client is granted a lock; each is also the key of its lock.
const WAYS: [&str; 5] = ["immediate", "one of two", "released", "lease", "session"];

/// A client that is about to be granted a lock.
struct Candidate {
    way: &'static str,
    client: Client,
    /// The holder before.
    holder: Option<Client>,
}

impl Candidate {
    /// Lets the client wait, for the ways that need it.
    #[track_caller]
    fn prepare(server: &Server, way: &'static str) -> Self {
        if matches!(way, "immediate" | "one of two") {
            return Self { way, client: server.client(), holder: None };
        }
        let mut holder = server.client();
        let held = format!("GPULOCK.ACQUIRE {way} holder PX 600000 SESSION");
        assert!(holder.line(&held).int() > 0);
        let request = format!("GPULOCK.ACQUIRE {way} me PX 600000 BLOCK 0");
        let client = waiter(server, &request);
        wait_queue(&mut holder, way, &["me"]);
        Self { way, client, holder: Some(holder) }
    }

    /// Has the lock granted to the client, and returns the token.
    #[track_caller]
    fn granted(&mut self) -> i64 {
        let (client, holder) = (&mut self.client, self.holder.take());
        match (self.way, holder) {
            ("immediate", _) => {
                client.line("GPULOCK.ACQUIRE immediate me PX 600000").int()
            }
            ("one of two", _) => {
                let request = ["GPULOCK.ACQUIREANY", "2", "one of two", "other", "me"];
                client.cmd(&request).list()[0].list()[1].int()
            }
            ("released", Some(mut holder)) => {
                assert_eq!(holder.line("GPULOCK.RELEASE released holder"), 1);
                client.read().int()
            }
            ("lease", Some(mut holder)) => {
                assert!(holder.line("GPULOCK.EXTEND lease holder PX 1").int() > 0);
                client.read().int()
            }
            (_, session) => {
                drop(session);
                client.read().int()
            }
        }
    }
}

/// A primary with a replica that is in sync, and clients that are about to be granted a lock.
#[track_caller]
fn prepare(flavour: &Flavour) -> (Server, Server, Vec<Candidate>) {
    let primary = flavour.server().named("primary").start();
    let replica = flavour.server().named("replica").replica_of(&primary).start();
    let candidates = WAYS.map(|way| Candidate::prepare(&primary, way)).into();
    // Wait for the acknowledgement of all earlier writes.
    let mut client = primary.client();
    assert_eq!(client.line("SET mark 1"), "OK");
    assert_eq!(client.line("WAIT 1 0"), 1);
    (primary, replica, candidates)
}

fn an_acknowledged_lock_survives_the_primary(flavour: &Flavour) {
    for last in WAYS {
        let (mut primary, replica, mut candidates) = prepare(flavour);
        candidates.sort_by_key(|candidate| candidate.way == last);
        let mut tokens = vec![];
        for candidate in &mut candidates {
            tokens.push((candidate.way, candidate.granted()));
            assert_eq!(candidate.client.line("WAIT 1 0"), 1, "{}", candidate.way);
        }
        primary.kill9();
        let mut client = replica.client();
        assert_eq!(client.line("REPLICAOF NO ONE"), "OK");
        for (way, token) in tokens {
            let refused = call!(client, "GPULOCK.ACQUIRE", way, "a stranger");
            assert!(refused.is_null(), "{way}: {refused:?}");
            assert_eq!(call!(client, "GPULOCK.INSPECT", way).field("owner"), "me");
            let larger = call!(client, "GPULOCK.EXTEND", way, "me").int();
            assert!(larger > token, "{way}: {larger} after {token}");
        }
    }
}

fn nothing_is_acknowledged_while_no_replica_replies(flavour: &Flavour) {
    let (_primary, mut replica, mut candidates) = prepare(flavour);
    replica.freeze();
    for candidate in &mut candidates {
        assert!(candidate.granted() > 0);
        let acknowledged = candidate.client.line("WAIT 1 20");
        assert_eq!(acknowledged, 0, "{}", candidate.way);
    }
    replica.thaw();
    for Candidate { way, client, .. } in &mut candidates {
        assert_eq!(client.line("WAIT 1 0"), 1, "{way}");
    }
}
