//! The tables in Markdown: one function for each block of the page, with a group of columns
//! for each server.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use crate::derived;
use crate::formatting::{
    MISSING, NOT_MEASURED, Table, count, fixed, max, number, ratio, server,
    server_release, trimmed, with_range,
};
use crate::names;
use crate::series::{Run, median};
use crate::targets::{Limit, TARGETS, Target, Verdict};

/// A generated block of the page.
pub(crate) struct Block {
    /// Name in the block's marker.
    pub name: &'static str,
    /// Heading on the terminal.
    pub heading: &'static str,
    /// Renders the tables.
    pub render: fn(&[Run]) -> String,
}

/// All blocks, in terminal order.
pub(crate) const BLOCKS: &[Block] = &[
    Block { name: "head", heading: "Runs", render: head },
    Block { name: "targets", heading: "Targets", render: targets },
    Block { name: "pair", heading: "Pair, instructions", render: pair },
    Block {
        name: "pair-time",
        heading: "Pair, CPU and wall-clock time",
        render: pair_time,
    },
    Block { name: "pair-cases", heading: "Pair, AOF and replica", render: pair_cases },
    Block { name: "breakdown", heading: "Instructions by function", render: breakdown },
    Block { name: "pools", heading: "Acquiring one lock of a pool", render: pools },
    Block { name: "other-commands", heading: "Other commands", render: other_commands },
    Block { name: "load", heading: "Other commands, CPU time", render: load },
    Block { name: "idle", heading: "Idle server", render: idle },
    Block {
        name: "outside-changes",
        heading: "Changes by other clients",
        render: outside_changes,
    },
    Block { name: "hand-off", heading: "Hand-off", render: hand_off },
    Block {
        name: "hand-off-workers",
        heading: "Hand-off, other numbers of workers",
        render: hand_off_workers,
    },
    Block { name: "queue", heading: "Hand-off by queue length", render: queue },
    Block { name: "held", heading: "Many locks held", render: held },
    Block { name: "worst-cases", heading: "Worst cases", render: worst_cases },
    Block { name: "waiters", heading: "Memory of waiters", render: waiters },
    Block {
        name: "recovery",
        heading: "Recovery after the holder's death",
        render: recovery,
    },
    Block {
        name: "startup",
        heading: "Starting a command under a lock",
        render: startup,
    },
];

/// The block with this name.
pub(crate) fn block(name: &str) -> Result<&'static Block> {
    let names = || BLOCKS.iter().map(|block| block.name).collect::<Vec<_>>().join(", ");
    BLOCKS
        .iter()
        .find(|block| block.name == name)
        .with_context(|| format!("no block {name:?}; known blocks: {}", names()))
}

/// A column of each server: its heading, and the function that renders its cell for a row.
type Column<'a, R> = (&'a str, &'a dyn Fn(&Run, &R) -> String);

