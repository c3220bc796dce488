//! What is to be reached, as data: what it is, its limit, and how it comes out of a run.
//! Whether it was reached is decided here and shown in `tables.rs`.

use crate::cells::most;
use crate::compared;
use crate::figures::{Run, median};
use crate::names;

/// One target.
pub(crate) struct Target {
    /// What it is about.
    pub what: &'static str,
    /// What is allowed.
    pub limit: Limit,
    /// How many places of the figure tell something.
    pub places: usize,
    /// The figure; NaN when it was not measured.
    pub figure: fn(&Run) -> f64,
}

/// What is allowed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
    /// Less than this.
    Below(f64),
}

/// What became of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The limit was kept.
    Met,
    /// It was not.
    Missed,
    /// There is no figure.
    NotMeasured,
}

impl Limit {
    /// Whether a figure keeps it.
    pub(crate) fn judge(self, figure: f64) -> Verdict {
        let kept = match self {
            _ if figure.is_nan() => return Verdict::NotMeasured,
            Self::AtMost(limit) => figure <= limit,
            Self::AtLeast(limit) => figure >= limit,
            Self::Below(limit) => figure < limit,
        };
        if kept { Verdict::Met } else { Verdict::Missed }
    }
}

/// All targets, in the order of the page.
pub(crate) const TARGETS: &[Target] = &[
    Target {
        what: "pair, events off, times the native pair: instructions",
        limit: Limit::AtMost(1.50),
        places: 3,
        figure: |run| pair(run, names::EVENTS_OFF, names::INSTRUCTIONS),
    },
    Target {
        what: "pair, events off, times the native pair: server CPU",
        limit: Limit::AtMost(1.50),
        places: 3,
        figure: |run| pair(run, names::EVENTS_OFF, names::CPU_US),
    },
    Target {
        what: "Lua pair, times ours: instructions",
        limit: Limit::AtLeast(2.6),
        places: 3,
        figure: |run| median(&compared::lua_to_ours(run, names::INSTRUCTIONS)),
    },
    Target {
        what: "Lua pair, times ours: server CPU",
        limit: Limit::AtLeast(2.6),
        places: 3,
        figure: |run| median(&compared::lua_to_ours(run, names::CPU_US)),
    },
    Target {
        what: "pair, events on, times the native pair: instructions",
        limit: Limit::AtMost(1.85),
        places: 3,
        figure: |run| pair(run, names::EVENTS_ON, names::INSTRUCTIONS),
    },
    Target {
        what: "hand-off: commands",
        // Two, and room for what is said once in a round and not at each hand-off.
        limit: Limit::AtMost(2.05),
        places: 2,
        figure: |run| median(hand_off(run, names::COMMANDS)),
    },
    Target {
        what: "hand-off: gap p50, times that of the quickest peer",
        limit: Limit::Below(1.0),
        places: 3,
        figure: gap_to_quickest,
    },
    Target {
        what: "hand-off: Jain's index",
        limit: Limit::AtLeast(0.99),
        places: 3,
        figure: |run| median(hand_off(run, names::JAIN)),
    },
    Target {
        what: "hand-off: longest that anybody sat out in any round, 8 workers",
        limit: Limit::AtMost(2.0 * names::WORKERS as f64),
        places: 0,
        figure: |run| most(hand_off(run, names::SAT_OUT)),
    },
    Target {
        what: "server CPU of a hand-off with 10,000 in line, times that with 10",
        limit: Limit::AtMost(1.3),
        places: 2,
        figure: |run| median(&compared::growth(run, names::OURS)),
    },
    Target {
        what: "100,000 locks held: bytes of each beyond a plain key",
        limit: Limit::AtMost(300.0),
        places: 0,
        figure: |run| median(&compared::bytes_more(run, 100_000)),
    },
    Target {
        what: "1,000,000 locks held: bytes of each beyond a plain key",
        limit: Limit::AtMost(300.0),
        places: 0,
        figure: |run| median(&compared::bytes_more(run, 1_000_000)),
    },
    Target {
        what: "commands over 2 ms meanwhile",
        limit: Limit::AtMost(0.0),
        places: 0,
        figure: slow_commands,
    },
    Target {
        what: "recovery with SESSION: p99, ms",
        limit: Limit::AtMost(10.0),
        places: 2,
        figure: |run| {
            let p99 =
                run.samples(names::RECOVERY, names::SESSION, names::OURS, names::P99_MS);
            median(p99)
        },
    },
    Target {
        what: "gpulock run, until the command's first output: p50, ms",
        limit: Limit::AtMost(15.0),
        places: 1,
        figure: |run| {
            let way = names::GPULOCK_RUN;
            median(run.samples(names::START, names::TO_OUTPUT, way, names::P50_MS))
        },
    },
    Target {
        what: "dearest command of others, locks held, times without the module",
        limit: Limit::AtMost(1.01),
        places: 3,
        figure: |run| dearest_bystander(run, names::LOCKS_HELD),
    },
    Target {
        what: "dearest command of others, clients in line, times without the module",
        limit: Limit::AtMost(1.01),
        places: 3,
        figure: |run| dearest_bystander(run, names::CLIENTS_WAITING),
    },
];

