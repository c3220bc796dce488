//! Finds the node of a cluster that serves a lock: the nodes are asked for their view at each
//! connect, so that a new connection follows a failover and a migration of the slot.
//!
//! A lock that is being migrated to another node is used there with ASKING, as the node that it
//! leaves demands.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use redis::{RedisError, RedisResult, Value, pipe};
use tokio::time::sleep;

use crate::connection::timed_out;
use crate::exit::Failure;
use crate::server::address::Endpoint;
use crate::server::link::Link;
use crate::server::{Limit, PAUSE, Server};

/// What is known about a cluster. It is shared by all connections of an address.
#[derive(Debug, Default)]
pub(super) struct Route(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// The node that serves the slot, as far as known.
    owner: Option<Endpoint>,
    /// The node to which the lock was just redirected with ASK.
    importing: Option<Endpoint>,
    /// All nodes of the last view.
    nodes: Vec<Endpoint>,
}

/// A slot range in the reply of CLUSTER SLOTS.
struct Range {
    first: u16,
    last: u16,
    /// The primary, then its replicas.
    nodes: Vec<Node>,
}

struct Node {
    id: String,
    endpoint: Endpoint,
}

/// The result of asking a node.
enum Asked {
    /// This connection is to be used.
    Use(Link),
    /// Another node serves the slot.
    Elsewhere(Endpoint),
}

/// The slot of a key.
pub(super) fn slot(key: &[u8]) -> u16 {
    const SLOTS: u16 = 16384;
    crc16(hash_tag(key)) % SLOTS
}

/// The part of a key that determines its slot: between the first `{` and the next `}`, unless
/// that is empty.
fn hash_tag(key: &[u8]) -> &[u8] {
    let tag = || {
        let (_, rest) = split_once(key, b'{')?;
        let (tag, _) = split_once(rest, b'}')?;
        (!tag.is_empty()).then_some(tag)
    };
    tag().unwrap_or(key)
}

fn split_once(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let (before, rest) = bytes.split_at(bytes.iter().position(|byte| *byte == at)?);
    Some((before, rest.get(1..)?))
}

/// CRC-16/XMODEM, as the cluster specification demands.
fn crc16(bytes: &[u8]) -> u16 {
    const POLYNOMIAL: u16 = 0x1021;
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ POLYNOMIAL }
        })
    })
}

impl Route {
    /// Remembers where a call was redirected. Returns whether the error is a redirection.
    pub(super) fn redirect(&self, error: &RedisError, from: &Endpoint) -> bool {
        let Some((node, _slot)) = error.redirect_node() else { return false };
        let Some(node) = parse_node(node, from) else { return false };
        let mut known = self.known();
        match error.code() {
            Some("ASK") => known.importing = Some(node),
            _ => known.owner = Some(node),
        }
        true
    }

    /// The nodes to try, in this order.
    fn candidates(&self, seed: &Endpoint) -> VecDeque<Endpoint> {
        let known = self.known();
        let first = known.owner.iter().chain([seed]);
        first.chain(&known.nodes).cloned().collect()
    }

    fn take_owner(&self) -> Option<Endpoint> {
        self.known().owner.take()
    }

    fn take_importing(&self) -> Option<Endpoint> {
        self.known().importing.take()
    }

