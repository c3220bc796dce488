//! The rules of locking, explored exhaustively: the lock manager and the engine that ship, on a keyspace
//! in memory, and every order of steps.
//!
//! # Layout
//! - [`world`]: a server in small. [`keyspace`]: its keys and clock. `engine_keys`: how the engine uses
//!   them, with a check of each write. `commands`, [`call`]: what clients do. `event_loop`: how replies
//!   reach waiting clients. `external`: everything else that happens to keys.
//! - `queue`, `holds`, `cycle`: queues, holds and deadlocks as the command reference has them, kept by
//!   other means than the manager's. [`law`]: what must hold. `check`: whether it does. `eventually`:
//!   whether it will.
//! - [`scenario`]: steps of every kind, for random tests and the fuzzer.
//! - [`scope`], [`action`]: what is explored. `canonical`: when two worlds are the same. [`explore`]: the
//!   model. [`flaw`]: broken keyspaces and event loops that must be detected.

pub mod action;
pub mod call;
mod canonical;
mod check;
mod commands;
mod cycle;
mod engine_keys;
mod event_loop;
mod eventually;
pub mod explore;
mod external;
pub mod flaw;
mod holds;
pub mod keyspace;
pub mod law;
mod queue;
pub mod scenario;
pub mod scope;
pub mod world;
