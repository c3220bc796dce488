//! The engine: it reads keys, lets the rules decide, and carries the decision out. It is generic
//! over the [`Keyspace`], so the module, the model checker and the fuzzer run the same code.
//!
//! - [`keyspace`]: what the engine needs from a server.
//! - [`read`]: what a key shows.
//! - [`probe`]: read one key that no command names, and act on what has changed.
//! - [`hand_off`]: write the keys of locks that pass to the next waiter.
//! - [`deferred`]: carry out work that had to wait until the server accepts writes.
//! - [`listen`]: starts and stops listening to the server's commands.
//! - [`tick`]: what the timer and the server's cron do.
//! - [`commands`]: the commands that change a lock, from open key to outcome.
//!
//! The reply to the client, the delivery of events and the argument list belong to the module.

pub mod commands;
pub mod deferred;
pub mod hand_off;
pub mod keyspace;
mod listen;
pub mod probe;
pub mod read;
#[cfg(test)]
pub(crate) mod test_keyspace;
pub mod tick;

pub use keyspace::{Keyspace, Permission};
