//! The targets: for each a limit, and how its value is derived from a run.

use crate::derived;
use crate::formatting::max;
use crate::names;
use crate::series::{Run, median};
use crate::worst_cases;

/// One target.
pub(crate) struct Target {
    /// Description.
    pub what: &'static str,
    /// Allowed values.
    pub limit: Limit,
    /// Number of decimals to show.
    pub decimals: usize,
    /// Returns the value; NaN if it was not measured.
    pub value: fn(&Run) -> f64,
}

/// The limit of a target.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    /// This value or less.
    AtMost(f64),
    /// This value or more.
    AtLeast(f64),
    /// Less than this value.
    Below(f64),
}

/// The result of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The value is within the limit.
    Met,
    /// The value is outside the limit.
    Missed,
    /// There is no value.
    NotMeasured,
}

impl Limit {
    /// Compares a value with the limit.
    pub(crate) fn judge(self, value: f64) -> Verdict {
        let met = match self {
            _ if value.is_nan() => return Verdict::NotMeasured,
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
            Self::Below(limit) => value < limit,
        };
        if met { Verdict::Met } else { Verdict::Missed }
    }
}

/// All targets, in page order.
pub(crate) const TARGETS: &[Target] = &[
    Target {
        what: "pair, events off, × native: instructions",
        limit: Limit::AtMost(1.25),
        decimals: 3,
        value: |run| pair(run, names::EVENTS_OFF, names::INSTRUCTIONS),
    },
    Target {
        what: "pair, events off, × native: server CPU",
        limit: Limit::AtMost(1.50),
        decimals: 3,
        value: |run| pair(run, names::EVENTS_OFF, names::CPU_US),
    },
    Target {
        what: "Lua pair, × GPULOCK: instructions",
        limit: Limit::AtLeast(2.6),
        decimals: 3,
        value: |run| median(&derived::lua_to_ours(run, names::INSTRUCTIONS)),
    },
    Target {
        what: "Lua pair, × GPULOCK: server CPU",
        limit: Limit::AtLeast(2.6),
        decimals: 3,
        value: |run| median(&derived::lua_to_ours(run, names::CPU_US)),
    },
    Target {
        what: "pair, events on, × native: instructions",
        limit: Limit::AtMost(1.85),
        decimals: 3,
        value: |run| pair(run, names::EVENTS_ON, names::INSTRUCTIONS),
    },
    Target {
        what: "hand-off: commands",
        // Two, with a margin for the commands sent once per round.
        limit: Limit::AtMost(2.05),
        decimals: 2,
        value: |run| median(hand_off(run, names::COMMANDS)),
    },
    Target {
        what: "hand-off: gap p50, × fastest peer",
        limit: Limit::Below(1.0),
        decimals: 3,
        value: gap_to_fastest,
    },
    Target {
        what: "hand-off: Jain's index",
        limit: Limit::AtLeast(0.99),
        decimals: 3,
        value: |run| median(hand_off(run, names::JAIN)),
    },
    Target {
        what: "hand-off: longest wait in any round, 8 workers, hand-offs",
        limit: Limit::AtMost(2.0 * names::WORKERS as f64),
        decimals: 0,
        value: |run| max(hand_off(run, names::LONGEST_WAIT)),
    },
    Target {
        what: "hand-off: server CPU with 10,000 waiting, × 10 waiting",
        limit: Limit::AtMost(1.3),
        decimals: 2,
        value: |run| median(&derived::growth(run, names::OURS)),
    },
    Target {
        what: "100,000 locks held: bytes per lock beyond a plain key",
        limit: Limit::AtMost(300.0),
        decimals: 0,
        value: |run| median(&derived::extra_bytes(run, 100_000)),
    },
    Target {
        what: "1,000,000 locks held: bytes per lock beyond a plain key",
        limit: Limit::AtMost(300.0),
        decimals: 0,
        value: |run| median(&derived::extra_bytes(run, 1_000_000)),
    },
    Target {
        what: "pair with 1,000,000 locks held, × native: server CPU",
        limit: Limit::AtMost(1.6),
        decimals: 2,
        value: |run| median(&derived::held_to_native(run, 1_000_000)),
    },
    Target {
        what: "one of 8, all free, × ACQUIRE: instructions",
        limit: Limit::AtMost(1.3),
        decimals: 2,
        value: |run| pool(run, &names::all_free(8)),
    },
    Target {
        what: "one of 8, the last free, × ACQUIRE: instructions",
        limit: Limit::AtMost(2.0),
        decimals: 2,
        value: |run| pool(run, &names::last_free(8)),
    },
    Target {
        what: "one of 512, the last free, × ACQUIRE: instructions",
        limit: Limit::AtMost(10.0),
        decimals: 2,
        value: |run| pool(run, &names::last_free(512)),
    },
    Target {
        what: "commands over 2 ms while acquiring 1,000,000 locks",
        limit: Limit::AtMost(0.0),
        decimals: 0,
        value: slow_commands,
    },
    Target {
        what: "longest single command, worst case, ms",
        limit: Limit::AtMost(3.0),
        decimals: 2,
        value: longest_command,
    },
    Target {
        what: "recovery with SESSION: p99, ms",
        limit: Limit::AtMost(10.0),
        decimals: 2,
        value: |run| {
            let p99 =
                run.samples(names::RECOVERY, names::SESSION, names::OURS, names::P99_MS);
            median(p99)
        },
    },
    Target {
        what: "gpulock run, time to first output: p50, ms",
        limit: Limit::AtMost(15.0),
        decimals: 1,
        value: |run| {
            let launcher = names::GPULOCK_RUN;
            median(run.samples(names::STARTUP, names::TO_OUTPUT, launcher, names::P50_MS))
        },
    },
    Target {
        what: "costliest other command, locks held, × no module",
        limit: Limit::AtMost(1.01),
        decimals: 3,
        value: |run| costliest_other_command(run, names::LOCKS_HELD),
    },
    Target {
        what: "costliest other command, clients waiting, × no module",
        limit: Limit::AtMost(1.01),
        decimals: 3,
        value: |run| costliest_other_command(run, names::CLIENTS_WAITING),
    },
    Target {
        what: "other commands, locks and waiters, × no module: CPU",
        limit: Limit::AtMost(1.02),
        decimals: 3,
        value: |run| median(&derived::load_to_no_module(run)),
    },
    Target {
        what: "idle, 1 waiter: CPU above no module, % of a core",
        limit: Limit::AtMost(0.1),
        decimals: 3,
        value: |run| idle(run, &names::queues(1)),
    },
    Target {
        what: "idle, 1,000 queues: CPU above no module, % of a core",
        limit: Limit::AtMost(0.1),
        decimals: 3,
        value: |run| idle(run, &names::queues(1_000)),
    },
    Target {
        what: "idle, 100,000 held: CPU above no module, % of a core",
        limit: Limit::AtMost(0.1),
        decimals: 3,
        value: |run| idle(run, &names::held(names::IDLE_HELD)),
    },
    Target {
        what: "DEL by another client to grant, busy server: p50, ms",
        limit: Limit::AtMost(5.0),
        decimals: 2,
        value: |run| outside_change(run, names::BUSY, names::P50_MS),
    },
    Target {
        what: "DEL by another client to grant, busy server: p99, ms",
        limit: Limit::AtMost(10.0),
        decimals: 2,
        value: |run| outside_change(run, names::BUSY, names::P99_MS),
    },
    Target {
        what: "DEL by another client to grant, after silence: p99, ms",
        limit: Limit::AtMost(10.0),
        decimals: 2,
        value: |run| outside_change(run, names::SILENT, names::P99_MS),
    },
];

