//! The server's C API as safe types: keys, replies, events, configuration, registration. The only
//! unsafe code of the module. It imports nothing of the module above it, and no rule of locking is
//! in here.
//!
//! Three rules hold for all of it; the `SAFETY` comments rely on them:
//!
//! 1. **One thread at a time.** Everything runs on the server's main thread; nothing is sent to
//!    another, and the module starts none. Only the command filter may run on a thread of another
//!    module that calls a command, while the server's lock makes the main thread wait for it.
//! 2. **Valid while borrowed.** Pointers that the server passes to a callback are valid until that
//!    callback returns; types that hold one have a lifetime.
//! 3. **Nothing of the module is borrowed during a call of the server**, which may call back.

pub(crate) mod acl;
pub(crate) mod blocked_client;
pub(crate) mod call;
pub(crate) mod command_filter;
pub(crate) mod command_spec;
pub(crate) mod config;
pub(crate) mod context;
pub(crate) mod cpu_time;
pub(crate) mod detached_context;
pub(crate) mod exports;
pub(crate) mod info_section;
pub(crate) mod key;
pub(crate) mod main_thread;
pub(crate) mod needed_commands;
pub(crate) mod panic_boundary;
pub(crate) mod random;
pub(crate) mod replication_listeners;
pub(crate) mod reply;
pub(crate) mod server_events;
pub(crate) mod server_info;
pub(crate) mod static_strings;
pub(crate) mod timer;
pub(crate) mod unload;
pub(crate) mod write_permission;

mod api;
mod errno;
mod string;
