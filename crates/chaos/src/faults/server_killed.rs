//! The server is killed, and started again on the same files. With `appendfsync always` every
//! hold outlives it; with snapshots only what the last one has. With `everysec` the server
//! answers before it writes while an earlier fsync is still under way, for up to two seconds:
//! on a slow disk what it answered then is lost.

use super::site::Persistence;
use super::{Fault, Site};
use crate::clock::{MS, Nanos, now};
use crate::history::Event;

/// How long the server may put off a write, with `everysec`.
const POSTPONED: Nanos = 2_000 * MS;

pub(super) struct ServerKilled;

impl Fault for ServerKilled {
    fn name(&self) -> &'static str {
        "server-kill"
    }

    fn weight(&self) -> u64 {
        3
    }

    fn strike(&self, site: &mut Site) -> Result<bool, String> {
        if site.tokens_are_ahead {
            return Ok(false);
        }
        let (by, from) = (self.name().to_owned(), now());
        site.server.kill9();
        site.server.restart();
        let to = now();
        site.excuse(Event::Forgot { by: by.clone(), from, to });
        site.excuse(Event::Refuses { codes: vec!["LOADING ".to_owned()], from, to });
        let lost_from = match site.persistence {
            Persistence::AofAlways => None,
            Persistence::AofEverysec => Some(from.saturating_sub(POSTPONED)),
            Persistence::Rdb => Some(from),
        };
        if let Some(from) = lost_from {
            site.excuse(Event::Touched { by, locks: None, from, to });
        }
        site.reconnect();
        Ok(true)
    }
}
