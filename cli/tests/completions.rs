//! The completion scripts, in real shells and with a real server.

use std::process::Command;

use gpulock_testkit::{Server, call, on_every_server, print_skipped};

#[path = "support/invoke.rs"]
mod invoke;
#[path = "support/tmux.rs"]
mod tmux;
use invoke::{Invocation, at, gpulock};
use tmux::Tmux;

/// A server with these locks.
fn with_locks(server: &Server) {
    let mut client = server.client();
    for key in
        ["{node7}:gpu:0", "{node7}:gpu:1", "a b'c$", "it,em", r"w\x\:y$z", "line\nfeed"]
    {
        call!(client, "GPULOCK.ACQUIRE", key, "asr-7f3a", "EX", 36_000);
    }
    call!(client, "GPULOCK.ACQUIRE", b"\xff".as_slice(), "me");
}

/// The candidates for the last word, without descriptions.
fn candidates(server: &Server, words: &[&str]) -> Vec<String> {
    let result = gpulock(server, &[&["__complete", "--", "gpulock"], words].concat());
    assert_eq!((result.status, &*result.err), (0, ""), "{words:?}: {result:?}");
    let words = result.out.lines().map(|line| line.split_once('\t').unwrap().0);
    words.map(str::to_owned).collect()
}

#[test]
fn every_argument_that_is_a_key_has_the_keys_as_candidates() {
    on_every_server(|flavour| {
        let server = flavour.start();
        with_locks(&server);
        let all = ["{node7}:gpu:0", "{node7}:gpu:1", "a b'c$", "it,em", r"w\x\:y$z"];
        let node = &all[..2];
        let cases: &[&[&str]] = &[
            &["inspect"],
            &["queue"],
            &["line"],
            &["stats"],
            &["ls"],
            &["release"],
            &["force"],
            &["run", "--key"],
            &["run", "-n", "2", "--key"],
        ];
        for words in cases {
            assert_eq!(
                candidates(&server, &[words, &[""][..]].concat()),
                all,
                "{words:?}"
            );
            assert_eq!(candidates(&server, &[words, &["{no"][..]].concat()), node);
            // Glob characters are text.
            assert_eq!(candidates(&server, &[words, &["*"][..]].concat()), [""; 0]);
        }
        // A key with a comma cannot be given here.
        let without_comma: Vec<_> =
            all.into_iter().filter(|key| !key.contains(',')).collect();
        assert_eq!(candidates(&server, &["run", "--keys", ""]), without_comma);
        let two = candidates(&server, &["run", "--keys", "{node7}:gpu:0,{node7}:gpu:1"]);
        assert_eq!(two, ["{node7}:gpu:0,{node7}:gpu:1"]);
        assert_eq!(candidates(&server, &["run", "--key={no"])[0], "--key={node7}:gpu:0");
        assert_eq!(
            candidates(&server, &["release", "{node7}:gpu:0", "--owner", ""]),
            [""; 0]
        );
    });
}

#[test]
fn the_server_of_the_line_is_asked() {
    on_every_server(|flavour| {
        let server = flavour.start();
        with_locks(&server);
        let url = format!("redis://127.0.0.1:{}", server.port());
        for words in [
            &["--url", &url, "inspect", "{"][..],
            &["inspect", "--url", &url, "{"],
            &["run", "--url", &url, "--lease", "30s", "--key", "{"],
        ] {
            let output = at("redis://127.0.0.1:1")
                .args(["__complete", "--", "gpulock"])
                .args(words)
                .output();
            let result = Invocation::from(output.unwrap());
            assert!(
                result.out.starts_with("{node7}:gpu:0\theld by asr-7f3a\n"),
                "{result:?}"
            );
        }
    });
}

#[test]
fn without_a_reply_there_are_no_candidates_and_no_message() {
    on_every_server(|flavour| {
        let mut server = flavour.start();
        with_locks(&server);
        server.freeze();
        assert_eq!(candidates(&server, &["inspect", ""]), [""; 0]);
        // Those that need no server are still there.
        assert_eq!(candidates(&server, &["ins"]), ["inspect"]);
        assert!(
            candidates(&server, &["inspect", "--e"]).contains(&"--exit-code".to_owned())
        );
        server.thaw();
        let bare = flavour.server().without_module().start();
        assert_eq!(candidates(&bare, &["inspect", ""]), [""; 0]);
    });
}

