//! The configuration of the module and the server's timer frequency change under load.

use super::{Fault, FaultContext};
use crate::rng::chance;

pub(super) struct ConfigChanged;

/// Settings that do not affect any rule of the checker.
const SAFE_SETTINGS: [(&str, &[&str]); 11] = [
    // More than the clients of the load: kept positions make no call fail.
    ("gpulock.max-waiters", &["100", "10000"]),
    ("gpulock.remembered-tags", &["0", "2", "10000"]),
    ("gpulock.place-keep", &["0", "20", "10000"]),
    ("gpulock.events", &["off", "release", "all"]),
    ("gpulock.tracked-keys", &["0", "3", "1024"]),
    ("gpulock.log-len", &["0", "1", "128"]),
    ("gpulock.warn-hold", &["0", "1"]),
    ("gpulock.default-lease", &["1000", "600000"]),
    ("gpulock.max-hold", &["0", "3600000"]),
    ("gpulock.channel-prefix", &["gpu_lock:", "other:"]),
    ("hz", &["1", "10", "500"]),
];

impl Fault for ConfigChanged {
    fn name(&self) -> &'static str {
        "config"
    }

    fn inject(&self, context: &mut FaultContext) -> Result<bool, String> {
        if chance(&mut context.rng, 10) {
            return limit_waiters(context).map(|()| true);
        }
        if chance(&mut context.rng, 10) {
            return limit_priorities(context).map(|()| true);
        }
        let (name, values) = *context.rng.choice(&SAFE_SETTINGS).ok_or("no settings")?;
        let value = *context.rng.choice(values).ok_or("no values")?;
        context.expect_ok(&format!("CONFIG SET {name} {value}"))?;
        Ok(true)
    }
}

fn limit_priorities(context: &mut FaultContext) -> Result<(), String> {
    context.expect_error("ERR PRIORITY exceeds", |context| {
        let max = context.rng.i64(-1..=2);
        context.expect_ok(&format!("CONFIG SET gpulock.max-priority {max}"))?;
        context.sleep_between(5, 50);
        context.expect_ok("CONFIG SET gpulock.max-priority 100")
    })
}

fn limit_waiters(context: &mut FaultContext) -> Result<(), String> {
    context.expect_error("MAXWAITERS", |context| {
        let few = context.rng.u64(0..=3);
        context.expect_ok(&format!("CONFIG SET gpulock.max-waiters {few}"))?;
        context.sleep_between(5, 50);
        context.expect_ok("CONFIG SET gpulock.max-waiters 10000")
    })
}
