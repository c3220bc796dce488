//! The tables: from figures to Markdown, one function for each block of the page, with a
//! group of columns for each server. How a number is written is told in `cells.rs`, what is
//! compared with what in `compared.rs`.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use crate::cells::{
    MISSING, NOT_MEASURED, Table, bare, count, fixed, most, number, ratio, release,
    server, spread,
};
use crate::compared;
use crate::figures::{Run, median};
use crate::names;
use crate::targets::{Limit, TARGETS, Target, Verdict};

/// What fills a block of the page.
pub(crate) struct Block {
    /// What the page calls it.
    pub name: &'static str,
    /// What stands above it on a terminal.
    pub heading: &'static str,
    /// Makes it.
    pub made: fn(&[Run]) -> String,
}

/// All blocks, in the order of a terminal.
pub(crate) const BLOCKS: &[Block] = &[
    Block { name: "head", heading: "The runs", made: head },
    Block { name: "targets", heading: "Targets", made: targets },
    Block { name: "pair", heading: "The pair, instructions", made: pair },
    Block { name: "pair-time", heading: "The pair, by CPU and clock", made: pair_time },
    Block { name: "pair-cases", heading: "The pair, AOF and replica", made: pair_cases },
    Block { name: "calls", heading: "Where the instructions go", made: calls },
    Block { name: "pools", heading: "Taking one lock of a pool", made: pools },
    Block { name: "bystanders", heading: "Other people's commands", made: bystanders },
    Block { name: "hand-off", heading: "Passing a lock on", made: hand_off },
    Block { name: "crowds", heading: "Passing a lock on, two and many", made: crowds },
    Block { name: "in-line", heading: "Many in line", made: in_line },
    Block { name: "held", heading: "Many locks held", made: held },
    Block { name: "waiters", heading: "Memory of clients in line", made: waiters },
    Block { name: "recovery", heading: "After the holder's death", made: recovery },
    Block { name: "start", heading: "A command under a lock", made: start },
];

/// The block that a page asks for.
pub(crate) fn block(name: &str) -> Result<&'static Block> {
    let names = || BLOCKS.iter().map(|block| block.name).collect::<Vec<_>>().join(", ");
    BLOCKS
        .iter()
        .find(|block| block.name == name)
        .with_context(|| format!("no block {name:?}; there are: {}", names()))
}

/// A column of each server: its name, and the cell in the row of `R`.
type Column<'a, R> = (&'a str, &'a dyn Fn(&Run, &R) -> String);