#[test]
fn hidden_commands_are_no_candidates() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let all = candidates(&server, &[""]);
        assert!(all.contains(&"inspect".to_owned()), "{all:?}");
        assert!(
            all.iter().all(|word| !word.starts_with("__") && word != "line"),
            "{all:?}"
        );
        assert_eq!(candidates(&server, &["__"]), [""; 0]);
        assert_eq!(candidates(&server, &["lin"]), [""; 0]);
        for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
            let script = gpulock(&server, &["completions", shell]);
            assert_eq!((script.status, &*script.err), (0, ""), "{script:?}");
            for hidden in ["__child", "__watchdog", "'line'", ";line"] {
                assert!(!script.out.contains(hidden), "{shell}: {hidden}");
            }
        }
    });
}

/// Calls the function of bash as bash does, which splits words at colons.
fn in_bash(server: &Server, line: &str, words: &[&str]) -> Vec<String> {
    let script = r#"
        source <("$GPULOCK" completions bash) || exit
        COMP_LINE=$GPULOCK${1#gpulock} COMP_POINT=$((${#GPULOCK} + ${#1} - 7))
        COMP_WORDS=("$GPULOCK" "${@:2}") COMP_CWORD=$(($# - 1))
        _gpulock
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let output = Command::new("bash")
        .args(["--norc", "--noprofile", "-c", script, "bash", line])
        .args(words)
        .env("GPULOCK", env!("CARGO_BIN_EXE_gpulock"))
        .env("GPULOCK_URL", format!("redis://127.0.0.1:{}", server.port()))
        .output();
    let result = Invocation::from(output.unwrap());
    assert_eq!((result.status, &*result.err), (0, ""), "{result:?}");
    result.out.lines().map(str::to_owned).collect()
}

#[test]
fn bash_gets_what_it_inserts_at_the_last_piece_of_a_word() {
    on_every_server(|flavour| {
        let server = flavour.start();
        with_locks(&server);
        #[rustfmt::skip]
        let cases: [(&str, &[&str], &[&str]); 10] = [
            ("gpulock ins", &["ins"], &["inspect"]),
            ("gpulock inspect {", &["inspect", "{"], &["{node7}:gpu:0", "{node7}:gpu:1"]),
            ("gpulock inspect {node7}:gpu:", &["inspect", "{node7}", ":", "gpu", ":"],
                &["0", "1"]),
            ("gpulock inspect {node7}:g", &["inspect", "{node7}", ":", "g"],
                &["gpu:0", "gpu:1"]),
            ("gpulock run --key={", &["run", "--key", "=", "{"],
                &["{node7}:gpu:0", "{node7}:gpu:1"]),
            ("gpulock run --key=", &["run", "--key", "="],
                &["{node7}:gpu:0", "{node7}:gpu:1", r"a\ b\'c\$", "it,em", r"w\\x\\:y\$z"]),
            ("gpulock inspect 'a b", &["inspect", "'a b"], &[r"a b'\''c$"]),
            ("gpulock run --key=\"{", &["run", "--key", "=", "\"{"],
                &["{node7}:gpu:0", "{node7}:gpu:1"]),
            ("gpulock inspect '{node7}:", &["inspect", "'{node7}:"],
                &["{node7}:gpu:0", "{node7}:gpu:1"]),
            ("gpulock inspect {node7}:gpu:0 ", &["inspect", "{node7}", ":", "gpu", ":", "0", ""],
                &[""]),
        ];
        for (line, words, expected) in cases {
            assert_eq!(in_bash(&server, line, words), expected, "{line}");
        }
    });
}

/// Keys that would run a command, or be another word, if they were inserted as they are.
const HOSTILE: [&str; 7] = [
    "h$(touch ran)",
    "h`touch ran`",
    "h\"; touch ran; \"",
    "h'; touch ran; '",
    r"h\'; touch ran; \'",
    r"h\\tail",
    "h!!&;*",
];

#[test]
fn bash_inserts_what_it_reads_as_the_key_within_quotes_too() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut client = server.client();
        for key in HOSTILE {
            call!(client, "GPULOCK.ACQUIRE", key, "me", "EX", 36_000);
        }
        for quote in ["", "'", "\""] {
            let word = format!("{quote}h");
            let inserted =
                in_bash(&server, &format!("gpulock inspect {word}"), &["inspect", &word]);
            let mut read: Vec<String> = inserted
                .iter()
                .map(|text| {
                    let script = format!("printf %s {quote}{text}{quote}");
                    let mut bash = Command::new("bash");
                    let bash =
                        bash.args(["--norc", "-c", &script]).current_dir(server.dir());
                    Invocation::from(bash.output().unwrap()).out
                })
                .collect();
            read.sort();
            // Within double quotes, the history cannot be escaped.
            let is_expected = |key: &&str| quote != "\"" || !key.contains('!');
            let mut expected: Vec<&str> =
                HOSTILE.into_iter().filter(is_expected).collect();
            expected.sort_unstable();
            assert_eq!(read, expected, "{inserted:?}");
            assert!(!server.dir().join("ran").exists(), "{inserted:?}");
        }
    });
}

