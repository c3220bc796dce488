//! The sections of each command, except `run`, which has its own file.

use super::sections::{Entry, SERVER, STATUSES, Sections};
use crate::run;

/// The sections of `gpulock` itself.
pub(crate) const GENERAL: Sections = Sections {
    exit_statuses: &[
        ("0", "success"),
        ("1", "an error, such as an error reply of the server"),
        ("2", "invalid command line"),
        ("69", "the server was unreachable, or did not reply, for five seconds"),
        ("other", "see the commands"),
    ],
    environment: &[SERVER],
    examples: &[
        (
            "Run a job on two free GPUs of this host",
            "gpulock run --pool gpus -n 2 -- python train.py",
        ),
        ("Show the locks that are held, and their waiters", "gpulock ls\ngpulock top"),
    ],
};

/// The sections of a subcommand.
pub(crate) fn sections(command: &str) -> Option<Sections> {
    Some(match command {
        "run" => run::help::SECTIONS,
        "ls" => LS,
        "inspect" => INSPECT,
        "queue" => QUEUE,
        "stats" => STATS,
        "log" => LOG,
        "reserve" => RESERVE,
        "release" => RELEASE,
        "force" => FORCE,
        "top" => TOP,
        "exporter" => EXPORTER,
        "completions" => COMPLETIONS,
        "man" => MAN,
        _ => return None,
    })
}

/// The statuses of a command with `--exit-code`.
const WITH_EXIT_CODE: &[Entry] = &[
    ("0", "success; with --exit-code: a lock is held"),
    ("1", "the server returned an error; with --exit-code: no lock is held"),
    ("2", "invalid command line; with --exit-code also: the server returned an error"),
    ("69", "the server was unreachable, or did not reply, for five seconds"),
];

const LS: Sections = Sections {
    exit_statuses: WITH_EXIT_CODE,
    environment: &[SERVER],
    examples: &[
        ("List the locks of a pool", "gpulock ls --match '{gpus:*'"),
        (
            "Wait until a lock is free, without acquiring it",
            "while gpulock ls gpu:0 --exit-code >/dev/null; do sleep 1; done",
        ),
        ("The owners, one on each line", "gpulock ls --json | jq -r '.[].owner'"),
    ],
};

const INSPECT: Sections = Sections {
    exit_statuses: WITH_EXIT_CODE,
    environment: &[SERVER],
    examples: &[
        ("Show the holder of a lock, and its wait queue", "gpulock inspect gpu:0"),
        (
            "Test whether a lock is held",
            "gpulock inspect gpu:0 --exit-code >/dev/null && echo held",
        ),
    ],
};

const QUEUE: Sections = Sections {
    exit_statuses: STATUSES,
    environment: &[SERVER],
    examples: &[("Show which clients wait for a lock", "gpulock queue gpu:0")],
};

const STATS: Sections = Sections {
    exit_statuses: STATUSES,
    environment: &[SERVER],
    examples: &[
        ("Show the counters of the server", "gpulock stats"),
        ("Show those of a lock as JSON", "gpulock stats gpu:0 --json"),
    ],
};

const LOG: Sections = Sections {
    exit_statuses: STATUSES,
    environment: &[
        SERVER,
        &[("TZ", "time zone of the times in the table, such as Europe/Berlin")],
    ],
    examples: &[
        ("Show the last ten problems", "gpulock log -n 10"),
        ("Show new ones as they occur", "gpulock log --follow"),
        (
            "Report each expired lease",
            "gpulock log -f -n 0 --json | jq -r 'select(.kind == \"expired\").key'",
        ),
    ],
};

const RESERVE: Sections = Sections {
    exit_statuses: &[
        ("0", "the locks are reserved; the variables were printed"),
        ("1", "an error, such as an error reply of the server or a missing driver"),
        STATUSES[2],
        ("69", "the server was unreachable at the start"),
        ("75", "the locks were not acquired in time"),
        ("128+n", "signal n ended the wait"),
    ],
    environment: &[
        SERVER,
        &[
            ("GPULOCK_RESERVED", "printed: the names of the variables, for release"),
            ("GPULOCK_RESERVED_UNTIL", "printed: the end, as a Unix time in seconds"),
            ("GPULOCK_KEYS", "printed, as are the other variables of run's command"),
        ],
    ],
    examples: &[
        (
            "Use a GPU in this shell for two hours at most",
            "eval \"$(gpulock reserve --pool gpus --for 2h)\"",
        ),
        (
            "In a script, which ends if there is no GPU",
            "vars=$(gpulock reserve --pool gpus --for 2h --no-wait) || exit\neval \"$vars\"",
        ),
        ("Release it", "eval \"$(gpulock release)\""),
    ],
};

