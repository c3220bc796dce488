//! The rules of locking: who holds what, who may take, renew or give back, and what is
//! counted, logged and told about it. Deterministic plain Rust: nothing of Redis is in
//! here, the clock is an argument, and what a key shows is told by the caller.
//!
//! # Layout
//! - [`request`]: what a client asks, read from a command's arguments (`options`).
//! - [`keeper`]: the [`Keeper`], all that is known; one file beside it for each rule:
//!   [`acquire`], [`acquire_any`], [`share`], [`release`], [`extend`], [`force_release`],
//!   and [`settle`], which every rule begins with: what is known is brought in line with
//!   what the key shows.
//! - [`inspect`], [`list`]: looking without touching. [`sweep`]: which locks to look at
//!   when nobody asks.
//! - [`lock`]: one lock, its hold. [`table`]: all of them, on an [`arena`] and an [`age`]
//!   order. [`lease`], [`token`]: how long, and with what number.
//! - [`counters`], [`histogram`], [`log`], [`event`]: what is remembered and told.
//! - [`view`]: what a model checker asks beside all that.
//! - `portion`: how much of it is done in one go.
//! - [`settings`], [`fault`], [`glob`], [`clock`]: what the rules are set to, what they
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

pub mod acquire;
pub mod acquire_any;
pub mod age;
mod alarm;
pub mod arena;
#[cfg(feature = "break-rules")]
pub mod broken;
pub mod clock;
pub mod counters;
pub mod deadlock;
pub mod event;
pub mod extend;
pub mod fault;
pub mod force_release;
pub mod glob;
pub mod histogram;
pub mod inspect;
pub mod keeper;
pub mod lease;
pub mod line;
pub mod list;
pub mod lock;
pub mod log;
mod options;
mod portion;
pub mod release;
pub mod request;
pub mod seen;
pub mod serve;
pub mod session;
pub mod settings;
pub mod settle;
pub mod share;
pub mod slot;
pub mod sweep;
pub mod table;
pub mod token;
pub mod view;
pub mod wait;

pub use clock::Now;
pub use fault::Fault;
pub use keeper::Keeper;
pub use lock::Name;
pub use seen::Seen;
