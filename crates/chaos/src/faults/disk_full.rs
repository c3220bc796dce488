//! `MISCONF`: a snapshot failed, so the server refuses the writes of all clients,
//! including RELEASE.

use std::fs;
use std::thread;
use std::time::Duration;

use super::{Fault, FaultContext, write_refusal};
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

    fn inject(&self, context: &mut FaultContext) -> Result<bool, String> {
        let (snapshot, backup) = (
            context.server.dir().join("dump.rdb"),
            context.server.dir().join("dump.backup"),
        );
        let failed = |error: std::io::Error| format!("misconf: {error}");
        let had_one = snapshot.is_file();
        if had_one {
            fs::rename(&snapshot, &backup).map_err(failed)?;
        }
        // A folder in the place of the snapshot makes saving fail.
        fs::create_dir(&snapshot).map_err(failed)?;
        let begin = |context: &mut FaultContext| {
            set_save(context, "3600 1")?;
            save_until(context, "err")
        };
        let end = |context: &mut FaultContext| {
            fs::remove_dir(&snapshot).map_err(failed)?;
            save_until(context, "ok")?;
            set_save(context, "")
        };
        write_refusal::run(context, "MISCONF ", begin, end)?;
        if had_one {
            fs::rename(&backup, &snapshot).map_err(failed)?;
        }
        Ok(true)
    }
}

fn set_save(context: &mut FaultContext, value: &str) -> Result<(), String> {
    let config = context.command_name("CONFIG");
    match context.send_args(&[config.as_bytes(), b"SET", b"save", value.as_bytes()]) {
        reply if reply == "OK" => Ok(()),
        reply => Err(format!("CONFIG SET save: {reply:?}")),
    }
}

/// Saves until the last save has this status.
fn save_until(context: &mut FaultContext, status: &str) -> Result<(), String> {
    let start = now();
    loop {
        // Fails if another save is running.
        let reply = context.send("BGSAVE");
        let persistence = context.send("INFO persistence").text();
        if persistence.contains(&format!("rdb_last_bgsave_status:{status}\r")) {
            return Ok(());
        }
        if now() - start > SOON {
            return Err(format!(
                "saving does not reach status {status}: {reply:?}, {persistence}"
            ));
        }
        thread::sleep(Duration::from_millis(5));
    }
}