/// Acquiring one lock of a pool relative to acquiring a named lock.
fn pool(run: &Run, case: &str) -> f64 {
    median(&derived::pool_to_one_lock(run, case))
}

/// CPU of an idle server beyond that of one without the module.
fn idle(run: &Run, case: &str) -> f64 {
    median(&derived::idle_above(run, case))
}

/// Time from a change by another client to the grant.
fn outside_change(run: &Run, case: &str, measure: &str) -> f64 {
    median(derived::outside_change(run, case, measure))
}

/// The GPULOCK pair relative to the native one.
fn pair(run: &Run, case: &str, measure: &str) -> f64 {
    median(&derived::to_native(run, case, names::OURS, measure))
}

/// Samples of the GPULOCK hand-off.
fn hand_off<'a>(run: &'a Run, measure: &str) -> &'a [f64] {
    run.samples(names::HAND_OFF, &names::workers(names::WORKERS), names::OURS, measure)
}

/// The GPULOCK gap relative to that of the fastest peer.
fn gap_to_fastest(run: &Run) -> f64 {
    let [_, peers @ ..] = names::HAND_OFF_PEERS;
    max(&peers.map(|peer| median(&derived::gap_to(run, peer))))
}

/// The highest number of slow commands in a round.
fn slow_commands(run: &Run) -> f64 {
    let slow = |count| max(derived::held_locks(run, count, names::OURS, names::SLOW));
    max(&[100_000, 1_000_000].map(slow))
}