const RELEASE: Sections = Sections {
    exit_statuses: &[
        ("0", "the locks were released"),
        ("1", "the owner does not hold all of them; or the server returned an error"),
        ("2", "invalid command line; without KEY also: there is no reservation"),
        STATUSES[3],
    ],
    environment: &[
        SERVER,
        &[("GPULOCK_RESERVED", "set by reserve, as are the owner and the keys")],
    ],
    examples: &[
        ("Release the locks that this shell has reserved", "eval \"$(gpulock release)\""),
        (
            "Release a lock for a job that ended without releasing it",
            "gpulock release gpu:0 --owner asr-7f3a --reason crashed",
        ),
    ],
};

const FORCE: Sections = Sections {
    exit_statuses: &[
        ("0", "the lock was released, or notice given"),
        ("1", "no such hold, or not confirmed; or the server returned an error"),
        STATUSES[2],
        STATUSES[3],
    ],
    environment: &[SERVER],
    examples: &[
        (
            "Release a lock after confirmation, regardless of its holder",
            "gpulock force gpu:0 --any",
        ),
        (
            "Give the holder two minutes to write its checkpoint",
            "gpulock force gpu:0 --any --after 2m --reason drain",
        ),
        (
            "In a script: release exactly one hold",
            "gpulock force gpu:0 --token 1795452596581960 --yes",
        ),
    ],
};

const TOP: Sections = Sections {
    exit_statuses: &[
        ("0", "the user quit"),
        ("1", "no terminal, TERM is dumb, or the server returned an error"),
        STATUSES[2],
        STATUSES[3],
        ("128+n", "signal n ended it"),
    ],
    environment: &[
        SERVER,
        &[("TERM", "terminal type; top needs one that can move its cursor")],
    ],
    examples: &[("Update twice a second", "gpulock top --interval 0.5")],
};

const EXPORTER: Sections = Sections {
    exit_statuses: &[
        ("0", "SIGTERM or SIGINT ended it"),
        ("1", "it cannot listen"),
        ("2", "invalid command line, or an address is invalid"),
    ],
    environment: &[
        SERVER,
        &[("GPULOCK_SERVERS", "servers to watch, separated by spaces, as --server")],
    ],
    examples: &[
        (
            "Watch two servers",
            "gpulock exporter --server redis://a:6379 --server redis://b:6379",
        ),
        (
            "Query it: metrics, and probes of an orchestrator",
            "curl -s localhost:9877/metrics\ncurl -f localhost:9877/-/ready",
        ),
    ],
};

const COMPLETIONS: Sections = Sections {
    exit_statuses: LOCAL,
    environment: &[],
    examples: &[
        ("In this bash", "source <(gpulock completions bash)"),
        (
            "For all users of bash and zsh",
            "gpulock completions bash >/etc/bash_completion.d/gpulock\n\
             gpulock completions zsh >/usr/local/share/zsh/site-functions/_gpulock",
        ),
        ("In fish", "gpulock completions fish >~/.config/fish/completions/gpulock.fish"),
    ],
};

const MAN: Sections = Sections {
    exit_statuses: LOCAL,
    environment: &[],
    examples: &[("Install the manual pages", "gpulock man /usr/local/share/man/man1")],
};

/// The statuses of a command that queries no server.
const LOCAL: &[Entry] = &[
    ("0", "success"),
    ("1", "the output could not be written"),
    ("2", "invalid command line"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command_line;

    #[test]
    fn every_command_has_sections_that_fit_eighty_columns() {
        let command = command_line::command();
        let names = command.get_subcommands().map(clap::Command::get_name);
        let all = names.map(|name| (name, sections(name).expect(name)));
        for (name, sections) in all.chain([("gpulock", GENERAL)]) {
            assert!(!sections.exit_statuses.is_empty(), "{name}");
            assert!(!sections.examples.is_empty(), "{name}");
            for line in sections.help().lines() {
                assert!(line.len() <= 80, "{name}: {line}");
            }
        }
    }
}