/// Our pair beside the native one.
fn pair(run: &Run, case: &str, measure: &str) -> f64 {
    median(&compared::to_native(run, case, names::OURS, measure))
}

/// Our hand-off.
fn hand_off<'a>(run: &'a Run, measure: &str) -> &'a [f64] {
    run.samples(names::HAND_OFF, &names::workers(names::WORKERS), names::OURS, measure)
}

/// Our gap beside the peer's that leaves us the least ahead.
fn gap_to_quickest(run: &Run) -> f64 {
    let [_, peers @ ..] = names::HAND_OFF_PEERS;
    most(&peers.map(|peer| median(&compared::gap_to(run, peer))))
}

/// The most slow commands in a round, with as many locks held as the targets speak of.
fn slow_commands(run: &Run) -> f64 {
    let slow = |count| most(compared::held(run, count, names::OURS, names::SLOW));
    most(&[100_000, 1_000_000].map(slow))
}

/// The ratio of that command which became dearest.
fn dearest_bystander(run: &Run, case: &str) -> f64 {
    let ratio = |command| median(&compared::bystander(run, case, command));
    let commands = compared::peers(run, names::BYSTANDERS).into_iter();
    most(&commands.map(ratio).collect::<Vec<f64>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    fn verdict(run: &Run, what: &str) -> Verdict {
        let target = TARGETS.iter().find(|target| target.what == what).unwrap();
        target.limit.judge((target.figure)(run))
    }

    #[test]
    fn a_limit_holds_to_its_very_value() {
        assert_eq!(Limit::AtMost(1.5).judge(1.5), Verdict::Met);
        assert_eq!(Limit::AtMost(1.5).judge(1.504), Verdict::Missed);
        assert_eq!(Limit::AtLeast(2.6).judge(2.6), Verdict::Met);
        assert_eq!(Limit::Below(1.0).judge(1.0), Verdict::Missed);
        assert_eq!(Limit::AtMost(1.5).judge(f64::NAN), Verdict::NotMeasured);
    }

    #[test]
    fn the_samples_meet_some_and_miss_some() {
        let (redis, valkey) = (sample::redis(), sample::valkey());
        let pair = "pair, events off, times the native pair: instructions";
        assert_eq!(verdict(&redis, pair), Verdict::Missed);
        let gap = "hand-off: gap p50, times that of the quickest peer";
        assert_eq!(verdict(&redis, gap), Verdict::Missed);
        assert_eq!(verdict(&valkey, gap), Verdict::Met);
        let bytes = "100,000 locks held: bytes of each beyond a plain key";
        assert_eq!(verdict(&redis, bytes), Verdict::Met);
        assert_eq!(verdict(&redis, "commands over 2 ms meanwhile"), Verdict::Missed);
        assert_eq!(verdict(&valkey, "recovery with SESSION: p99, ms"), Verdict::Met);
    }

    #[test]
    fn each_target_has_its_figure_in_a_run_of_all_parts() {
        for target in TARGETS {
            assert!((target.figure)(&sample::redis()).is_finite(), "{}", target.what);
        }
    }

    #[test]
    fn nothing_is_met_that_was_not_measured() {
        for target in TARGETS {
            let verdict = verdict(&sample::empty(), target.what);
            assert_eq!(verdict, Verdict::NotMeasured, "{}", target.what);
        }
    }
}
