//! The server is killed and restarted with the same files. With `appendfsync always`
//! every hold survives; with snapshots only those in the last one. With `everysec` the
//! server replies before it writes while an earlier fsync is in progress, for up to two
//! seconds, so a slow disk can lose what it replied in that time.

use super::context::Persistence;
use super::{Fault, FaultContext};
use crate::clock::{MS, Nanos, now};
use crate::history::Event;

/// How long the server may delay a write with `everysec`.
const POSTPONED: Nanos = 2_000 * MS;

pub(super) struct ServerKilled;

impl Fault for ServerKilled {
    fn name(&self) -> &'static str {
        "server-kill"
    }

    fn weight(&self) -> u64 {
        3
    }

    fn inject(&self, context: &mut FaultContext) -> Result<bool, String> {
        if context.tokens_ahead_of_clock {
            return Ok(false);
        }
        let (by, from) = (self.name().to_owned(), now());
        context.server.kill9();
        context.server.restart();
        let to = now();
        context.record_event(Event::StateLost { by: by.clone(), from, to });
        context.record_event(Event::ErrorsExpected {
            codes: vec!["LOADING ".to_owned()],
            from,
            to,
        });
        let lost_from = match context.persistence {
            Persistence::AofAlways => None,
            Persistence::AofEverysec => Some(from.saturating_sub(POSTPONED)),
            Persistence::Rdb => Some(from),
        };
        if let Some(from) = lost_from {
            context.record_event(Event::KeysModified { by, locks: None, from, to });
        }
        context.reconnect();
        Ok(true)
    }
}
