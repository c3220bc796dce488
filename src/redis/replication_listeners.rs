//! Whether the server has any listener to replicate a write to: a replica, a backlog that one may
//! come back for, an append-only file. Building the plain command for them takes a fifth of all
//! that acquiring and releasing a lock costs, and the server discards it when there is no listener.
//!
//! No event says that a listener has appeared. But no listener can appear without a copy of the
//! data, which the server forks for, or a backlog from before; and a fork is an event that comes
//! before the next command. So listeners are assumed until the server says that there are none, and
//! again from any event on that may have changed it. docs/architecture.md has the full reasoning.

use std::cell::Cell;
use std::ffi::CStr;

use super::context::Context;
use super::main_thread::MainThread;
use super::server_info::Info;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Listeners {
    /// There may be some. The server is asked again at this time, in ms since the epoch.
    Unknown {
        ask_ms: u64,
    },
    None,
}

static LISTENERS: MainThread<Cell<Listeners>> =
    MainThread::new(Cell::new(Listeners::Unknown { ask_ms: 0 }));

/// How long to wait before the server is asked again, in ms: the answer takes it some microseconds.
const ASK_AGAIN_MS: u64 = 1_000;

/// The newest releases whose replication is known (the tests run on them), by the name of the field
/// with the version.
const KNOWN: [(&CStr, u64); 2] = [(c"valkey_version", 9), (c"redis_version", 8)];

/// Whether it is certain that there is no listener.
pub(super) fn has_no_listeners() -> bool {
    LISTENERS.get() == Listeners::None
}

/// Something happened after which there may be a listener.
pub(crate) fn listeners_may_have_changed() {
    LISTENERS.set(Listeners::Unknown { ask_ms: 0 });
}

/// Asks the server, if listeners are possible and some time has passed.
pub(crate) fn refresh(context: Context<'_>, now_ms: u64) {
    match LISTENERS.get() {
        Listeners::Unknown { ask_ms } if ask_ms <= now_ms => {}
        _ => return,
    }
    let ask_ms = now_ms.saturating_add(ASK_AGAIN_MS);
    LISTENERS.set(match is_without_listeners(context) {
        true => Listeners::None,
        false => Listeners::Unknown { ask_ms },
    });
}

fn is_without_listeners(context: Context<'_>) -> bool {
    let flags = context.flags();
    // A cluster node may also migrate slots to another node, which then listens.
    if !flags.is_primary() || flags.is_loading() || flags.in_cluster() {
        return false;
    }
    let replication = Info::of(c"replication");
    let persistence = Info::of(c"persistence");
    is_known_release()
        && replication.number(c"connected_slaves") == Some(0)
        && replication.number(c"repl_backlog_active") == Some(0)
        && persistence.number(c"aof_enabled") == Some(0)
}

fn is_known_release() -> bool {
    let server = Info::of(c"server");
    // Valkey also reports the version of the Redis that it was forked from.
    let known = KNOWN.iter().find_map(|(field, newest)| {
        let major = major(server.text(field)?)?;
        Some(major <= *newest)
    });
    known.unwrap_or(false)
}

/// The first number of a version.
fn major(version: &str) -> Option<u64> {
    version.split('.').next()?.parse().ok()
}
