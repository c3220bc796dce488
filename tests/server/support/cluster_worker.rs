//! A client of a cluster that competes for locks: it waits for one or for several at once,
//! holds them, and ends its hold in a random way. [`Ownership`] checks each step.

use fastrand::Rng;
use gpulock_testkit::{Cluster, Value};

use super::cluster_client::ClusterClient;
use super::ownership::Ownership;
use super::rng::{Pick, seeded_rng};

pub(crate) struct ClusterWorker<'a> {
    name: &'static str,
    /// The number of holds so far. Each has an owner name of its own: with the same name, a
    /// hold whose lease is about to end would be renewed.
    holds: usize,
    /// The lock sets to choose from.
    lock_sets: &'a [&'a [&'a str]],
    ownership: &'a Ownership,
    client: ClusterClient,
    rng: Rng,
}

impl<'a> ClusterWorker<'a> {
    pub(crate) fn new(
        name: &'static str,
        cluster: &Cluster,
        lock_sets: &'a [&'a [&'a str]],
        ownership: &'a Ownership,
    ) -> Self {
        let (client, rng) = (ClusterClient::new(cluster), seeded_rng());
        Self { name, holds: 0, lock_sets, ownership, client, rng }
    }

    /// Waits for a lock set, holds it and ends the hold.
    pub(crate) fn hold_once(&mut self) {
        self.holds += 1;
        let owner = format!("{}{}", self.name, self.holds);
        let lock_set = self.rng.pick(self.lock_sets);
        let request = self.request(lock_set, &owner);
        let reply = self.client.line(&format!("{request} BLOCK 0"));
        for (key, token) in granted(lock_set, &reply) {
            self.ownership.granted(&key, &owner, token);
        }
        for (key, token) in granted(lock_set, &self.client.line(&request)) {
            self.ownership.renewed(&key, &owner, token);
        }
        for key in lock_set {
            self.ownership.ends(key, &owner);
        }
        self.end(lock_set, &owner);
    }

    fn request(&mut self, lock_set: &[&str], owner: &str) -> String {
        let options = format!("PX 600000 UNIQUE {}", self.rng.pick(&["", "SESSION"]));
        match lock_set {
            [key] => format!("GPULOCK.ACQUIRE {key} {owner} {options}"),
            keys => {
                let (count, keys) = (keys.len(), keys.join(" "));
                let any = format!("GPULOCK.ACQUIREANY {count} {keys} {owner}");
                format!("{any} COUNT {count} {options}")
            }
        }
    }

    fn end(&mut self, lock_set: &[&str], owner: &str) {
        let way = self.rng.usize(..4);
        if way == 0 {
            // A hold without SESSION, or with the session of another node, outlives the
            // connections; it is released below.
            self.client.disconnect();
        }
        for key in lock_set {
            let release = format!("GPULOCK.RELEASE {key} {owner}");
            let shorten = format!("GPULOCK.EXTEND {key} {owner} PX 2");
            match way {
                0 => {
                    let released = self.client.line(&release);
                    assert!(matches!(released, Value::Int(0 | 1)), "{key}: {released:?}");
                }
                1 => assert!(self.client.line(&shorten).int() > 0, "{key}"),
                _ => assert_eq!(self.client.line(&release), 1, "{key}"),
            }
        }
    }
}

/// The granted locks and their tokens.
#[track_caller]
fn granted(lock_set: &[&str], reply: &Value) -> Vec<(String, i64)> {
    let pair = |pair: &Value| (pair.list()[0].text(), pair.list()[1].int());
    match lock_set {
        [key] => vec![((*key).to_owned(), reply.int())],
        _ => reply.list().iter().map(pair).collect(),
    }
}
