//! The rules of locking: who holds what, who may take, renew or give back, and what is
//! counted, logged and told about it. Deterministic plain Rust: nothing of Redis is in
//! here, the clock is an argument, and what a key shows is told by the caller.
//!
//! # Layout
//! - [`request`]: what a client asks, read from a command's arguments (`options`).
//! - [`manager`]: the [`LockManager`], all that is known; one file beside it for each rule:
//!   [`acquire`], [`acquire_any`], [`choose`], [`release`], [`extend`], [`force_release`],
//!   and [`reconcile`], which every rule begins with: what is known is brought in line with
//!   what the key shows.
//! - [`inspect`], [`list`]: looking without touching. [`sweep`]: which locks to look at
//!   when nobody asks.
//! - [`lock`]: one lock, its hold. [`table`]: all of them, on an [`arena`] and an [`age`]
//!   order. [`lease`], [`token`]: how long, and with what number.
//! - [`counters`], [`histogram`], [`log`], [`event`]: what is remembered and told.
//! - [`view`]: what a model checker asks beside all that.
//! - `budget`: how much of it is done in one go.
//! - [`settings`], [`error`], [`glob`], [`clock`]: what the rules are set to, what they
//!   refuse and why, patterns, time.
//!
//! The idea that carries it: **decide, then do**. A rule is given what the key shows,
//! changes what is known, and answers with what is to be done to the key. The caller
//! does it afterwards, holding nothing of ours.
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