/// A table with a group of columns for each server. The heading of the group's first column
/// starts with the server's release.
fn grouped<R>(
    runs: &[Run],
    corner: &str,
    rows: &[(String, R)],
    columns: &[Column<'_, R>],
) -> String {
    let mut head = vec![corner.to_owned()];
    for run in runs {
        let [first, others @ ..] = columns else { continue };
        head.push(format!("{}: {}", server_release(run), first.0));
        head.extend(others.iter().map(|(name, _)| (*name).to_owned()));
    }
    let mut table = Table::new(head);
    for (label, row) in rows {
        let cells =
            runs.iter().flat_map(|run| columns.iter().map(|(_, cell)| cell(run, row)));
        table.row([label.clone()].into_iter().chain(cells).collect());
    }
    table.to_string()
}

/// Rows labelled with the name that they look up.
fn rows(names: &[&'static str]) -> Vec<(String, &'static str)> {
    names.iter().map(|name| ((*name).to_owned(), *name)).collect()
}

/// Rows labelled with a count.
fn count_rows(counts: &[usize]) -> Vec<(String, usize)> {
    counts.iter().map(|number| (count(*number as f64), *number)).collect()
}

/// Date, machine and versions of the runs.
fn head(runs: &[Run]) -> String {
    let row = |label: &str, cell: &dyn Fn(&Run) -> String| {
        let cells = runs.iter().map(cell);
        [label.to_owned()].into_iter().chain(cells).collect::<Vec<_>>()
    };
    let mut table = Table::new(row("", &server));
    table.row(row("date", &|run| run.date.clone()));
    table.row(row("machine", &|run| run.machine.clone()));
    table.row(row("load before the run", &|run| fixed(run.load, 2)));
    let versions: BTreeSet<&String> =
        runs.iter().flat_map(|run| run.versions.keys()).collect();
    for name in versions {
        let version = |run: &Run| run.versions.get(name).cloned();
        table.row(row(name, &|run| version(run).unwrap_or_else(|| MISSING.to_owned())));
    }
    table.to_string()
}

/// The targets, and whether each is met.
fn targets(runs: &[Run]) -> String {
    let limit = |target: &Target| match target.limit {
        Limit::AtMost(limit) => format!("at most {}", trimmed(limit)),
        Limit::AtLeast(limit) => format!("at least {}", trimmed(limit)),
        Limit::Below(limit) => format!("below {}", trimmed(limit)),
    };
    let cells = runs.iter().map(server_release);
    let titles = ["target".to_owned(), "limit".to_owned()];
    let mut table = Table::new(titles.into_iter().chain(cells).collect());
    for target in TARGETS {
        let cells = runs.iter().map(|run| judged(target, run));
        let titles = [target.what.to_owned(), limit(target)];
        table.row(titles.into_iter().chain(cells).collect());
    }
    table.to_string()
}

/// The value of a target and its verdict.
fn judged(target: &Target, run: &Run) -> String {
    let value = (target.value)(run);
    match target.limit.judge(value) {
        Verdict::Met => format!("{} met", fixed(value, target.decimals)),
        Verdict::Missed => format!("{} **missed**", fixed(value, target.decimals)),
        Verdict::NotMeasured => MISSING.to_owned(),
    }
}

/// The pairs, from the server's lower bound to the most expensive; GPULOCK in both cases.
const PAIRS: [(&str, &str); 9] = [
    (names::PING, names::EVENTS_OFF),
    (names::GET, names::EVENTS_OFF),
    (names::NATIVE, names::EVENTS_OFF),
    (names::DELIFEQ, names::EVENTS_OFF),
    (names::OURS, names::EVENTS_OFF),
    (names::OURS, names::EVENTS_ON),
    (names::SET_EVALSHA, names::EVENTS_OFF),
    (names::LUA, names::EVENTS_OFF),
    (names::FCALL, names::EVENTS_OFF),
];

fn pair_rows() -> Vec<(String, (&'static str, &'static str))> {
    let label = |peer: &str, case: &str| match peer {
        names::OURS => format!("{peer}, {case}"),
        _ => peer.to_owned(),
    };
    PAIRS.iter().map(|(peer, case)| (label(peer, case), (*peer, *case))).collect()
}

/// Instructions of acquiring and releasing a free lock.
fn pair(runs: &[Run]) -> String {
    grouped(
        runs,
        "pair",
        &pair_rows(),
        &[
            ("instructions", &|run, (peer, case)| {
                with_range(
                    run.samples(names::PAIR, case, peer, names::INSTRUCTIONS),
                    number,
                )
            }),
            ("× native", &|run, (peer, case)| {
                ratio(median(&derived::to_native(run, case, peer, names::INSTRUCTIONS)))
            }),
        ],
    )
}

/// The same in server CPU time and in wall-clock time at the client.
fn pair_time(runs: &[Run]) -> String {
    let samples = |run: &Run, (peer, case): &(&str, &str), measure| {
        with_range(run.samples(names::PAIR, case, peer, measure), number)
    };
    grouped(
        runs,
        "pair",
        &pair_rows(),
        &[
            (names::CPU_US, &|run, row| samples(run, row, names::CPU_US)),
            ("× native", &|run, (peer, case)| {
                ratio(median(&derived::to_native(run, case, peer, names::CPU_US)))
            }),
            (names::P50_MS, &|run, row| samples(run, row, names::P50_MS)),
            (names::P99_MS, &|run, row| samples(run, row, names::P99_MS)),
        ],
    )
}

/// Server CPU of a pair where the server also propagates writes, relative to the native pair.
fn pair_cases(runs: &[Run]) -> String {
    let peers = [
        names::OURS,
        names::NATIVE,
        names::DELIFEQ,
        names::SET_EVALSHA,
        names::LUA,
        names::FCALL,
    ];
    let cell = |run: &Run, peer: &str, case: &str| {
        let measured = run.samples(names::PAIR, case, peer, names::CPU_US);
        if measured.is_empty() {
            return MISSING.to_owned();
        }
        let to_native = median(&derived::to_native(run, case, peer, names::CPU_US));
        format!("{} us, {}", number(median(measured)), ratio(to_native))
    };
    grouped(
        runs,
        "server CPU, × native",
        &rows(&peers),
        &[
            (names::EVENTS_OFF, &|run, peer| cell(run, peer, names::EVENTS_OFF)),
            (names::EVENTS_ON, &|run, peer| cell(run, peer, names::EVENTS_ON)),
            (names::AOF, &|run, peer| cell(run, peer, names::AOF)),
            (names::REPLICA, &|run, peer| cell(run, peer, names::REPLICA)),
        ],
    )
}

/// Instructions of a pair in the module and in each function of the server.
fn breakdown(runs: &[Run]) -> String {
    let of = |run: &Run, function: &str, measure| {
        median(run.samples(names::BREAKDOWN, names::EVENTS_OFF, function, measure))
    };
    let highest = |function: &str| {
        let on = |run| of(run, function, names::INSTRUCTIONS);
        max(&runs.iter().map(on).collect::<Vec<_>>())
    };
    let mut functions = found(runs, names::BREAKDOWN, derived::peers);
    functions.sort_by(|(one, _), (other, _)| highest(other).total_cmp(&highest(one)));
    grouped(
        runs,
        "code",
        &functions,
        &[
            (names::TIMES, &|run, function| count(of(run, function, names::TIMES))),
            (names::INSTRUCTIONS, &|run, function| {
                count(of(run, function, names::INSTRUCTIONS))
            }),
        ],
    )
}

/// Rows for all cases or peers of a part on any server.
fn found(
    runs: &[Run],
    part: &str,
    names: for<'a> fn(&'a Run, &str) -> Vec<&'a str>,
) -> Vec<(String, String)> {
    let mut rows: Vec<(String, String)> = Vec::new();
    for name in runs.iter().flat_map(|run| names(run, part)) {
        if !rows.iter().any(|(_, known)| known == name) {
            rows.push((name.to_owned(), name.to_owned()));
        }
    }
    rows
}

/// Instructions of acquiring and releasing one lock of a pool.
fn pools(runs: &[Run]) -> String {
    let named = ("GPULOCK.ACQUIRE".to_owned(), names::ONE_LOCK.to_owned());
    let any = names::POOL_SIZES
        .iter()
        .flat_map(|size| {
            [names::all_free(*size), names::last_free(*size), names::exists(*size)]
        })
        .map(|case| (case.clone(), case));
    grouped(
        runs,
        "pair",
        &[named].into_iter().chain(any).collect::<Vec<_>>(),
        &[
            (names::INSTRUCTIONS, &|run, case| number(median(derived::pool(run, case)))),
            ("× ACQUIRE", &|run, case| {
                ratio(median(&derived::pool_to_one_lock(run, case)))
            }),
        ],
    )
}

/// Instructions of unrelated commands, without and with the module.
fn other_commands(runs: &[Run]) -> String {
    let relative = |run: &Run, case: &str, command: &str| {
        with_range(&derived::other_command(run, case, command), |value| fixed(value, 3))
    };
    let without = |run: &Run, command: &str| {
        let case = names::NO_MODULE;
        number(median(run.samples(
            names::OTHER_COMMANDS,
            case,
            command,
            names::INSTRUCTIONS,
        )))
    };
    grouped(
        runs,
        "command",
        &found(runs, names::OTHER_COMMANDS, derived::peers),
        &[
            (names::NO_MODULE, &|run, command| without(run, command)),
            (names::LOCKS_HELD, &|run, command| {
                relative(run, names::LOCKS_HELD, command)
            }),
            (names::CLIENTS_WAITING, &|run, command| {
                relative(run, names::CLIENTS_WAITING, command)
            }),
        ],
    )
}

/// Server CPU of unrelated commands, without and with the module.
fn load(runs: &[Run]) -> String {
    let cpu = |run: &Run, peer| with_range(derived::load(run, peer), number);
    grouped(
        runs,
        "server CPU for a command, us",
        &rows(&[names::LOCKS_AND_QUEUES]),
        &[
            (names::NO_MODULE, &|run, _| cpu(run, names::NO_MODULE)),
            (names::OURS, &|run, _| cpu(run, names::OURS)),
            ("× no module", &|run, _| {
                with_range(&derived::load_to_no_module(run), |value| fixed(value, 3))
            }),
        ],
    )
}

/// CPU of an idle server, without and with the module.
fn idle(runs: &[Run]) -> String {
    let percent = |samples: &[f64]| with_range(samples, |value| fixed(value, 3));
    grouped(
        runs,
        "% of a core",
        &found(runs, names::IDLE, derived::cases),
        &[
            (names::NO_MODULE, &|run, case| {
                percent(derived::idle(run, case, names::NO_MODULE))
            }),
            (names::OURS, &|run, case| percent(derived::idle(run, case, names::OURS))),
            ("difference", &|run, case| percent(&derived::idle_above(run, case))),
        ],
    )
}

/// Time from a change by another client to the grant.
fn outside_changes(runs: &[Run]) -> String {
    let cell = |run: &Run, case: &str, measure| {
        with_range(derived::outside_change(run, case, measure), number)
    };
    grouped(
        runs,
        "from DEL to grant",
        &found(runs, names::OUTSIDE_CHANGES, derived::cases),
        &[
            (names::P50_MS, &|run, case| cell(run, case, names::P50_MS)),
            (names::P99_MS, &|run, case| cell(run, case, names::P99_MS)),
            (names::MAX_MS, &|run, case| cell(run, case, names::MAX_MS)),
        ],
    )
}

/// The hand-off among eight workers: latency, cost and fairness.
fn hand_off(runs: &[Run]) -> String {
    let peers = rows(&names::HAND_OFF_PEERS);
    let case = names::workers(names::WORKERS);
    let cell = |run: &Run, peer: &str, measure, text| {
        with_range(run.samples(names::HAND_OFF, &case, peer, measure), text)
    };
    let gap = grouped(
        runs,
        "gap",
        &peers,
        &[
            (names::P50_MS, &|run, peer| cell(run, peer, names::P50_MS, number)),
            (names::P99_MS, &|run, peer| cell(run, peer, names::P99_MS, number)),
            (names::MAX_MS, &|run, peer| cell(run, peer, names::MAX_MS, number)),
        ],
    );
    let cost = grouped(
        runs,
        "per hand-off",
        &peers,
        &[
            (names::COMMANDS, &|run, peer| {
                cell(run, peer, names::COMMANDS, |n| fixed(n, 1))
            }),
            (names::CPU_US, &|run, peer| cell(run, peer, names::CPU_US, number)),
            (names::RATE, &|run, peer| cell(run, peer, names::RATE, number)),
        ],
    );
    let fairness = grouped(
        runs,
        "fairness",
        &peers,
        &[
            (names::JAIN, &|run, peer| cell(run, peer, names::JAIN, |n| fixed(n, 3))),
            (names::LONGEST_WAIT, &|run, peer| {
                cell(run, peer, names::LONGEST_WAIT, count)
            }),
        ],
    );
    [gap, cost, fairness].join("\n")
}

/// The same with fewer and with more workers, medians only.
fn hand_off_workers(runs: &[Run]) -> String {
    let eight = names::workers(names::WORKERS);
    let table = |(_, case): (String, String)| {
        let cell = |run: &Run, peer: &str, measure, text: fn(f64) -> String| {
            text(median(run.samples(names::HAND_OFF, &case, peer, measure)))
        };
        grouped(
            runs,
            &case,
            &rows(&names::HAND_OFF_PEERS),
            &[
                (names::P50_MS, &|run, peer| cell(run, peer, names::P50_MS, number)),
                (names::P99_MS, &|run, peer| cell(run, peer, names::P99_MS, number)),
                (names::COMMANDS, &|run, peer| {
                    cell(run, peer, names::COMMANDS, |n| fixed(n, 1))
                }),
                (names::JAIN, &|run, peer| cell(run, peer, names::JAIN, |n| fixed(n, 3))),
                (names::LONGEST_WAIT, &|run, peer| {
                    cell(run, peer, names::LONGEST_WAIT, count)
                }),
            ],
        )
    };
    let mut cases = found(runs, names::HAND_OFF, derived::cases);
    cases.retain(|(_, case)| *case != eight);
    if cases.is_empty() {
        return NOT_MEASURED.to_owned();
    }
    cases.into_iter().map(table).collect::<Vec<_>>().join("\n")
}

/// Server CPU of a hand-off by queue length, and its growth.
fn queue(runs: &[Run]) -> String {
    let cpu = |run: &Run, count: usize, peer| {
        with_range(derived::queue(run, count, peer), number)
    };
    let [ours, native, block_only] = names::QUEUE_PEERS;
    let cost = grouped(
        runs,
        names::CPU_US,
        &count_rows(&names::WAITING),
        &[
            (ours, &|run, count| cpu(run, *count, ours)),
            (native, &|run, count| cpu(run, *count, native)),
            (block_only, &|run, count| cpu(run, *count, block_only)),
        ],
    );
    let growth = grouped(
        runs,
        "10,000 vs. 10 waiting",
        &rows(&names::QUEUE_PEERS),
        &[("server CPU", &|run, peer| with_range(&derived::growth(run, peer), ratio))],
    );
    [cost, growth].join("\n")
}

/// Memory and cost of locks, by the number of locks held.
fn held(runs: &[Run]) -> String {
    fn of<'a>(run: &'a Run, held: usize, peer: &str, measure: &str) -> &'a [f64] {
        derived::held_locks(run, held, peer, measure)
    }
    let (ours, native) = (names::OURS, names::NATIVE);
    let counts = count_rows(&names::HELD_COUNTS);
    let memory = grouped(
        runs,
        "bytes per lock",
        &counts,
        &[
            ("plain key", &|run, held| {
                count(median(of(run, *held, native, names::BYTES)))
            }),
            ("lock", &|run, held| count(median(of(run, *held, ours, names::BYTES)))),
            ("difference", &|run, held| count(median(&derived::extra_bytes(run, *held)))),
        ],
    );
    let with_native = |measure: &str, text: fn(f64) -> String| {
        grouped(
            runs,
            measure,
            &counts,
            &[
                (ours, &|run, held| with_range(of(run, *held, ours, measure), text)),
                (native, &|run, held| with_range(of(run, *held, native, measure), text)),
            ],
        )
    };
    let cost = with_native(names::CPU_US, number);
    let slow = with_native(names::SLOW, count);
    let batch = with_native(names::BATCH_MS, number);
    [memory, cost, slow, batch].join("\n")
}

