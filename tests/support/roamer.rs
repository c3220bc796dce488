//! A client of a cluster that finds the node of a key by itself, as cluster clients do: it
//! goes where MOVED and ASK send it, and asks again while a slot moves, while nobody serves
//! it, and when its connection breaks.

use std::collections::BTreeMap;
use std::time::Duration;

use gpulock_testkit::{Client, Cluster, Value, wait_until};

/// What is answered sooner or later for sure: only what hangs fails.
const LATER: Duration = Duration::from_secs(30);

/// How a node begins that does not serve the key just now.
const NOT_NOW: [&str; 6] =
    ["TRYAGAIN ", "CLUSTERDOWN ", "UNBLOCKED ", "READONLY ", "LOADING ", "MOVED "];

pub(crate) struct Roamer {
    /// Where to look for the cluster.
    ports: Vec<u16>,
    /// The node to ask first.
    at: u16,
    /// One connection to each node: a session lasts as long as that.
    clients: BTreeMap<u16, Client>,
}

impl Roamer {
    pub(crate) fn new(cluster: &Cluster) -> Self {
        let ports: Vec<u16> = cluster.nodes().iter().map(|node| node.port()).collect();
        Self { at: ports[0], ports, clients: BTreeMap::new() }
    }

    /// Asks until it is answered for good.
    #[track_caller]
    pub(crate) fn line(&mut self, line: &str) -> Value {
        let mut answer = None;
        wait_until(LATER, format!("an answer to {line:?}"), || {
            answer = self.ask_once(line);
            answer.is_some()
        });
        answer.expect("it was waited for")
    }

    /// Closes its connections.
    pub(crate) fn hang_up(&mut self) {
        self.clients.clear();
    }

    /// The answer, if it was for good.
    fn ask_once(&mut self, line: &str) -> Option<Value> {
        let Some(answer) = self.hear(self.at, &[line]) else {
            self.ports.rotate_left(1);
            self.at = self.ports[0];
            return None;
        };
        let answer = match redirected(&answer) {
            Some(("ASK", port)) => self.hear(port, &["ASKING", line])?,
            Some((_, port)) => {
                self.at = port;
                return None;
            }
            None => answer,
        };
        Some(answer).filter(|answer| !is_not_for_good(answer))
    }

    /// The answer of a node to the last of the lines, which go in one write; none when
    /// the connection broke.
    fn hear(&mut self, port: u16, lines: &[&str]) -> Option<Value> {
        let kept = self.clients.remove(&port);
        let mut client = kept.or_else(|| Client::connect(port, "a node").ok())?;
        // A server that died meanwhile has closed it.
        assert_eq!(client.try_read(Duration::ZERO).ok()?, None, "nothing was asked");
        client.try_send_lines(lines).ok()?;
        let mut last = None;
        for _ in lines {
            last = client.try_read(LATER).ok()?;
            assert!(last.is_some(), "{lines:?}: no answer within {LATER:?}");
        }
        self.clients.insert(port, client);
        last
    }
}

/// Where to an answer redirects, and by which word: for this once, or for good.
fn redirected(answer: &Value) -> Option<(&str, u16)> {
    let Value::Error(said) = answer else { return None };
    match said.split_whitespace().collect::<Vec<_>>()[..] {
        [word @ ("ASK" | "MOVED"), _, address] => {
            let port = address.rsplit(':').next().and_then(|port| port.parse().ok());
            Some((word, port.expect("a port")))
        }
        _ => None,
    }
}

fn is_not_for_good(answer: &Value) -> bool {
    let Value::Error(said) = answer else { return false };
    NOT_NOW.iter().any(|begin| said.starts_with(begin))
}
