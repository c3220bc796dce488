//! A client that finds the node of a key as cluster clients do: it follows MOVED and ASK,
//! and retries while a slot moves, while no node serves it, and when a connection breaks.

use std::collections::BTreeMap;
use std::time::Duration;

use gpulock_testkit::{Client, Cluster, Value, wait_until};

use super::clock::DEADLINE;

/// The errors after which a client retries.
const RETRIABLE: [&str; 6] =
    ["TRYAGAIN ", "CLUSTERDOWN ", "UNBLOCKED ", "READONLY ", "LOADING ", "MOVED "];

pub(crate) struct ClusterClient {
    ports: Vec<u16>,
    /// The node to ask first.
    port: u16,
    /// One connection to each node: a session lasts as long as its connection.
    clients: BTreeMap<u16, Client>,
}

impl ClusterClient {
    pub(crate) fn new(cluster: &Cluster) -> Self {
        let ports: Vec<u16> = cluster.nodes().iter().map(|node| node.port()).collect();
        Self { port: ports[0], ports, clients: BTreeMap::new() }
    }

    /// Sends a command until a node returns a final reply.
    #[track_caller]
    pub(crate) fn line(&mut self, line: &str) -> Value {
        let mut reply = None;
        wait_until(DEADLINE, format!("a reply to {line:?}"), || {
            reply = self.try_once(line);
            reply.is_some()
        });
        reply.expect("the loop ends with a reply")
    }

    /// Closes all connections.
    pub(crate) fn disconnect(&mut self) {
        self.clients.clear();
    }

    /// The reply, if it is final.
    fn try_once(&mut self, line: &str) -> Option<Value> {
        let Some(reply) = self.send_to(self.port, &[line]) else {
            self.ports.rotate_left(1);
            self.port = self.ports[0];
            return None;
        };
        let reply = match redirection(&reply) {
            Some(("ASK", port)) => self.send_to(port, &["ASKING", line])?,
            Some((_, port)) => {
                self.port = port;
                return None;
            }
            None => reply,
        };
        Some(reply).filter(|reply| !is_retriable(reply))
    }

    /// Sends the lines in one write to a node, and returns the last reply; `None` when the
    /// connection broke.
    fn send_to(&mut self, port: u16, lines: &[&str]) -> Option<Value> {
        let open = self.clients.remove(&port);
        let mut client = open.or_else(|| Client::connect(port, "a node").ok())?;
        // An error here means that the node has closed the connection.
        assert_eq!(client.try_read(Duration::ZERO).ok()?, None, "a reply to no command");
        client.try_send_lines(lines).ok()?;
        let mut last = None;
        for _ in lines {
            last = client.try_read(DEADLINE).ok()?;
            assert!(last.is_some(), "{lines:?}: no reply within {DEADLINE:?}");
        }
        self.clients.insert(port, client);
        last
    }
}

/// The target of a redirection, and its kind: `ASK` or `MOVED`.
fn redirection(reply: &Value) -> Option<(&str, u16)> {
    let Value::Error(error) = reply else { return None };
    match error.split_whitespace().collect::<Vec<_>>()[..] {
        [kind @ ("ASK" | "MOVED"), _, address] => {
            let port = address.rsplit(':').next().and_then(|port| port.parse().ok());
            Some((kind, port.expect("a port")))
        }
        _ => None,
    }
}

fn is_retriable(reply: &Value) -> bool {
    let Value::Error(error) = reply else { return false };
    RETRIABLE.iter().any(|prefix| error.starts_with(prefix))
}
