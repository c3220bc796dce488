//! Control-C and Control-\ end the loop or script around `gpulock run` as they do around any
//! other command, although the command has the terminal and the script's shell does not.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use gpulock_testkit::{Server, call, servers, wait_until};
use nix::sys::signal::Signal;

use crate::runner::{
    TIMEOUT, builder, gpulock_run, send, status_of, wait_dead, wait_state,
};
use crate::terminal::{Typed, in_terminal, wait_foreground};

const CONTROL_C: &str = "\x03";
const CONTROL_BACKSLASH: &str = "\x1c";

/// A command that the signal ends.
const ENDS: &str = "sh -c 'echo $$ >pid; exec sleep 600'";

/// A command that handles the signal, and exits as if it had not.
const HANDLES: &str = "bash -c 'trap \"exit 130\" INT QUIT; echo $$ >pid; \
                       while :; do sleep 0.05; done'";

/// Shells, and scripts that run a command and then create the file `next`.
const SCRIPTS: [(&str, &str); 8] = [
    ("bash script", "sh job; echo >next"),
    ("bash script", "for i in 1 2; do sh job; echo >next; done"),
    ("bash -c \"$(cat script)\"", "sh job; echo >next"),
    ("bash script", "sh job | cat; echo >next"),
    ("sh script", "for i in 1 2; do sh job; echo >next; done"),
    ("make -k -f script", "all: a b\na:\n\tsh job\nb:\n\techo >next\n"),
    // Without another process group.
    (". ./script", "for i in 1 2; do sh job; echo >next; done"),
    ("(. ./script)", "sh job; echo >next"),
];

fn server() -> Server {
    servers()[0].server().start()
}

/// A script in a terminal, which runs a job.
struct Script {
    terminal: Typed,
}

impl Script {
    fn start(server: &Server, (shell, script): (&str, &str), job: &str) -> Self {
        let program =
            "PROMPT_COMMAND='echo prompt >>prompts' exec bash --norc --noprofile -i";
        let mut terminal = in_terminal(server, program);
        fs::write(terminal.run.path("script"), script).expect("a file");
        let job = format!("echo $$ >job_pid; exec {job}");
        fs::write(terminal.run.path("job"), job).expect("a file");
        terminal.types(&format!("{shell}\n"));
        Self { terminal }
    }

    /// Waits until the script runs its next command, or has ended. Returns whether it goes on.
    fn goes_on(&self) -> bool {
        let exists = |file| self.terminal.run.path(file).exists();
        let prompts =
            || fs::read_to_string(self.terminal.run.path("prompts")).unwrap_or_default();
        wait_until(TIMEOUT, "the script to go on or to end", || {
            exists("next") || prompts().lines().count() >= 2
        });
        exists("next")
    }
}

/// Whether a script goes on when the keys are typed while its job runs.
fn goes_on(server: &Server, script: (&str, &str), job: &str, keys: &str) -> bool {
    let mut script = Script::start(server, script, job);
    script.terminal.run.line("pid");
    // A shell that does not wait for its child yet ends by the signal in any case.
    let job = script.terminal.run.number("job_pid");
    wait_state(status_of(job, "PPid:").parse().expect("a number"), "S");
    script.terminal.types(keys);
    script.goes_on()
}

#[test]
fn control_c_ends_a_script_as_with_a_plain_command() {
    let server = server();
    let run = format!("$GPULOCK run --key k -- {ENDS}");
    for script in SCRIPTS {
        assert!(!goes_on(&server, script, ENDS, CONTROL_C), "{script:?}");
        assert!(!goes_on(&server, script, &run, CONTROL_C), "{script:?}");
        assert!(call!(server.client(), "GET", "k").is_null());
    }
}

/// bash ignores SIGQUIT, others do not.
#[test]
fn control_backslash_ends_a_script_if_a_plain_command_does() {
    let server = server();
    let run = format!("$GPULOCK run --key k -- {ENDS}");
    for script in SCRIPTS {
        let plain = goes_on(&server, script, ENDS, CONTROL_BACKSLASH);
        assert_eq!(
            goes_on(&server, script, &run, CONTROL_BACKSLASH),
            plain,
            "{script:?}"
        );
    }
}

#[test]
fn a_run_in_a_run_is_interrupted_with_its_script() {
    let server = server();
    let job = format!("$GPULOCK run --key a -- $GPULOCK run --key b -- {ENDS}");
    assert!(!goes_on(&server, SCRIPTS[0], &job, CONTROL_C));
}

