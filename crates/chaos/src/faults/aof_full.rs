//! `MISCONF`: the append-only file cannot grow, and the server refuses the writes of all
//! clients until it can. In some cases it is killed meanwhile: then only what is in the file is
//! left. With `appendfsync always` the server would exit at once instead.

use std::process::Command;

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::own_client::Holder;
use super::refusal::{
    await_acceptance, await_refusal, end_session_meanwhile, wait_until,
};
use super::site::Persistence;
use super::{Fault, Site};
use crate::client::LONGEST_LEASE_MS;
use crate::clock::now;
use crate::history::Event;

/// What runs a server so that a write beyond the limit is an error and not the end of it.
pub(super) const UNDER: [&str; 2] = ["env", "--ignore-signal=XFSZ"];

const MISCONF: &str = "MISCONF ";

/// Long enough to outlast the first refused write, short enough to end soon after a restart.
const LEASE_MS: u64 = LONGEST_LEASE_MS / 2;

pub(super) struct AofFull;

/// Whether a server can be started like that here.
pub(super) fn can_ignore_signal() -> Result<(), String> {
    match Command::new(UNDER[0]).args([UNDER[1], "true"]).output() {
        Ok(done) if done.status.success() => Ok(()),
        _ => Err(format!("no {}", UNDER.join(" "))),
    }
}

impl Fault for AofFull {
    fn name(&self) -> &'static str {
        "aof-full"
    }

    fn weight(&self) -> u64 {
        5
    }

    fn needs(&self, site: &Site) -> Result<(), String> {
        site.ground.file_limit.clone()
    }

    fn strike(&self, site: &mut Site) -> Result<bool, String> {
        if site.persistence != Persistence::AofEverysec {
            return Ok(false);
        }
        wait_until("a rewrite does not end".to_owned(), || {
            let persistence = site.say("INFO persistence").text();
            persistence.contains("aof_rewrite_in_progress:0\r")
                && persistence.contains("rdb_bgsave_in_progress:0\r")
        })?;
        // The grant is in the file before it is replied.
        site.must("CONFIG SET appendfsync always")?;
        let holder = Holder::of_some_lock(site, LEASE_MS)?;
        site.must("CONFIG SET appendfsync everysec")?;
        let is_killed = site.dice.percent(50) && !site.tokens_are_ahead;
        site.refuse(MISCONF, |site| {
            limit_files(site, Some(1))?;
            await_refusal(site, MISCONF)?;
            let written = match &holder {
                Some(holder) if holder.still_holds(site)? => Some(holder.lock),
                _ => None,
            };
            end_session_meanwhile(site, MISCONF, holder)?;
            if is_killed {
                let from = now();
                site.server.kill9();
                site.server.restart();
                site.reconnect();
                let (by, to) = ("aof-full".to_owned(), now());
                let codes = vec!["LOADING ".to_owned()];
                site.excuse(Event::Refuses { codes, from, to });
                site.excuse(Event::Forgot { by, from, to });
                site.excuse(Event::Lost { but: written, from, to });
            } else {
                limit_files(site, None)?;
            }
            await_acceptance(site)
        })?;
        Ok(true)
    }
}

/// Sets how large the server's files may become.
fn limit_files(site: &Site, bytes: Option<u64>) -> Result<(), String> {
    let pid = i32::try_from(site.server.pid()).ok().and_then(Pid::from_raw);
    let limit = Rlimit { current: bytes, maximum: None };
    prlimit(pid, Resource::Fsize, limit)
        .map(drop)
        .map_err(|error| format!("prlimit: {error}"))
}