/// Types lines into an interactive shell, and expects what they become with the Tab key.
fn in_shell(shell: &str, start: &str, source: &str, cases: &[(&str, &str)]) {
    if Command::new(shell).arg("-c").arg("true").output().is_err() {
        print_skipped(&format!("{shell} is not installed (apt install {shell})"));
        return;
    }
    on_every_server(|flavour| {
        let server = flavour.start();
        with_locks(&server);
        let Some(tmux) = Tmux::start(100, 20) else { return };
        let program = env!("CARGO_BIN_EXE_gpulock");
        let path = program.strip_suffix("/gpulock").unwrap();
        tmux.type_line(&format!(
            "export GPULOCK_URL=redis://127.0.0.1:{} PATH='{path}':\"$PATH\" HOME='{}'",
            server.port(),
            server.dir().display(),
        ));
        tmux.type_line(&format!("exec {start}"));
        tmux.type_line(&format!("{source}; clear; echo re''ady"));
        tmux.wait_for("ready");
        for (typed, expected) in cases {
            assert!(!typed.contains(expected));
            tmux.press(&[typed, "Tab"]);
            tmux.wait_for(expected);
            tmux.press(&["C-u"]);
        }
        assert!(tmux.shows_cursor());
    });
}

#[test]
fn bash_completes_with_the_tab_key() {
    #[rustfmt::skip]
    let cases = [
        ("gpulock insp",                   "gpulock inspect"),
        ("gpulock queue {no",              "gpulock queue {node7}:gpu:"),
        ("gpulock ls '{no",                "gpulock ls '{node7}:gpu:"),
        ("gpulock stats a",                r"gpulock stats a\ b\'c\$"),
        ("gpulock stats 'a",               r"gpulock stats 'a b'\''c$'"),
        (r"gpulock stats 'a b'\''",        r"gpulock stats 'a b'\''c$'"),
        ("gpulock stats \"w",              r#"gpulock stats "w\\x\\:y\$z""#),
        ("gpulock run --keys i,{no",       "gpulock run --keys i,{node7}:gpu:"),
        ("gpulock run --key k -- cat /etc/passw", "gpulock run --key k -- cat /etc/passwd"),
    ];
    let source = "PS1='$ '; source <(gpulock completions bash)";
    in_shell("bash", "bash --norc --noprofile", source, &cases);
}

/// Words with their completions in shells that quote alike.
#[rustfmt::skip]
const QUOTED_ALIKE: [(&str, &str); 6] = [
    ("gpulock insp",                    "gpulock inspect"),
    (r"gpulock queue \{no",             r"gpulock queue \{node7\}:gpu:"),
    ("gpulock ls '{no",                 "gpulock ls '{node7}:gpu:"),
    ("gpulock stats a",                 r"gpulock stats a\ b\'c\$"),
    ("gpulock stats w",                 r"gpulock stats w\\x\\:y\$z"),
    ("gpulock run --key k -- cat /etc/passw", "gpulock run --key k -- cat /etc/passwd"),
];

#[test]
fn zsh_completes_with_the_tab_key() {
    let source =
        "PS1='$ '; autoload -U compinit; compinit -u; source <(gpulock completions zsh)";
    in_shell("zsh", "zsh -f", source, &QUOTED_ALIKE);
}

#[test]
fn fish_completes_with_the_tab_key() {
    in_shell(
        "fish",
        "fish --no-config",
        "gpulock completions fish | source",
        &QUOTED_ALIKE,
    );
}
