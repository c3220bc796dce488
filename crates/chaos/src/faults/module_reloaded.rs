//! The module is unloaded and loaded again while locks are held and no client waits. The
//! keys and their holds stay.

use std::thread;
use std::time::Duration;

use super::{Fault, FaultContext};
use crate::clock::{MS, now};
use crate::history::Event;

/// Maximum time, in ns, until the server has removed all waiters and grace periods.
const SOON: u64 = 3_000 * MS;

pub(super) struct ModuleReloaded;

impl Fault for ModuleReloaded {
    fn name(&self) -> &'static str {
        "module-reload"
    }

    fn weight(&self) -> u64 {
        2
    }

    fn inject(&self, context: &mut FaultContext) -> Result<bool, String> {
        if context.tokens_ahead_of_clock {
            return Ok(false);
        }
        let killed = context.kill_processes();
        let barrier = context.shared.barrier.clone();
        // Stops new calls, and closes the connections of all waiters.
        let _exclusive = barrier.enter_exclusive(|| {
            context.kill_waiters();
            thread::sleep(Duration::from_millis(1));
        });
        let from = now();
        unload(context)?;
        let path = context.module.display().to_string();
        // As at the start of the server.
        let round = context.queue_round.to_string();
        let setting = [&b"gpulock.round"[..], round.as_bytes()];
        let load = [&b"MODULE"[..], b"LOAD", path.as_bytes()];
        let loaded = context.send_args(&[&load[..], &setting].concat());
        if loaded != "OK" {
            return Err(format!("MODULE LOAD: {loaded:?}"));
        }
        context.record_event(Event::StateLost {
            by: self.name().to_owned(),
            from,
            to: now(),
        });
        context.start_processes(killed)?;
        Ok(true)
    }
}

fn unload(context: &mut FaultContext) -> Result<(), String> {
    let start = now();
    loop {
        let unloaded = context.send("MODULE UNLOAD gpulock");
        if unloaded == "OK" {
            return Ok(());
        }
        if now() - start > SOON {
            return Err(format!("MODULE UNLOAD: {unloaded:?}"));
        }
        thread::sleep(Duration::from_millis(2));
    }
}
