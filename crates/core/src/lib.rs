//! The rules of locking and the engine that applies them, without Redis: deterministic Rust that
//! gets the time and the state of the keys as arguments.
//!
//! # Layout
//! - [`request`]: the parsed arguments of each command. [`error`]: the errors that commands return.
//! - [`manager`]: the [`LockManager`], the record of all locks.
//! - [`rules`]: decide what happens to a lock, one file for each operation.
//! - [`engine`]: reads keys, lets the rules decide, and writes keys, through a trait that a server
//!   implements.
//! - [`state`]: the data of the manager: locks, wait queues, counters, the log, the settings.
//! - [`report`]: the replies of INSPECT and LIST.
//!
//! A rule never calls the server: it gets the state of the key, changes the record, and returns
//! what to write. The engine writes afterwards, when nothing of the record is borrowed.
#![forbid(unsafe_code)]
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

#[cfg(feature = "break-rules")]
pub mod broken;
mod decimal;
pub mod engine;
pub mod error;
pub mod manager;
pub mod report;
pub mod request;
pub mod rules;
pub mod state;

pub use error::CommandError;
pub use manager::LockManager;
pub use state::clock::Now;
pub use state::key_state::KeyState;
pub use state::lock::Name;
