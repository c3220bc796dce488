//! The server's wall clock is stepped by an hour, either way, and back after a moment. Leases and
//! waits are counted by it, so nothing is promised of those of that time. All else is: the
//! tokens rise, nobody but the owner releases, and afterwards all is as it was.

use super::{Fault, Site};
use crate::clock::now;
use crate::history::Event;

const HOUR: i64 = 3_600;

pub(super) struct ClockStepped;

impl Fault for ClockStepped {
    fn name(&self) -> &'static str {
        "clock"
    }

    fn weight(&self) -> u64 {
        3
    }

    fn needs(&self, site: &Site) -> Result<(), String> {
        site.ground.wall_clock.as_ref().map(|_| ()).map_err(Clone::clone)
    }

    fn strike(&self, site: &mut Site) -> Result<bool, String> {
        let by = if site.dice.percent(50) { HOUR } else { -HOUR };
        let from = now();
        let before = seconds(site);
        step(site, by)?;
        site.tokens_are_ahead |= by > 0;
        let stepped = seconds(site) - before;
        site.last(20, 400);
        step(site, 0)?;
        // Else leases and waits that began an hour ahead would last that much longer.
        site.must("FLUSHALL")?;
        site.send_waiters_away();
        let (name, to) = (self.name().to_owned(), now());
        site.excuse(Event::Touched { by: name, locks: None, from, to });
        site.excuse(Event::Stepped { from, to });
        match (by - 60..by + 60).contains(&stepped) {
            true => Ok(true),
            false => Err(format!("the server's clock went {stepped} s, not {by}")),
        }
    }
}

fn step(site: &Site, seconds: i64) -> Result<(), String> {
    site.ground.wall_clock.as_ref().map_err(Clone::clone)?.step(seconds)
}

/// What the server's clock shows.
fn seconds(site: &mut Site) -> i64 {
    let time = site.say("TIME");
    time.list()[0].text().parse().expect("TIME answers seconds")
}
