//! The server's wall clock is stepped by an hour in either direction, and back after a
//! moment. Leases and waits depend on it, so none of that period are checked. Everything
//! else must hold: tokens increase, only the owner releases, and afterwards all works as
//! before.

use super::{Fault, FaultContext};
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

    fn requirements(&self, context: &FaultContext) -> Result<(), String> {
        context.environment.wall_clock.as_ref().map(|_| ()).map_err(Clone::clone)
    }

    fn inject(&self, context: &mut FaultContext) -> Result<bool, String> {
        let by = if context.rng.bool() { HOUR } else { -HOUR };
        let from = now();
        let before = seconds(context);
        step(context, by)?;
        context.tokens_ahead_of_clock |= by > 0;
        let stepped = seconds(context) - before;
        context.sleep_between(20, 400);
        step(context, 0)?;
        // Otherwise leases and waits that began an hour ahead would last that much
        // longer.
        context.expect_ok("FLUSHALL")?;
        context.kill_waiters();
        let (name, to) = (self.name().to_owned(), now());
        context.record_event(Event::KeysModified { by: name, locks: None, from, to });
        context.record_event(Event::ClockStepped { from, to });
        match (by - 60..by + 60).contains(&stepped) {
            true => Ok(true),
            false => {
                Err(format!("the server's clock moved by {stepped} s instead of {by} s"))
            }
        }
    }
}

fn step(context: &FaultContext, seconds: i64) -> Result<(), String> {
    context.environment.wall_clock.as_ref().map_err(Clone::clone)?.step(seconds)
}

/// The server's time.
fn seconds(context: &mut FaultContext) -> i64 {
    let time = context.send("TIME");
    time.list()[0].text().parse().expect("TIME returns seconds")
}