/// The longest of the worst cases of the module's commands.
fn longest_command(run: &Run) -> f64 {
    let others = [worst_cases::ROLE_CHANGE, worst_cases::SETTING];
    let cases = run.series.iter().filter(|series| {
        series.part == names::WORST_CASES && !others.contains(&&*series.case)
    });
    max(&cases.map(|series| median(&series.samples)).collect::<Vec<f64>>())
}

/// The highest ratio of all unrelated commands.
fn costliest_other_command(run: &Run, case: &str) -> f64 {
    let ratio = |command| median(&derived::other_command(run, case, command));
    let commands = derived::peers(run, names::OTHER_COMMANDS).into_iter();
    max(&commands.map(ratio).collect::<Vec<f64>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_runs;

    fn verdict(run: &Run, what: &str) -> Verdict {
        let target = TARGETS.iter().find(|target| target.what == what).unwrap();
        target.limit.judge((target.value)(run))
    }

    #[test]
    fn limits_are_exact() {
        assert_eq!(Limit::AtMost(1.5).judge(1.5), Verdict::Met);
        assert_eq!(Limit::AtMost(1.5).judge(1.504), Verdict::Missed);
        assert_eq!(Limit::AtLeast(2.6).judge(2.6), Verdict::Met);
        assert_eq!(Limit::Below(1.0).judge(1.0), Verdict::Missed);
        assert_eq!(Limit::AtMost(1.5).judge(f64::NAN), Verdict::NotMeasured);
    }

    #[test]
    fn sample_runs_meet_some_targets_and_miss_others() {
        let (redis, valkey) = (test_runs::redis(), test_runs::valkey());
        let pair = "pair, events off, × native: instructions";
        assert_eq!(verdict(&redis, pair), Verdict::Missed);
        let gap = "hand-off: gap p50, × fastest peer";
        assert_eq!(verdict(&redis, gap), Verdict::Missed);
        assert_eq!(verdict(&valkey, gap), Verdict::Met);
        let bytes = "100,000 locks held: bytes per lock beyond a plain key";
        assert_eq!(verdict(&redis, bytes), Verdict::Met);
        assert_eq!(
            verdict(&redis, "commands over 2 ms while acquiring 1,000,000 locks"),
            Verdict::Missed
        );
        assert_eq!(verdict(&valkey, "recovery with SESSION: p99, ms"), Verdict::Met);
        let idle = "idle, 1,000 queues: CPU above no module, % of a core";
        assert_eq!(verdict(&redis, idle), Verdict::Missed);
        assert_eq!(verdict(&valkey, idle), Verdict::Met);
        let load = "other commands, locks and waiters, × no module: CPU";
        assert_eq!(verdict(&redis, load), Verdict::Missed);
        assert_eq!(verdict(&valkey, load), Verdict::Met);
        let change = "DEL by another client to grant, busy server: p99, ms";
        assert_eq!(verdict(&redis, change), Verdict::Met);
    }

    #[test]
    fn a_complete_run_has_a_value_for_each_target() {
        for target in TARGETS {
            assert!((target.value)(&test_runs::redis()).is_finite(), "{}", target.what);
        }
    }

    #[test]
    fn an_unmeasured_target_is_not_met() {
        for target in TARGETS {
            let verdict = verdict(&test_runs::empty(), target.what);
            assert_eq!(verdict, Verdict::NotMeasured, "{}", target.what);
        }
    }
}