/// A table with a group of columns for each server, whose name stands above the first.
fn grouped<R>(
    runs: &[Run],
    corner: &str,
    rows: &[(String, R)],
    columns: &[Column<'_, R>],
) -> String {
    let mut head = vec![corner.to_owned()];
    for run in runs {
        let [first, others @ ..] = columns else { continue };
        head.push(format!("{}: {}", release(run), first.0));
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

/// Rows that are called as what they are looked up by.
fn rows(names: &[&'static str]) -> Vec<(String, &'static str)> {
    names.iter().map(|name| ((*name).to_owned(), *name)).collect()
}

/// Rows of counts.
fn count_rows(counts: &[usize]) -> Vec<(String, usize)> {
    counts.iter().map(|number| (count(*number as f64), *number)).collect()
}

/// When, where and with what was measured.
fn head(runs: &[Run]) -> String {
    let told = |label: &str, said: &dyn Fn(&Run) -> String| {
        let cells = runs.iter().map(said);
        [label.to_owned()].into_iter().chain(cells).collect::<Vec<_>>()
    };
    let mut table = Table::new(told("", &server));
    table.row(told("date", &|run| run.date.clone()));
    table.row(told("machine", &|run| run.machine.clone()));
    table.row(told("load before the run", &|run| fixed(run.load, 2)));
    let versions: BTreeSet<&String> =
        runs.iter().flat_map(|run| run.versions.keys()).collect();
    for name in versions {
        let version = |run: &Run| run.versions.get(name).cloned();
        table.row(told(name, &|run| version(run).unwrap_or_else(|| MISSING.to_owned())));
    }
    table.to_string()
}

/// What was to be reached, and whether it was.
fn targets(runs: &[Run]) -> String {
    let limit = |target: &Target| match target.limit {
        Limit::AtMost(limit) => format!("at most {}", bare(limit)),
        Limit::AtLeast(limit) => format!("at least {}", bare(limit)),
        Limit::Below(limit) => format!("below {}", bare(limit)),
    };
    let cells = runs.iter().map(release);
    let titles = ["target".to_owned(), "limit".to_owned()];
    let mut table = Table::new(titles.into_iter().chain(cells).collect());
    for target in TARGETS {
        let cells = runs.iter().map(|run| judged(target, run));
        let titles = [target.what.to_owned(), limit(target)];
        table.row(titles.into_iter().chain(cells).collect());
    }
    table.to_string()
}

/// The figure of a target, and what became of it.
fn judged(target: &Target, run: &Run) -> String {
    let figure = (target.figure)(run);
    match target.limit.judge(figure) {
        Verdict::Met => format!("{} met", fixed(figure, target.places)),
        Verdict::Missed => format!("{} **missed**", fixed(figure, target.places)),
        Verdict::NotMeasured => MISSING.to_owned(),
    }
}

/// The pairs, from the server's own limit to the dearest; ours twice.
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

/// What taking a free lock and giving it back costs, in instructions.
fn pair(runs: &[Run]) -> String {
    grouped(
        runs,
        "pair",
        &pair_rows(),
        &[
            ("instructions", &|run, (peer, case)| {
                spread(run.samples(names::PAIR, case, peer, names::INSTRUCTIONS), number)
            }),
            ("to native", &|run, (peer, case)| {
                ratio(median(&compared::to_native(run, case, peer, names::INSTRUCTIONS)))
            }),
        ],
    )
}

/// The same by the server's CPU, and as a client sees it.
fn pair_time(runs: &[Run]) -> String {
    let samples = |run: &Run, (peer, case): &(&str, &str), measure| {
        spread(run.samples(names::PAIR, case, peer, measure), number)
    };
    grouped(
        runs,
        "pair",
        &pair_rows(),
        &[
            (names::CPU_US, &|run, row| samples(run, row, names::CPU_US)),
            ("to native", &|run, (peer, case)| {
                ratio(median(&compared::to_native(run, case, peer, names::CPU_US)))
            }),
            (names::P50_MS, &|run, row| samples(run, row, names::P50_MS)),
            (names::P99_MS, &|run, row| samples(run, row, names::P99_MS)),
        ],
    )
}

/// What a pair costs beside the native one where the server has more to do: server CPU.
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
        let to_native = median(&compared::to_native(run, case, peer, names::CPU_US));
        format!("{} us, {}", number(median(measured)), ratio(to_native))
    };
    grouped(
        runs,
        "server CPU, times native",
        &rows(&peers),
        &[
            (names::EVENTS_OFF, &|run, peer| cell(run, peer, names::EVENTS_OFF)),
            (names::EVENTS_ON, &|run, peer| cell(run, peer, names::EVENTS_ON)),
            (names::AOF, &|run, peer| cell(run, peer, names::AOF)),
            (names::REPLICA, &|run, peer| cell(run, peer, names::REPLICA)),
        ],
    )
}

/// Which functions of the server, and how much of the module, a pair goes through.
fn calls(runs: &[Run]) -> String {
    let of = |run: &Run, place: &str, measure| {
        median(run.samples(names::CALLS, names::EVENTS_OFF, place, measure))
    };
    let dearest = |place: &str| {
        let on = |run| of(run, place, names::INSTRUCTIONS);
        most(&runs.iter().map(on).collect::<Vec<_>>())
    };
    let mut places = found(runs, names::CALLS, compared::peers);
    places.sort_by(|(one, _), (other, _)| dearest(other).total_cmp(&dearest(one)));
    grouped(
        runs,
        "where",
        &places,
        &[
            (names::TIMES, &|run, place| count(of(run, place, names::TIMES))),
            (names::INSTRUCTIONS, &|run, place| {
                count(of(run, place, names::INSTRUCTIONS))
            }),
        ],
    )
}

/// Rows of whatever cases or peers a part has on any server.
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

/// What a lock of a pool costs.
fn pools(runs: &[Run]) -> String {
    let named = ("GPULOCK.ACQUIRE".to_owned(), names::ONE_LOCK.to_owned());
    let any = names::POOL_SIZES
        .iter()
        .flat_map(|size| [names::all_free(*size), names::last_free(*size)])
        .map(|case| (case.clone(), case));
    grouped(
        runs,
        "pair",
        &[named].into_iter().chain(any).collect::<Vec<_>>(),
        &[
            (names::INSTRUCTIONS, &|run, case| number(median(compared::pool(run, case)))),
            ("to ACQUIRE", &|run, case| {
                ratio(median(&compared::pool_to_one_lock(run, case)))
            }),
        ],
    )
}

/// What other people's commands cost, without the module and with it.
fn bystanders(runs: &[Run]) -> String {
    let beside = |run: &Run, case: &str, command: &str| {
        spread(&compared::bystander(run, case, command), |value| fixed(value, 3))
    };
    let without = |run: &Run, command: &str| {
        let case = names::NO_MODULE;
        number(median(run.samples(names::BYSTANDERS, case, command, names::INSTRUCTIONS)))
    };
    grouped(
        runs,
        "command",
        &found(runs, names::BYSTANDERS, compared::peers),
        &[
            (names::NO_MODULE, &|run, command| without(run, command)),
            (names::LOCKS_HELD, &|run, command| beside(run, names::LOCKS_HELD, command)),
            (names::CLIENTS_WAITING, &|run, command| {
                beside(run, names::CLIENTS_WAITING, command)
            }),
        ],
    )
}

/// How a lock passes on among eight: how quickly, at which price, how fairly.
fn hand_off(runs: &[Run]) -> String {
    let peers = rows(&names::HAND_OFF_PEERS);
    let case = names::workers(names::WORKERS);
    let told = |run: &Run, peer: &str, measure, text| {
        spread(run.samples(names::HAND_OFF, &case, peer, measure), text)
    };
    let gap = grouped(
        runs,
        "the gap",
        &peers,
        &[
            (names::P50_MS, &|run, peer| told(run, peer, names::P50_MS, number)),
            (names::P99_MS, &|run, peer| told(run, peer, names::P99_MS, number)),
            (names::MAX_MS, &|run, peer| told(run, peer, names::MAX_MS, number)),
        ],
    );
    let price = grouped(
        runs,
        "a hand-off",
        &peers,
        &[
            (names::COMMANDS, &|run, peer| {
                told(run, peer, names::COMMANDS, |n| fixed(n, 1))
            }),
            (names::CPU_US, &|run, peer| told(run, peer, names::CPU_US, number)),
            (names::RATE, &|run, peer| told(run, peer, names::RATE, number)),
        ],
    );
    let fairness = grouped(
        runs,
        "fairness",
        &peers,
        &[
            (names::JAIN, &|run, peer| told(run, peer, names::JAIN, |n| fixed(n, 3))),
            (names::SAT_OUT, &|run, peer| told(run, peer, names::SAT_OUT, count)),
        ],
    );
    [gap, price, fairness].join("\n")
}

/// The same among fewer and among more, in short.
fn crowds(runs: &[Run]) -> String {
    let eight = names::workers(names::WORKERS);
    let table = |(_, case): (String, String)| {
        let told = |run: &Run, peer: &str, measure, text: fn(f64) -> String| {
            text(median(run.samples(names::HAND_OFF, &case, peer, measure)))
        };
        grouped(
            runs,
            &case,
            &rows(&names::HAND_OFF_PEERS),
            &[
                (names::P50_MS, &|run, peer| told(run, peer, names::P50_MS, number)),
                (names::P99_MS, &|run, peer| told(run, peer, names::P99_MS, number)),
                (names::COMMANDS, &|run, peer| {
                    told(run, peer, names::COMMANDS, |n| fixed(n, 1))
                }),
                (names::JAIN, &|run, peer| told(run, peer, names::JAIN, |n| fixed(n, 3))),
                (names::SAT_OUT, &|run, peer| told(run, peer, names::SAT_OUT, count)),
            ],
        )
    };
    let mut cases = found(runs, names::HAND_OFF, compared::cases);
    cases.retain(|(_, case)| *case != eight);
    if cases.is_empty() {
        return NOT_MEASURED.to_owned();
    }
    cases.into_iter().map(table).collect::<Vec<_>>().join("\n")
}

/// What a hand-off costs with few and with many in line, and how that grows.
fn in_line(runs: &[Run]) -> String {
    let cpu = |run: &Run, count: usize, peer| {
        spread(compared::in_line(run, count, peer), number)
    };
    let [ours, native, blocks] = names::IN_LINE_PEERS;
    let cost = grouped(
        runs,
        names::CPU_US,
        &count_rows(&names::WAITING),
        &[
            (ours, &|run, count| cpu(run, *count, ours)),
            (native, &|run, count| cpu(run, *count, native)),
            (blocks, &|run, count| cpu(run, *count, blocks)),
        ],
    );
    let growth = grouped(
        runs,
        "10,000, times 10",
        &rows(&names::IN_LINE_PEERS),
        &[("server CPU", &|run, peer| spread(&compared::growth(run, peer), ratio))],
    );
    [cost, growth].join("\n")
}

/// What a held lock takes of memory, and what locks cost among so many.
fn held(runs: &[Run]) -> String {
    fn of<'a>(run: &'a Run, held: usize, peer: &str, measure: &str) -> &'a [f64] {
        compared::held(run, held, peer, measure)
    }
    let (ours, native) = (names::OURS, names::NATIVE);
    let counts = count_rows(&names::HELD_COUNTS);
    let memory = grouped(
        runs,
        "bytes each",
        &counts,
        &[
            ("plain key", &|run, held| {
                count(median(of(run, *held, native, names::BYTES)))
            }),
            ("lock", &|run, held| count(median(of(run, *held, ours, names::BYTES)))),
            ("more", &|run, held| count(median(&compared::bytes_more(run, *held)))),
        ],
    );
    let beside_native = |measure: &str, text: fn(f64) -> String| {
        grouped(
            runs,
            measure,
            &counts,
            &[
                (ours, &|run, held| spread(of(run, *held, ours, measure), text)),
                (native, &|run, held| spread(of(run, *held, native, measure), text)),
            ],
        )
    };
    let cost = beside_native(names::CPU_US, number);
    let slow = beside_native(names::SLOW, count);
    let batch = beside_native(names::BATCH_MS, number);
    [memory, cost, slow, batch].join("\n")
}

