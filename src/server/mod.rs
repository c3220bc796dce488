//! The thin shell around the rules, and the only unsafe code: keys, replies, events,
//! configuration, registration, as safe types. No rule of locking is in here.
//!
//! Three things hold for all of it and are what the `SAFETY` comments lean on:
//!
//! 1. **One thread.** Everything runs on the server's main thread; nothing is sent to
//!    another, and the module starts none.
//! 2. **Valid while borrowed.** Pointers that the server hands to a callback are valid
//!    until that callback returns, and no longer; types that hold one have a lifetime.
//! 3. **Nothing of ours is borrowed during a call of the server**, which may call back
//!    ([`state`] says how).

pub(crate) mod access;
pub(crate) mod blocked;
pub(crate) mod call;
pub(crate) mod commands;
pub(crate) mod config;
pub(crate) mod context;
pub(crate) mod events;
pub(crate) mod guard;
pub(crate) mod info;
pub(crate) mod key;
pub(crate) mod reply;
pub(crate) mod state;
pub(crate) mod timer;
pub(crate) mod write_permission;

mod api;
mod errno;
mod kept;
mod module;
mod needed_commands;
pub(crate) mod own;
mod passing_on;
pub(crate) mod server_info;
mod text;
mod unload;
