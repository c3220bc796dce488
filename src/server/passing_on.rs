//! Whether the server has anybody to pass a write on to: a replica, a backlog that one may
//! come back for, an append-only file. To make the plain command for them takes a fifth of
//! all that taking and giving back a lock costs, and the server throws it away when there
//! is nobody.
//!
//! No module is told when somebody begins to listen. But nobody can without a copy of the
//! data that the server forks for, or a backlog from before, and of a fork a module hears
//! before the next command. So it is taken for granted that somebody listens, until the
//! server says that nobody does; and again from any event on that may have changed it.
//! docs/architecture.md has the reasoning in full.

use std::cell::Cell;
use std::ffi::CStr;

use super::context::Context;
use super::server_info::Info;

struct MainThread(Cell<Listeners>);

// SAFETY: the module runs on the server's main thread alone (`super`, 1).
unsafe impl Sync for MainThread {}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Listeners {
    /// There may be some; the server is to be asked from then on, in ms since the epoch.
    Perhaps {
        ask_ms: u64,
    },
    Nobody,
}

static LISTENERS: MainThread = MainThread(Cell::new(Listeners::Perhaps { ask_ms: 0 }));

/// How long to wait before the server is asked again, in ms: the answer costs it some
/// microseconds.
const ASK_AGAIN_MS: u64 = 1_000;

/// The last releases whose way of listening is known (the tests run on them), by the name
/// of the field that has the version.
const KNOWN: [(&CStr, u64); 2] = [(c"valkey_version", 9), (c"redis_version", 8)];

/// True when it is sure that nobody listens.
pub(super) fn is_to_nobody() -> bool {
    LISTENERS.0.get() == Listeners::Nobody
}

/// Something happened after which somebody may listen.
pub(super) fn may_have_begun() {
    LISTENERS.0.set(Listeners::Perhaps { ask_ms: 0 });
}

/// Asks the server, if it is not known that nobody listens and some time has passed.
pub(super) fn find_out(context: Context<'_>, now_ms: u64) {
    match LISTENERS.0.get() {
        Listeners::Perhaps { ask_ms } if ask_ms <= now_ms => {}
        _ => return,
    }
    let ask_ms = now_ms.saturating_add(ASK_AGAIN_MS);
    LISTENERS.0.set(match nobody_listens(context) {
        true => Listeners::Nobody,
        false => Listeners::Perhaps { ask_ms },
    });
}

fn nobody_listens(context: Context<'_>) -> bool {
    let flags = context.flags();
    // A node of a cluster may also move slots to another, which then listens.
    if !flags.is_primary() || flags.is_loading() || flags.in_cluster() {
        return false;
    }
    let replication = Info::of(c"replication");
    let persistence = Info::of(c"persistence");
    is_known()
        && replication.number(c"connected_slaves") == Some(0)
        && replication.number(c"repl_backlog_active") == Some(0)
        && persistence.number(c"aof_enabled") == Some(0)
}

fn is_known() -> bool {
    let server = Info::of(c"server");
    // Valkey also has the version of the Redis that it came from.
    let version = KNOWN.iter().find_map(|(field, last)| {
        let major = major(server.text(field)?)?;
        Some(major <= *last)
    });
    version.unwrap_or(false)
}

/// The first of the numbers of a version.
fn major(version: &str) -> Option<u64> {
    version.split('.').next()?.parse().ok()
}
