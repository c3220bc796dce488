//! Model checker for the lock manager. It runs the lock manager and the engine that ship on an
//! in-memory keyspace, explores every order of steps, and checks a set of laws after each step.
//!
//! # Layout
//! - [`world`]: a minimal server. [`memory_keys`]: its keys and clock. `keyspace`: the engine's
//!   access to them; checks each write. `commands`, [`call`]: what clients do. `event_loop`: the
//!   delivery of replies to waiting clients. `external`: everything else that happens to keys.
//! - `queue`, `turn`, [`groups`], `holds`, `notice`, `cycle`: queues, their order, lock sets with
//!   GROUPS, holds, notices and deadlocks as the command reference defines them, implemented
//!   independently of the lock manager. `turns_of_call`: the turns that a call may have. [`law`]: the
//!   laws. `check`: checks them after each step. `eventually`: checks what must follow later.
//! - [`scenario`]: steps of every kind, for random tests and the fuzzer.
//! - [`scope`], [`action`]: what is explored. `canonical`: which worlds are equivalent.
//!   [`explore`]: the exploration. [`flaw`]: broken keyspaces and event loops that the checks must
//!   detect.

pub mod action;
pub mod call;
mod canonical;
mod check;
mod commands;
mod cycle;
mod event_loop;
mod eventually;
pub mod explore;
mod external;
pub mod flaw;
pub mod groups;
mod holds;
mod keyspace;
pub mod law;
pub mod memory_keys;
mod notice;
mod queue;
pub mod scenario;
pub mod scope;
mod turn;
mod turns_of_call;
pub mod world;