/// What a waiting client takes of memory beyond an idle one.
fn waiters(runs: &[Run]) -> String {
    let bytes = |run: &Run, case: &str, peer| {
        count(median(run.samples(names::WAITERS, case, peer, names::BYTES)))
    };
    grouped(
        runs,
        "bytes each",
        &found(runs, names::WAITERS, compared::cases),
        &[
            (names::BLPOP, &|run, case| bytes(run, case, names::BLPOP)),
            (names::BLOCKS, &|run, case| bytes(run, case, names::BLOCKS)),
            (names::OURS, &|run, case| bytes(run, case, names::OURS)),
        ],
    )
}

/// How soon a command under a lock has begun, and is over.
fn start(runs: &[Run]) -> String {
    let told = |run: &Run, case, way: &str, measure| {
        spread(run.samples(names::START, case, way, measure), number)
    };
    grouped(
        runs,
        "ms",
        &names::RUNS.map(|way| (way.to_owned(), way)),
        &[
            ("first output: p50", &|run, way| {
                told(run, names::TO_OUTPUT, way, names::P50_MS)
            }),
            ("p99", &|run, way| told(run, names::TO_OUTPUT, way, names::P99_MS)),
            ("status: p50", &|run, way| told(run, names::TO_STATUS, way, names::P50_MS)),
        ],
    )
}

