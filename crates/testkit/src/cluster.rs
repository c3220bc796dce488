//! Several servers as a cluster. Commands create it, so that the tests need no tool of a
//! certain release.

use std::time::Duration;

use crate::server::DEADLINE;
use crate::{Builder, Flavour, Server, call, wait_until};

const SLOTS: usize = 16384;

/// A running cluster.
pub struct Cluster {
    nodes: Vec<Server>,
    configure: Box<dyn Fn(Builder) -> Builder>,
    flavour: Flavour,
}

impl Cluster {
    /// Starts primaries with an equal share of the slots, and waits until each reports a
    /// healthy cluster.
    #[track_caller]
    pub fn start(flavour: &Flavour, primaries: usize) -> Self {
        Self::start_with(flavour, primaries, |builder| builder)
    }

    /// Like [`Cluster::start`], with settings for each node:
    /// `|node| node.arg("appendonly", "yes")`.
    #[track_caller]
    pub fn start_with(
        flavour: &Flavour,
        primaries: usize,
        configure: impl Fn(Builder) -> Builder + 'static,
    ) -> Self {
        let mut cluster = Self {
            nodes: Vec::new(),
            configure: Box::new(configure),
            flavour: flavour.clone(),
        };
        for i in 0..primaries {
            let node = cluster.start_node();
            let mut client = node.client();
            // Nodes that start alone all have epoch 0, and resolving the collision takes
            // time.
            assert_eq!(call!(client, "CLUSTER", "SET-CONFIG-EPOCH", i + 1), "OK");
            let first = i * SLOTS / primaries;
            let last = (i + 1) * SLOTS / primaries - 1;
            assert_eq!(call!(client, "CLUSTER", "ADDSLOTSRANGE", first, last), "OK");
            drop(client);
            cluster.introduce(&node);
            cluster.nodes.push(node);
        }
        cluster.wait_healthy();
        cluster
    }

    /// The nodes, in the order of their start.
    pub fn nodes(&self) -> &[Server] {
        &self.nodes
    }

    /// One node, to kill or restart it.
    pub fn node_mut(&mut self, index: usize) -> &mut Server {
        &mut self.nodes[index]
    }

    /// Starts a replica of the node `primary`, waits until its link is up, and returns its
    /// index in [`Cluster::nodes`].
    #[track_caller]
    pub fn add_replica(&mut self, primary: usize) -> usize {
        let id = self.id(primary);
        let node = self.start_node();
        self.introduce(&node);
        self.nodes.push(node);
        self.wait_healthy();
        let replica = &self.nodes[self.nodes.len() - 1];
        let mut client = replica.client();
        assert_eq!(call!(client, "CLUSTER", "REPLICATE", &id), "OK");
        replica.wait_link_up();
        self.nodes.len() - 1
    }

    /// The id of a node in the cluster.
    #[track_caller]
    pub fn id(&self, node: usize) -> String {
        call!(self.nodes[node].client(), "CLUSTER", "MYID").text()
    }

    /// The slot of a key.
    #[track_caller]
    pub fn slot(&self, key: &str) -> i64 {
        call!(self.nodes[0].client(), "CLUSTER", "KEYSLOT", key).int()
    }

    /// The primary that serves a key, according to the first node.
    #[track_caller]
    pub fn primary_of(&self, key: &str) -> &Server {
        &self.nodes[self.primary_index(key)]
    }

    /// The index of that primary in [`Cluster::nodes`].
    #[track_caller]
    pub fn primary_index(&self, key: &str) -> usize {
        let slot = self.slot(key);
        // [[first slot, last slot, [address, port, id, …], replicas …], …]
        let slots = call!(self.nodes[0].client(), "CLUSTER", "SLOTS");
        let port = slots
            .list()
            .iter()
            .map(|range| range.list())
            .find(|range| (range[0].int()..=range[1].int()).contains(&slot))
            .map(|range| range[2].list()[1].int());
        let found =
            self.nodes.iter().position(|node| port == Some(i64::from(node.port())));
        match found {
            Some(index) => index,
            None => panic!("no node serves slot {slot}: {slots:?}"),
        }
    }

    /// Waits until every node knows all others and reports a healthy cluster.
    #[track_caller]
    pub fn wait_healthy(&self) {
        let ready = |node: &Server| {
            let info = call!(node.client(), "CLUSTER", "INFO").text();
            let has = |field: String| info.lines().any(|line| line == field);
            has("cluster_state:ok".into())
                && has(format!("cluster_known_nodes:{}", self.nodes.len()))
                && has(format!("cluster_slots_ok:{SLOTS}"))
        };
        for node in &self.nodes {
            let what = format!("{} to report a healthy cluster", node.name());
            wait_until(DEADLINE + Duration::from_secs(30), what, || ready(node));
        }
    }

    fn start_node(&self) -> Server {
        let label = format!("node {}", self.nodes.len());
        (self.configure)(self.flavour.server().cluster().named(&label)).start()
    }

    /// Introduces `node` to every other node, which is faster than gossip.
    fn introduce(&self, node: &Server) {
        let mut client = node.client();
        for other in &self.nodes {
            let config = call!(other.client(), "CONFIG", "GET", "cluster-port");
            let bus = config.field("cluster-port").text();
            let met = call!(client, "CLUSTER", "MEET", "127.0.0.1", other.port(), bus);
            assert_eq!(met, "OK");
        }
    }
}