/// The time of each command at its limits.
fn worst_cases(runs: &[Run]) -> String {
    let mut cases: Vec<(String, (String, String))> = Vec::new();
    let all = runs.iter().flat_map(|run| &run.series);
    for series in all.filter(|series| series.part == names::WORST_CASES) {
        let label = format!("{}: {}", series.case, series.peer);
        if !cases.iter().any(|(known, _)| *known == label) {
            cases.push((label, (series.case.clone(), series.peer.clone())));
        }
    }
    grouped(
        runs,
        "command: limits",
        &cases,
        &[(names::LONGEST_MS, &|run, (command, limits)| {
            let part = names::WORST_CASES;
            with_range(run.samples(part, command, limits, names::LONGEST_MS), number)
        })],
    )
}

/// Memory of a waiting client beyond that of an idle one.
fn waiters(runs: &[Run]) -> String {
    let bytes = |run: &Run, case: &str, peer| {
        count(median(run.samples(names::WAITERS, case, peer, names::BYTES)))
    };
    grouped(
        runs,
        "bytes per client",
        &found(runs, names::WAITERS, derived::cases),
        &[
            (names::BLPOP, &|run, case| bytes(run, case, names::BLPOP)),
            (names::BLOCK_ONLY, &|run, case| bytes(run, case, names::BLOCK_ONLY)),
            (names::OURS, &|run, case| bytes(run, case, names::OURS)),
        ],
    )
}

