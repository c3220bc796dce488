//! GPULOCK: a module that turns a Redis or Valkey server into the lock manager for GPUs, and for
//! anything else that only one worker at a time may use.
//!
//! # Layout
//! - `crates/core`: the rules of locking and the engine that applies them, without Redis.
//! - [`commands`]: one file for each command: parse the arguments, let the engine act, reply.
//! - [`entry`]: where the server enters the module: loading, commands, the timer, events, blocked
//!   clients; and the delivery of replies and events.
//! - [`keyspace`]: the server's keys, as the engine uses them. [`manager`]: the lock manager of
//!   this server.
//! - [`report`]: the counters and the events in each of their formats.
//! - [`redis`]: the server's C API as safe types, and the only unsafe code besides the two exported
//!   functions. Everything runs on the server's main thread; the statics of the module rely on it.
//! - [`injected_panics`], [`broken_rules`]: only in test builds.
#![deny(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::unreachable
    )
)]

mod broken_rules;
mod commands;
mod entry;
mod injected_panics;
mod keyspace;
mod manager;
#[expect(unsafe_code, reason = "the only place where C is called")]
mod redis;
mod report;

#[expect(unsafe_code, reason = "the functions that the server calls by name")]
mod exported {
    crate::redis::exports::export_module!(crate::entry::load::Gpulock);
}