/// How long nobody has the lock after its holder was killed.
fn recovery(runs: &[Run]) -> String {
    let told = |run: &Run, case: &str, measure| {
        spread(run.samples(names::RECOVERY, case, names::OURS, measure), number)
    };
    grouped(
        runs,
        "the lock ends with",
        &found(runs, names::RECOVERY, compared::cases),
        &[
            (names::P50_MS, &|run, case| told(run, case, names::P50_MS)),
            (names::P99_MS, &|run, case| told(run, case, names::P99_MS)),
            (names::MAX_MS, &|run, case| told(run, case, names::MAX_MS)),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    /// The cells of a line.
    fn cells(line: &str) -> Vec<&str> {
        line.trim_matches('|').split('|').map(str::trim).collect()
    }

    #[test]
    fn a_table_has_a_group_of_columns_for_each_server() {
        let made = pair(&[sample::redis(), sample::valkey()]);
        assert_eq!(
            cells(made.lines().next().unwrap()),
            [
                "pair",
                "Redis 7.0: instructions",
                "to native",
                "Valkey 9.1: instructions",
                "to native"
            ]
        );
        let ours =
            made.lines().find(|line| line.contains("GPULOCK, events off")).unwrap();
        assert_eq!(cells(ours)[1..3], ["20,225 (20,185 to 20,286)", "1.61"]);
    }

    #[test]
    fn what_only_one_server_has_is_a_dash_for_the_other() {
        let made = pair(&[sample::redis(), sample::valkey()]);
        let row = made.lines().find(|line| line.contains(names::DELIFEQ)).unwrap();
        assert_eq!(cells(row)[1], MISSING);
        assert!(!pair(&[sample::redis()]).contains(names::DELIFEQ));
    }

    #[test]
    fn a_run_without_figures_makes_tables_that_say_so() {
        for block in BLOCKS {
            let made = (block.made)(&[sample::empty()]);
            assert!(!made.contains("NaN"), "{}: {made}", block.name);
        }
        assert_eq!(hand_off(&[sample::empty()]).lines().next(), Some("Not measured."));
    }

    #[test]
    fn an_unknown_block_is_refused() {
        let refused = block("pears").err().unwrap().to_string();
        assert!(
            refused.starts_with("no block \"pears\"; there are: head, targets, pair")
        );
    }
}
