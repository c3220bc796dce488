//! Starts real Redis and Valkey servers with the module and talks to them. There are no
//! mocks, and nothing sleeps where it can wait for a condition.
//!
//! ```no_run
//! use gpulock_testkit::{call, on_every_server};
//!
//! on_every_server(|flavour| {
//!     let server = flavour.server().module_args(&["gpulock.max-lease", "5000"]).start();
//!     let mut client = server.client();
//!     assert!(call!(client, "GPULOCK.ACQUIRE", "gpu:0", "me", "PX", 1000).int() > 0);
//! });
//! ```
//!
//! # Layout
//! - [`acl`]: the users of docs/operations.md
//! - [`flavour`]: the servers and the build of the module under test
//! - [`server`]: one server process, from its start to the check of its log
//! - [`cluster`]: several servers as a cluster
//! - [`sentinel`]: a Sentinel, which monitors servers and promotes a replica
//! - [`client`], [`value`]: the protocol
//! - [`skip`]: what a test cannot do on this machine
//! - [`wait`]: waiting for a condition

pub mod acl;
pub mod client;
pub mod cluster;
pub mod flavour;
pub mod sentinel;
pub mod server;
pub mod skip;
pub mod value;
pub mod wait;

pub use acl::AclUser;
pub use client::{Arg, Client, encode};
pub use cluster::Cluster;
pub use flavour::{
    Flavour, module, module_that_panics, on_every_server, servers, workspace,
};
pub use sentinel::Sentinel;
pub use server::{Builder, Server};
pub use skip::print_skipped;
pub use value::Value;
pub use wait::wait_until;
