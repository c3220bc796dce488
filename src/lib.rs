//! GPULOCK: a module that turns a Redis or Valkey server into the lock keeper for GPUs,
//! and for anything else that only one worker may use at a time.
//!
//! # Layout
//! - `crates/core`: the rules of locking, without Redis.
//! - [`commands`]: one file a command: read the arguments, ask the rules, do what they
//!   say to the key, answer.
//! - [`background`], [`waiting`], [`look`], [`hand_off`]: what happens without a command. [`news`]: what
//!   others are told after each step. [`warnings`]: what an operator is warned of.
//! - [`stats`], [`info`], [`metrics`], [`event`]: the counters and the events, in each
//!   format that they are asked for.
//! - [`injected`], [`broken`]: panics and broken rules, in builds for tests alone.
//! - [`server`]: the shell around the server's C functions, and the only unsafe code.
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

mod background;
mod broken;
mod commands;
mod event;
mod hand_off;
mod info;
mod injected;
mod look;
mod metrics;
mod news;
#[expect(unsafe_code, reason = "the one place where C is called")]
mod server;
mod stats;
mod waiting;
mod warnings;

use gpulock_core::settings::Settings;

/// The settings that the words behind the module's path ask for: pairs of name and value.
fn settings_from(arguments: &[&[u8]]) -> Result<Settings, String> {
    let mut settings = Settings::default();
    for pair in arguments.chunks(2) {
        let [name, value] = pair else {
            return Err("the module's arguments are pairs of name and value".to_owned());
        };
        server::config::set(&mut settings, name, value)?;
    }
    Ok(settings)
}
