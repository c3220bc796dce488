//! `MISCONF`: the append-only file cannot grow, and the server refuses the writes of all
//! clients until it can. In some cases the server is killed meanwhile, so that only the
//! content of the file survives. With `appendfsync always` the server would exit instead.

use std::process::Command;

use super::context::Persistence;
use super::fault_client::Holder;
use super::write_refusal::{
    await_acceptance, await_refusal, end_session_meanwhile, wait_until,
};
use super::{Fault, FaultContext};
use crate::client::LONGEST_LEASE_MS;
use crate::clock::now;
use crate::history::Event;

/// Runs a server so that a write beyond the limit is an error instead of a fatal signal.
pub(super) const COMMAND: [&str; 2] = ["env", "--ignore-signal=XFSZ"];

/// Limits the resources of another process.
const PRLIMIT: &str = "prlimit";

const MISCONF: &str = "MISCONF ";

/// Long enough to outlast the first refused write, short enough to end soon after a
/// restart.
const LEASE_MS: u64 = LONGEST_LEASE_MS / 2;

pub(super) struct AofFull;

/// Whether such a server can be started and limited on this machine.
pub(super) fn can_limit_files() -> Result<(), String> {
    match Command::new(COMMAND[0]).args([COMMAND[1], PRLIMIT, "--version"]).output() {
        Ok(done) if done.status.success() => Ok(()),
        _ => Err(format!("no {} or no {PRLIMIT}", COMMAND.join(" "))),
    }
}

impl Fault for AofFull {
    fn name(&self) -> &'static str {
        "aof-full"
    }

    fn weight(&self) -> u64 {
        5
    }

    fn requirements(&self, context: &FaultContext) -> Result<(), String> {
        context.environment.file_limit.clone()
    }

    fn inject(&self, context: &mut FaultContext) -> Result<bool, String> {
        if context.persistence != Persistence::AofEverysec {
            return Ok(false);
        }
        wait_until("a rewrite does not finish".to_owned(), || {
            let persistence = context.send("INFO persistence").text();
            persistence.contains("aof_rewrite_in_progress:0\r")
                && persistence.contains("rdb_bgsave_in_progress:0\r")
        })?;
        // The grant is on disk before the reply is sent.
        context.expect_ok("CONFIG SET appendfsync always")?;
        let holder = Holder::of_random_lock(context, LEASE_MS)?;
        context.expect_ok("CONFIG SET appendfsync everysec")?;
        let is_killed = context.rng.bool() && !context.tokens_ahead_of_clock;
        context.expect_error(MISCONF, |context| {
            limit_files(context, Some(1))?;
            await_refusal(context, MISCONF)?;
            let written = match &holder {
                Some(holder) if holder.still_holds(context)? => Some(holder.lock),
                _ => None,
            };
            end_session_meanwhile(context, MISCONF, holder)?;
            if is_killed {
                let from = now();
                context.server.kill9();
                context.server.restart();
                context.reconnect();
                let (by, to) = ("aof-full".to_owned(), now());
                let codes = vec!["LOADING ".to_owned()];
                context.record_event(Event::ErrorsExpected { codes, from, to });
                context.record_event(Event::StateLost { by, from, to });
                context.record_event(Event::DataLost { but: written, from, to });
            } else {
                limit_files(context, None)?;
            }
            await_acceptance(context)
        })?;
        Ok(true)
    }
}

/// Limits the size of the server's files, with a program of util-linux: neither std nor nix can
/// limit another process.
fn limit_files(context: &FaultContext, bytes: Option<u64>) -> Result<(), String> {
    let soft = bytes.map_or("unlimited".to_owned(), |bytes| bytes.to_string());
    let done = Command::new(PRLIMIT)
        .arg(format!("--pid={}", context.server.pid()))
        .arg(format!("--fsize={soft}:unlimited"))
        .output()
        .map_err(|error| format!("{PRLIMIT}: {error}"))?;
    match done.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&done.stderr).trim_end().to_owned()),
    }
}