    /// A poisoned mutex is harmless: each change is complete.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects to this server or, if it is a node of a cluster, to the node that serves the slot.
/// During a failover the nodes may report the old one: they are asked again until the time is
/// over.
pub(super) async fn open(server: &Server, seed: &Endpoint, limit: Limit) -> Result<Link> {
    if let Some(node) = server.route.take_importing()
        && let Ok(mut link) = server.open_endpoint(&node, limit.share()).await
    {
        link.is_asking = true;
        return Ok(link);
    }
    let Some(slot) = server.slot else {
        let redirected = server.route.take_owner();
        let node = redirected.as_ref().unwrap_or(seed);
        return server.open_endpoint(node, limit.left()).await;
    };
    loop {
        let failure = match try_nodes(server, seed, slot, limit).await {
            Ok(link) => return Ok(link),
            Err(error) => error,
        };
        let is_alone = server.route.known().nodes.is_empty();
        if is_alone || !limit.allows_retry() {
            return Err(failure);
        }
        sleep(PAUSE).await;
    }
}

/// Tries the known nodes, each once.
async fn try_nodes(
    server: &Server,
    seed: &Endpoint,
    slot: u16,
    limit: Limit,
) -> Result<Link> {
    let mut failure = None;
    let mut tried = HashSet::new();
    let mut untried = server.route.candidates(seed);
    // A server that is not a cluster node may take all the time.
    let is_alone = untried.len() == 1;
    while let Some(node) = untried.pop_front() {
        if !tried.insert(node.clone()) {
            continue;
        }
        let may_be_alone = is_alone && node == *seed;
        let within = if may_be_alone { limit.left() } else { limit.share() };
        let asked = match server.open_endpoint(&node, within).await {
            Ok(link) if link.is_cluster_node() => ask(server, link, slot, limit).await,
            Ok(link) => return Ok(link),
            Err(error) => Err(error),
        };
        match asked {
            Ok(Asked::Use(link)) => return Ok(link),
            Ok(Asked::Elsewhere(owner)) => untried.push_front(owner),
            Err(error) if may_be_alone => return Err(error),
            Err(error) => failure = Some(error.context(format!("node {node}"))),
        }
    }
    let unclear = || format!("no node serves the slot {slot} at the moment");
    Err(failure.unwrap_or_else(|| Failure::unreachable(unclear()).into()))
}

/// Asks a node which one serves the slot.
async fn ask(server: &Server, mut link: Link, slot: u16, limit: Limit) -> Result<Asked> {
    let mut view = pipe();
    view.cmd("CLUSTER").arg("MYID").cmd("CLUSTER").arg("SLOTS").ignore_errors();
    let share = limit.share();
    let reply = tokio::time::timeout(share, view.query_async(&mut link.redis)).await;
    let reply: Vec<RedisResult<Value>> =
        reply.unwrap_or_else(|_| Err(timed_out(share)))?;
    let Some((id, ranges)) = parse_view(reply, &link.endpoint) else {
        // Without permission for CLUSTER, a call may be redirected.
        return Ok(Asked::Use(link));
    };
    let nodes = ranges.iter().flat_map(|range| &range.nodes);
    let nodes: HashSet<_> = nodes.map(|node| node.endpoint.clone()).collect();
    let owner =
        ranges.into_iter().find(|range| (range.first..=range.last).contains(&slot));
    let owner = owner.and_then(|range| range.nodes.into_iter().next());
    let mut known = server.route.known();
    known.nodes = nodes.into_iter().collect();
    match owner {
        Some(owner) if owner.id != id => {
            known.owner = Some(owner.endpoint.clone());
            Ok(Asked::Elsewhere(owner.endpoint))
        }
        // If no node serves the slot, the server's own error says so.
        _ => {
            known.owner = Some(link.endpoint.clone());
            Ok(Asked::Use(link))
        }
    }
}

/// Parses the replies of CLUSTER MYID and CLUSTER SLOTS. None if one is an error.
fn parse_view(
    reply: Vec<RedisResult<Value>>,
    from: &Endpoint,
) -> Option<(String, Vec<Range>)> {
    let [id, slots] = <[_; 2]>::try_from(reply).ok()?;
    let id = redis::from_redis_value(id.ok()?).ok()?;
    let ranges: Vec<Vec<Value>> = redis::from_redis_value(slots.ok()?).ok()?;
    let ranges: Option<_> =
        ranges.into_iter().map(|range| parse_range(range, from)).collect();
    Some((id, ranges?))
}

/// Parses `[first, last, primary, replica …]`.
fn parse_range(range: Vec<Value>, from: &Endpoint) -> Option<Range> {
    let mut range = range.into_iter();
    let first = redis::from_redis_value(range.next()?).ok()?;
    let last = redis::from_redis_value(range.next()?).ok()?;
    let nodes: Option<_> = range.map(|node| parse_member(node, from)).collect();
    Some(Range { first, last, nodes: nodes? })
}

/// Parses `[host, port, id, …]`.
fn parse_member(node: Value, from: &Endpoint) -> Option<Node> {
    let mut fields = redis::from_redis_value::<Vec<Value>>(node).ok()?.into_iter();
    let host: Option<String> = redis::from_redis_value(fields.next()?).ok()?;
    let port = redis::from_redis_value(fields.next()?).ok()?;
    let id = redis::from_redis_value(fields.next()?).ok()?;
    let endpoint = endpoint(&host.unwrap_or_default(), port, from);
    Some(Node { id, endpoint })
}

/// Parses `host:port`, where the host may be an IPv6 address without brackets.
fn parse_node(node: &str, from: &Endpoint) -> Option<Endpoint> {
    let (host, port) = node.rsplit_once(':')?;
    Some(endpoint(host, port.parse().ok()?, from))
}

/// A node without a known host has the host of the node that reports it.
fn endpoint(host: &str, port: u16, from: &Endpoint) -> Endpoint {
    match (host, from) {
        ("" | "?", Endpoint::Tcp(same, _)) => Endpoint::Tcp(same.clone(), port),
        _ => Endpoint::Tcp(host.to_owned(), port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the cluster specification, and slots that a server reported.
    #[test]
    fn the_slot_is_that_of_the_hash_tag() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot(b"{user1000}.following"), slot(b"{user1000}.followers"));
        assert_eq!(slot(b"foo{{bar}}zap"), slot(b"{bar"));
        assert_eq!(slot(b"foo{bar}{zap}"), slot(b"bar"));
        assert_eq!(slot(b"foo{}{bar}"), crc16(b"foo{}{bar}") % 16384);
        assert_eq!(slot(b"foo"), 12182);
    }

    #[test]
    fn a_node_without_a_host_has_that_of_the_reporting_node() {
        let from = Endpoint::Tcp("one".to_owned(), 1);
        let tcp = |host: &str, port| Some(Endpoint::Tcp(host.to_owned(), port));
        assert_eq!(parse_node("two:5", &from), tcp("two", 5));
        assert_eq!(parse_node(":5", &from), tcp("one", 5));
        assert_eq!(parse_node("?:5", &from), tcp("one", 5));
        assert_eq!(parse_node("::1:5", &from), tcp("::1", 5));
        assert_eq!(parse_node("5", &from), None);
    }
}
