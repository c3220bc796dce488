//! The module is unloaded and loaded again while locks are held and nobody waits. The keys
//! stay, and so do the holds.

use std::thread;
use std::time::Duration;

use super::{Fault, Site};
use crate::clock::{MS, now};
use crate::history::Event;

/// What nobody waits for any more is gone from the server after this, in ns: graces.
const SOON: u64 = 3_000 * MS;

pub(super) struct ModuleReloaded;

impl Fault for ModuleReloaded {
    fn name(&self) -> &'static str {
        "module-reload"
    }

    fn weight(&self) -> u64 {
        2
    }

    fn strike(&self, site: &mut Site) -> Result<bool, String> {
        if site.tokens_are_ahead {
            return Ok(false);
        }
        let killed = site.kill_processes();
        let gate = site.floor.gate.clone();
        // Nobody new asks, and those who wait are sent away.
        let _alone = gate.enter_alone(|| {
            site.send_waiters_away();
            thread::sleep(Duration::from_millis(1));
        });
        let from = now();
        unload(site)?;
        let path = site.module.display().to_string();
        let loaded = site.say_bytes(&[b"MODULE", b"LOAD", path.as_bytes()]);
        if loaded != "OK" {
            return Err(format!("MODULE LOAD: {loaded:?}"));
        }
        site.excuse(Event::Forgot { by: self.name().to_owned(), from, to: now() });
        site.start_processes(killed)?;
        Ok(true)
    }
}

fn unload(site: &mut Site) -> Result<(), String> {
    let start = now();
    loop {
        let unloaded = site.say("MODULE UNLOAD gpulock");
        if unloaded == "OK" {
            return Ok(());
        }
        if now() - start > SOON {
            return Err(format!("MODULE UNLOAD: {unloaded:?}"));
        }
        thread::sleep(Duration::from_millis(2));
    }
}
