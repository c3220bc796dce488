//! Signals, job control and the terminal: the command is treated as if `gpulock` were not
//! there, and so is `gpulock` by a shell.

use std::fs;
use std::io::Write;
use std::process::{ChildStdin, Command, Stdio};

use gpulock_testkit::{Server, call, servers, wait_until};
use rustix::process::Signal;

use crate::runner::{
    PATIENCE, Runner, builder, gpulock_run, send, state, wait_dead, wait_state,
};

fn server() -> Server {
    servers()[0].server().start()
}

fn run(server: &Server, args: &[&str], script: &str) -> Runner {
    let args = [&["--key", "k"], args, &["--", "sh", "-c", script]].concat();
    let run = gpulock_run(server, &args).start();
    run.line("pid");
    run
}

/// A line of a process's status, as the kernel shows it.
fn status_of(pid: &str, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.expect("a line of the status").trim().to_owned()
}

#[test]
fn each_signal_goes_on_to_the_command() {
    let server = server();
    let script = "for s in HUP INT QUIT TERM USR1 USR2 ALRM WINCH URG IO PWR XCPU VTALRM \
                  ABRT BUS FPE ILL SEGV SYS TRAP; do \
                  trap \"echo $s >>got\" $s; done; echo $$ >pid; \
                  while :; do sleep 0.05; done";
    let run = run(&server, &[], script);
    let signals = [
        (Signal::HUP, "HUP"),
        (Signal::INT, "INT"),
        (Signal::QUIT, "QUIT"),
        (Signal::TERM, "TERM"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
        (Signal::ALARM, "ALRM"),
        (Signal::WINCH, "WINCH"),
        (Signal::URG, "URG"),
        (Signal::IO, "IO"),
        (Signal::POWER, "PWR"),
        (Signal::XCPU, "XCPU"),
        (Signal::VTALARM, "VTALRM"),
        (Signal::ABORT, "ABRT"),
        (Signal::BUS, "BUS"),
        (Signal::FPE, "FPE"),
        (Signal::ILL, "ILL"),
        (Signal::SEGV, "SEGV"),
        (Signal::SYS, "SYS"),
        (Signal::TRAP, "TRAP"),
    ];
    for (signal, name) in signals {
        run.signal(signal);
        wait_until(PATIENCE, format!("{name} to reach the command"), || {
            let got = fs::read_to_string(run.path("got")).unwrap_or_default();
            got.lines().last() == Some(name)
        });
    }
}

#[test]
fn a_signal_reaches_grandchildren_and_the_status_is_the_commands_own() {
    let server = server();
    let script = "trap 'exit 9' TERM; sleep 600 & echo $! >grand; echo $$ >pid; wait";
    let mut run = run(&server, &[], script);
    let grandchild = run.number("grand");
    run.signal(Signal::TERM);
    assert_eq!(run.status(), 9);
    assert_eq!(state(grandchild), None);
    assert!(call!(server.client(), "GET", "k").is_null());
}

#[test]
fn the_command_starts_with_the_signals_as_they_were() {
    let server = server();
    let outside = ["SigBlk:", "SigIgn:", "SigCgt:"].map(|name| {
        let (_, plain) = builder(Command::new("sh"))
            .with(|sh| {
                sh.args(["-c", "cat /proc/self/status"]);
            })
            .status();
        let all = plain.out();
        all.lines().find(|line| line.starts_with(name)).expect("a line").to_owned()
    });
    let args = ["--key", "k", "--", "cat", "/proc/self/status"];
    let (_, inside) = gpulock_run(&server, &args).status();
    for line in outside {
        assert!(inside.out().contains(&line), "{line} not in {}", inside.out());
    }
}

#[test]
fn what_is_ignored_outside_is_ignored_by_both() {
    let server = server();
    let script = format!(
        "trap '' HUP; exec {} run --key k -- sh -c 'echo $$ >pid; exec sleep 600'",
        env!("CARGO_BIN_EXE_gpulock")
    );
    let url = format!("redis://127.0.0.1:{}", server.port());
    let nohup = |sh: &mut Command| {
        sh.args(["-c", &script]).env("GPULOCK_URL", &url);
    };
    let holder = builder(Command::new("sh")).with(nohup).start();
    let command = holder.number("pid");
    let waiter = builder(Command::new("sh")).with(nohup).start();
    server.wait_blocked(1);
    let ignored = status_of(&command.to_string(), "SigIgn:");
    assert_eq!(u64::from_str_radix(&ignored, 16).expect("a mask") & 1, 1);
    holder.signal(Signal::HUP);
    waiter.signal(Signal::HUP);
    // Were it not ignored, TERM would come too late.
    holder.signal(Signal::TERM);
    assert_eq!({ holder }.status(), 128 + 15);
    assert!(waiter.number("pid") > 0);
}

#[test]
fn stop_and_continue_by_a_supervisor_stop_and_continue_both() {
    let server = server();
    // One process: a shell that is stopped while it starts another is in no state to look at.
    let run = run(&server, &[], "echo $$ >pid; exec sleep 600");
    let command = run.number("pid");
    for _ in 0..2 {
        run.signal(Signal::TSTP);
        wait_state(command, "T");
        wait_state(run.pid(), "T");
        run.signal(Signal::CONT);
        wait_state(command, "SR");
        wait_state(run.pid(), "SR");
    }
}

#[test]
fn a_supervisor_that_continues_too_late_is_told_that_the_lock_was_lost() {
    let server = server();
    let mut run = run(&server, &["--lease", "2s"], "echo $$ >pid; exec sleep 600");
    run.signal(Signal::TSTP);
    wait_dead(run.number("pid"));
    run.signal(Signal::CONT);
    assert_eq!(run.status(), 76);
}

#[test]
fn a_wait_can_be_stopped_and_continued() {
    let server = server();
    call!(server.client(), "GPULOCK.ACQUIRE", "k", "other", "EX", 600);
    let mut run = gpulock_run(&server, &["--key", "k", "--", "true"]).start();
    server.wait_blocked(1);
    run.signal(Signal::TSTP);
    wait_state(run.pid(), "T");
    run.signal(Signal::CONT);
    wait_state(run.pid(), "SR");
    call!(server.client(), "GPULOCK.RELEASE", "k", "other");
    assert_eq!(run.status(), 0);
}

#[test]
fn a_command_that_somebody_stops_keeps_its_lock() {
    let server = server();
    let script = "trap 'exit 6' USR1; echo $$ >pid; while :; do sleep 0.05; done";
    let mut run = run(&server, &["--lease", "6s"], script);
    let command = run.number("pid");
    let token = call!(server.client(), "GPULOCK.INSPECT", "k").field("token").int();
    send(command, Signal::STOP);
    wait_until(PATIENCE, "the lease to be over twice", || {
        call!(server.client(), "GPULOCK.INSPECT", "k").field("held_ms").int() > 12_000
    });
    send(command, Signal::CONT);
    send(command, Signal::USR1);
    assert_eq!(run.status(), 6);
    assert!(token > 0);
}

/// A terminal, by `script` of util-linux, in which a program runs.
struct Typed {
    run: Runner,
    keys: ChildStdin,
}

fn in_terminal(server: &Server, program: &str) -> Typed {
    let url = format!("redis://127.0.0.1:{}", server.port());
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--flush", "--command", program, "typescript"]);
    script.env("GPULOCK_URL", url).env("GPULOCK", env!("CARGO_BIN_EXE_gpulock"));
    script.env("PS1", "$ ").env("TERM", "dumb");
    let mut run = builder(script)
        .with(|script| {
            script.stdin(Stdio::piped());
        })
        .start();
    let keys = run.stdin();
    Typed { run, keys }
}

impl Typed {
    fn types(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("a terminal");
    }
}

#[test]
fn the_command_has_the_terminal_to_itself() {
    let server = server();
    let script = "echo $$ >pid; read line; echo $line >typed; exec sleep 600";
    let program = format!("exec $GPULOCK run --key k -- sh -c '{script}'");
    let mut terminal = in_terminal(&server, &program);
    terminal.run.line("pid");
    terminal.types("hello\n");
    assert_eq!(terminal.run.line("typed"), "hello");
    // Control-C: the terminal sends SIGINT to those who have it.
    terminal.types("\x03");
    assert_eq!(terminal.run.status(), 128 + 2);
}

#[test]
fn a_command_in_a_pipeline_gets_the_terminal_when_it_reads_from_it() {
    let server = server();
    let script = "echo $$ >pid; read line </dev/tty; echo $line >typed";
    let program = format!(
        "$GPULOCK run --key k -- sh -c '{script}' | cat; read after; echo $after >after"
    );
    let mut terminal = in_terminal(&server, &program);
    terminal.run.line("pid");
    terminal.types("hello\n");
    assert_eq!(terminal.run.line("typed"), "hello");
    // And it is given back.
    terminal.types("again\n");
    assert_eq!(terminal.run.line("after"), "again");
    assert_eq!(terminal.run.status(), 0);
}

#[test]
fn a_shell_can_stop_it_and_bring_it_back() {
    let server = server();
    let mut terminal = in_terminal(&server, "bash --norc --noprofile -i");
    terminal.types("$GPULOCK run --key k -- sh -c 'echo $$ >pid; exec sleep 600'\n");
    let command = terminal.run.number("pid");
    let parent: u32 = status_of(&command.to_string(), "PPid:").parse().expect("a number");
    for _ in 0..2 {
        // Control-Z.
        terminal.types("\x1a");
        wait_state(command, "T");
        wait_state(parent, "T");
        terminal.types("jobs >jobs; echo >>jobs\n");
        wait_until(PATIENCE, "the shell to have a stopped job", || {
            fs::read_to_string(terminal.run.path("jobs"))
                .is_ok_and(|jobs| jobs.contains("Stopped"))
        });
        terminal.types("fg\n");
        wait_state(command, "SR");
        wait_state(parent, "SR");
    }
    terminal.types("\x03");
    wait_dead(command);
    terminal.types("echo status $? >status; exit\n");
    assert_eq!(terminal.run.line("status"), "status 130");
    terminal.run.status();
}

/// As the terminal does, which knows nothing of the command's own group.
#[test]
fn a_shell_can_stop_all_that_runs_beside_it() {
    let server = server();
    let command = "sh -c 'echo $$ >pid; exec sleep 600'";
    let alone = format!("$GPULOCK run --key k -- {command}");
    let nested = format!("$GPULOCK run --key n -- {alone}");
    let piped = format!("{} | cat", alone.replace("echo", "read x; echo"));
    for line in ["sh job", &nested, &piped] {
        let mut terminal = in_terminal(&server, "bash --norc --noprofile -i");
        fs::write(terminal.run.path("job"), &alone).expect("a file");
        terminal.types(&format!("{line}\n"));
        if line.contains("read x") {
            terminal.types("hello\n");
        }
        let command = terminal.run.number("pid");
        terminal.types("\x1a");
        wait_state(command, "T");
        terminal.types("echo >prompt\n");
        terminal.run.line("prompt");
        terminal.types("fg\n");
        wait_state(command, "SR");
        terminal.types("\x03");
        wait_dead(command);
        terminal.types("exit\n");
        terminal.run.ended();
    }
}

/// As a command that nobody could continue, it is not stopped then.
#[test]
fn control_z_stops_nothing_where_there_is_no_shell() {
    let server = server();
    let script = "echo $$ >pid; exec sleep 600";
    let program = format!("exec $GPULOCK run --key k --lease 6s -- sh -c '{script}'");
    let mut terminal = in_terminal(&server, &program);
    let command = terminal.run.number("pid");
    terminal.types("\x1a");
    let mut client = server.client();
    wait_until(PATIENCE, "the lease to be over twice", || {
        call!(client, "GPULOCK.INSPECT", "k").field("held_ms").int() > 12_000
    });
    wait_state(command, "S");
    terminal.types("\x03");
    assert_eq!(terminal.run.status(), 128 + 2);
}

/// The guard killed the command meanwhile.
#[test]
fn a_run_that_is_continued_too_late_says_that_the_lock_was_lost() {
    let server = server();
    let mut terminal = in_terminal(&server, "bash --norc --noprofile -i");
    let line = "$GPULOCK run --key k --lease 2s --on-lost 'echo >lost' -- \
                sh -c 'echo $$ >pid; exec sleep 600'; echo status $? >status\n";
    terminal.types(line);
    let command = terminal.run.number("pid");
    terminal.types("\x1a");
    wait_dead(command);
    terminal.types("fg; echo status $? >status\n");
    terminal.run.line("lost");
    wait_until(PATIENCE, "the status", || {
        fs::read_to_string(terminal.run.path("status"))
            .is_ok_and(|text| text == "status 76\n")
    });
    assert_eq!(server.info_int("gpulock", "gpulock_ownership_violations"), 0);
    terminal.types("exit\n");
    terminal.run.ended();
}

#[test]
fn on_lost_gets_the_terminal_when_it_reads_from_it() {
    let server = server();
    let program = "$GPULOCK run --key k --on-lost 'read line </dev/tty; echo $line >typed' \
                   -- sh -c 'echo $$ >pid; exec sleep 600' | cat";
    let mut terminal = in_terminal(&server, program);
    terminal.run.line("pid");
    call!(server.client(), "GPULOCK.FORCERELEASE", "k");
    terminal.types("hello\n");
    assert_eq!(terminal.run.line("typed"), "hello");
    assert_eq!(terminal.run.status(), 0);
}

#[test]
fn a_line_of_progress_is_drawn_and_taken_away() {
    let server = server();
    call!(server.client(), "GPULOCK.ACQUIRE", "k", "somebody", "EX", 600);
    let program = "stty columns 200; $GPULOCK run --key k -- echo done";
    let mut terminal = in_terminal(&server, program);
    let screen = |terminal: &Typed| {
        String::from_utf8_lossy(&fs::read(terminal.run.path("out")).expect("a file"))
            .into_owned()
    };
    wait_until(PATIENCE, "two draws", || {
        screen(&terminal).matches("place 1 in line; held by somebody for").count() >= 2
    });
    call!(server.client(), "GPULOCK.RELEASE", "k", "somebody");
    assert_eq!(terminal.run.status(), 0);
    let screen = screen(&terminal);
    assert!(screen.contains("\r\x1b[Kgpulock: waiting"), "{screen:?}");
    assert!(screen.ends_with("\r\x1b[Kdone\r\n"), "{screen:?}");
}
