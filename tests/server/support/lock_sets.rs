//! Waiters for several locks, and reserved locks.

use std::time::Duration;

use gpulock_testkit::{Client, Flavour, Server, Value, call, wait_until};

use super::clock::DEADLINE;
use super::locks::{acquire_each, granted};
use super::queue::{assert_no_reply, wait_queue, waiter};

/// A request for two locks, by the owner `both`.
pub(crate) const BOTH: &str = "GPULOCK.ACQUIREANY 2 k1 k2 both COUNT 2 BLOCK 0";

/// 10 ms on an idle machine; a busy one may add to that.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(5);

/// A new waiter, once the queue of a key is `queue`, with this waiter last.
#[track_caller]
pub(crate) fn join_as(
    server: &Server,
    observer: &mut Client,
    request: &str,
    key: &str,
    queue: &[&str],
) -> Client {
    let client = waiter(server, request);
    wait_queue(observer, key, queue);
    client
}

/// Releases locks, one by one.
#[track_caller]
pub(crate) fn release(client: &mut Client, keys: &[&str], owner: &str) {
    for key in keys {
        assert_eq!(call!(client, "GPULOCK.RELEASE", key, owner), 1, "{key} of {owner}");
    }
}

/// The keys that a waiter is granted, in the order of the reply.
#[track_caller]
pub(crate) fn served(waiter: &mut Client) -> Vec<String> {
    let reply = waiter.read();
    let pairs = granted(&reply);
    assert!(pairs.is_sorted_by_key(|(_, token)| *token), "{reply:?}");
    pairs.into_iter().map(|(key, _)| key).collect()
}

/// The owner for which a lock is reserved.
#[track_caller]
pub(crate) fn reserved_for(client: &mut Client, key: &str) -> Option<String> {
    let seen = call!(client, "GPULOCK.INSPECT", key);
    let owner = if seen.is_null() { Value::Null } else { seen.field("reserved_for") };
    (!owner.is_null()).then(|| owner.text())
}

/// Waits until a lock is reserved for an owner.
#[track_caller]
pub(crate) fn wait_reserved(client: &mut Client, key: &str, owner: &str) {
    wait_until(DEADLINE, format!("{key} to be reserved for {owner}"), || {
        reserved_for(client, key).as_deref() == Some(owner)
    });
}

/// The keys reserved for the first waiter in the queue of a lock.
#[track_caller]
pub(crate) fn reserved_for_first(client: &mut Client, key: &str) -> Vec<String> {
    let waiters = call!(client, "GPULOCK.INSPECT", key).field("waiters");
    let reserved = waiters.list()[0].field("reserved");
    reserved.list().iter().map(Value::text).collect()
}

/// Two locks of `holder`, and a waiter that wants both.
pub(crate) struct TwoLocks {
    pub(crate) server: Server,
    pub(crate) actor: Client,
    pub(crate) both: Client,
    /// The client id of `both`.
    pub(crate) id: i64,
}

impl TwoLocks {
    #[track_caller]
    pub(crate) fn start(flavour: &Flavour, request: &str) -> Self {
        let server = flavour.start();
        let (mut actor, mut both) = (server.client(), server.client());
        acquire_each(&mut actor, &["k1", "k2"], "holder");
        let id = both.id();
        both.send_lines(&[request]);
        wait_queue(&mut actor, "k1", &["both"]);
        wait_queue(&mut actor, "k2", &["both"]);
        Self { server, actor, both, id }
    }

    /// Releases the first lock, which is then reserved.
    #[track_caller]
    pub(crate) fn reserve_k1(&mut self) {
        release(&mut self.actor, &["k1"], "holder");
        assert_eq!(reserved_for(&mut self.actor, "k1").as_deref(), Some("both"));
        assert_no_reply(&mut self.actor, &mut self.both);
    }
}