/// Latency of starting a command under a lock.
fn startup(runs: &[Run]) -> String {
    let cell = |run: &Run, case, launcher: &str, measure| {
        with_range(run.samples(names::STARTUP, case, launcher, measure), number)
    };
    grouped(
        runs,
        "ms",
        &names::LAUNCHERS.map(|launcher| (launcher.to_owned(), launcher)),
        &[
            ("first output: p50", &|run, launcher| {
                cell(run, names::TO_OUTPUT, launcher, names::P50_MS)
            }),
            ("p99", &|run, launcher| {
                cell(run, names::TO_OUTPUT, launcher, names::P99_MS)
            }),
            ("exit status: p50", &|run, launcher| {
                cell(run, names::TO_STATUS, launcher, names::P50_MS)
            }),
        ],
    )
}

/// Time from the kill of the holder to the next grant.
fn recovery(runs: &[Run]) -> String {
    let cell = |run: &Run, case: &str, measure| {
        with_range(run.samples(names::RECOVERY, case, names::OURS, measure), number)
    };
    grouped(
        runs,
        "the lock ends with",
        &found(runs, names::RECOVERY, derived::cases),
        &[
            (names::P50_MS, &|run, case| cell(run, case, names::P50_MS)),
            (names::P99_MS, &|run, case| cell(run, case, names::P99_MS)),
            (names::MAX_MS, &|run, case| cell(run, case, names::MAX_MS)),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_runs;

    /// The cells of a line.
    fn cells(line: &str) -> Vec<&str> {
        line.trim_matches('|').split('|').map(str::trim).collect()
    }

    #[test]
    fn a_table_has_a_column_group_for_each_server() {
        let table = pair(&[test_runs::redis(), test_runs::valkey()]);
        assert_eq!(
            cells(table.lines().next().unwrap()),
            [
                "pair",
                "Redis 7.0: instructions",
                "× native",
                "Valkey 9.1: instructions",
                "× native"
            ]
        );
        let ours =
            table.lines().find(|line| line.contains("GPULOCK, events off")).unwrap();
        assert_eq!(cells(ours)[1..3], ["20,225 (20,185 to 20,286)", "1.61"]);
    }

    #[test]
    fn an_idle_server_is_shown_beside_one_without_the_module() {
        let table = idle(&[test_runs::redis()]);
        let row = table.lines().find(|line| line.contains("1 waiter")).unwrap();
        assert_eq!(
            cells(row)[1..],
            ["0.100 (0.090 to 0.120)", "0.700 (0.690 to 0.720)", "0.600"]
        );
    }

    #[test]
    fn a_missing_series_is_a_dash() {
        let table = pair(&[test_runs::redis(), test_runs::valkey()]);
        let row = table.lines().find(|line| line.contains(names::DELIFEQ)).unwrap();
        assert_eq!(cells(row)[1], MISSING);
        assert!(!pair(&[test_runs::redis()]).contains(names::DELIFEQ));
    }

    #[test]
    fn a_run_without_measurements_renders_as_not_measured() {
        for block in BLOCKS {
            let table = (block.render)(&[test_runs::empty()]);
            assert!(!table.contains("NaN"), "{}: {table}", block.name);
        }
        assert_eq!(hand_off(&[test_runs::empty()]).lines().next(), Some("Not measured."));
    }

    #[test]
    fn an_unknown_block_is_rejected() {
        let error = block("pears").err().unwrap().to_string();
        assert!(
            error.starts_with("no block \"pears\"; known blocks: head, targets, pair")
        );
    }
}
