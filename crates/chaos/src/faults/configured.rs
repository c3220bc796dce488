//! The configuration is changed under load: ours, and how often the server's clock ticks.

use super::{Fault, Site};

pub(super) struct Configured;

/// Settings that change nothing of what the checker holds the server to.
const HARMLESS: [(&str, &[&str]); 9] = [
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

impl Fault for Configured {
    fn name(&self) -> &'static str {
        "config"
    }

    fn strike(&self, site: &mut Site) -> Result<bool, String> {
        if site.dice.percent(10) {
            return few_may_wait(site).map(|()| true);
        }
        let (name, values) = *site.dice.pick(&HARMLESS).ok_or("no settings")?;
        let value = *site.dice.pick(values).ok_or("no values")?;
        site.must(&format!("CONFIG SET {name} {value}"))?;
        Ok(true)
    }
}

fn few_may_wait(site: &mut Site) -> Result<(), String> {
    site.refuse("MAXWAITERS", |site| {
        let few = site.dice.between(0, 3);
        site.must(&format!("CONFIG SET gpulock.max-waiters {few}"))?;
        site.last(5, 50);
        site.must("CONFIG SET gpulock.max-waiters 10000")
    })
}
