//! `MISCONF`: a snapshot could not be written, and so the server refuses the writes of all
//! clients, RELEASE too.

use std::fs;
use std::thread;
use std::time::Duration;

use super::{Fault, Site, refusal};
use crate::clock::{MS, Nanos, now};

const SOON: Nanos = 20_000 * MS;

pub(super) struct DiskFull;

impl Fault for DiskFull {
    fn name(&self) -> &'static str {
        "misconf"
    }

    fn weight(&self) -> u64 {
        2
    }

    fn strike(&self, site: &mut Site) -> Result<bool, String> {
        let (snapshot, aside) =
            (site.server.dir().join("dump.rdb"), site.server.dir().join("dump.aside"));
        let failed = |error: std::io::Error| format!("misconf: {error}");
        let had_one = snapshot.is_file();
        if had_one {
            fs::rename(&snapshot, &aside).map_err(failed)?;
        }
        // Where the snapshot should go stands a folder.
        fs::create_dir(&snapshot).map_err(failed)?;
        let begin = |site: &mut Site| {
            set_save(site, "3600 1")?;
            save_until(site, "err")
        };
        let end = |site: &mut Site| {
            fs::remove_dir(&snapshot).map_err(failed)?;
            save_until(site, "ok")?;
            set_save(site, "")
        };
        refusal::play(site, "MISCONF ", begin, end)?;
        if had_one {
            fs::rename(&aside, &snapshot).map_err(failed)?;
        }
        Ok(true)
    }
}

fn set_save(site: &mut Site, value: &str) -> Result<(), String> {
    let config = site.command("CONFIG");
    match site.say_bytes(&[config.as_bytes(), b"SET", b"save", value.as_bytes()]) {
        answer if answer == "OK" => Ok(()),
        answer => Err(format!("CONFIG SET save: {answer:?}")),
    }
}

/// Saves until the last save ended so.
fn save_until(site: &mut Site, status: &str) -> Result<(), String> {
    let start = now();
    loop {
        // Refused while another runs.
        let said = site.say("BGSAVE");
        let persistence = site.say("INFO persistence").text();
        if persistence.contains(&format!("rdb_last_bgsave_status:{status}\r")) {
            return Ok(());
        }
        if now() - start > SOON {
            return Err(format!("no save ends {status}: {said:?}, {persistence}"));
        }
        thread::sleep(Duration::from_millis(5));
    }
}