#[test]
fn a_command_that_handles_control_c_does_not_end_the_script() {
    let server = server();
    for job in [HANDLES.to_owned(), format!("$GPULOCK run --key k -- {HANDLES}")] {
        for script in &SCRIPTS[..3] {
            assert!(goes_on(&server, *script, &job, CONTROL_C), "{script:?}: {job}");
        }
    }
}

#[test]
fn control_c_during_a_wait_ends_the_script() {
    let server = server();
    call!(server.client(), "GPULOCK.ACQUIRE", "k", "other", "EX", 600);
    for script in SCRIPTS {
        let mut run = Script::start(&server, script, "$GPULOCK run --key k -- true");
        server.wait_blocked(1);
        run.terminal.types(CONTROL_C);
        assert!(!run.goes_on(), "{script:?}");
        server.wait_blocked(0);
    }
}

#[test]
fn control_c_during_on_lost_ends_the_script() {
    let server = server();
    let job = "$GPULOCK run --key k --on-lost 'echo $$ >pid; exec sleep 600' -- \
               sh -c 'echo >started; exec sleep 600'";
    let mut script = Script::start(&server, SCRIPTS[0], job);
    script.terminal.run.line("started");
    call!(server.client(), "GPULOCK.FORCERELEASE", "k");
    script.terminal.run.line("pid");
    script.terminal.types(CONTROL_C);
    assert!(!script.goes_on());
}

/// The command has ended, but a process still reads its output.
#[test]
fn control_c_ends_the_script_while_a_reader_finishes() {
    let server = server();
    let job = "$GPULOCK run --key k -- \
               bash -c 'exec > >(trap \"\" INT; exec sleep 600); echo $$ >pid'";
    let mut script = Script::start(&server, SCRIPTS[0], job);
    wait_dead(script.terminal.run.number("pid"));
    let job = script.terminal.run.number("job_pid");
    wait_foreground(job);
    script.terminal.types(CONTROL_C);
    assert!(!script.goes_on());
}

/// It does not come from the terminal, so only the command is interrupted.
#[test]
fn a_forwarded_signal_does_not_end_the_script() {
    let server = server();
    let job = format!("$GPULOCK run --key k -- {ENDS}");
    let script = Script::start(&server, SCRIPTS[0], &job);
    script.terminal.run.line("pid");
    send(script.terminal.run.number("job_pid"), Signal::SIGINT);
    assert!(script.goes_on());
}

#[test]
fn an_interrupted_command_ends_gpulock_by_the_same_signal() {
    let server = server();
    for (signal, number) in [("INT", 2), ("QUIT", 3)] {
        // Only the command itself gives up its core dump.
        let script = format!("ulimit -c 0; kill -{signal} $$");
        let run =
            format!("ulimit -c unlimited; exec $GPULOCK run --key k -- sh -c '{script}'");
        let ended = builder(shell(&server, &run)).start().ended();
        assert_eq!(ended.signal(), Some(number));
        assert!(!ended.core_dumped());
        assert!(call!(server.client(), "GET", "k").is_null());
    }
}

#[test]
fn a_command_that_exits_like_an_interrupted_one_was_not_interrupted() {
    let server = server();
    for status in [130, 131] {
        let script = format!("exit {status}");
        let args = ["--key", "k", "--", "sh", "-c", &script];
        assert_eq!(gpulock_run(&server, &args).status().0, status);
    }
}

/// `gpulock` cannot end by a signal that it ignores.
#[test]
fn an_interrupted_command_has_a_status_if_the_signal_is_ignored() {
    let server = server();
    let run = "trap '' INT; exec $GPULOCK run --key k -- \
               perl -e '$SIG{INT} = \"DEFAULT\"; kill INT => $$; sleep 600'";
    let ended = builder(shell(&server, run)).start().ended();
    assert_eq!(ended.code(), Some(130));
}

/// A shell command, with `gpulock` as `$GPULOCK`.
fn shell(server: &Server, script: &str) -> Command {
    let mut shell = Command::new("bash");
    shell.args(["-c", script]).env("GPULOCK", env!("CARGO_BIN_EXE_gpulock"));
    shell.env("GPULOCK_URL", format!("redis://127.0.0.1:{}", server.port()));
    shell
}
