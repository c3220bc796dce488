//! Signals, job control and the terminal: for the command and for the shell, `gpulock` is
//! transparent.

use std::fs;
use std::process::Command;

use gpulock_testkit::{Server, call, servers, wait_until};
use nix::sys::signal::Signal;

use crate::runner::{
    Runner, TIMEOUT, builder, gpulock_run, send, state, status_of, wait_dead, wait_state,
};
use crate::terminal::{Typed, in_terminal, wait_foreground};

fn server() -> Server {
    servers()[0].server().start()
}

fn run(server: &Server, args: &[&str], script: &str) -> Runner {
    let args = [&["--key", "k"], args, &["--", "sh", "-c", script]].concat();
    let run = gpulock_run(server, &args).start();
    run.line("pid");
    run
}

#[test]
fn each_signal_is_forwarded_to_the_command() {
    let server = server();
    let script = "for s in HUP INT QUIT TERM USR1 USR2 ALRM WINCH URG IO PWR XCPU VTALRM \
                  ABRT BUS FPE ILL SEGV SYS TRAP; do \
                  trap \"echo $s >>got\" $s; done; echo $$ >pid; \
                  while :; do sleep 0.05; done";
    let run = run(&server, &[], script);
    let signals = [
        (Signal::SIGHUP, "HUP"),
        (Signal::SIGINT, "INT"),
        (Signal::SIGQUIT, "QUIT"),
        (Signal::SIGTERM, "TERM"),
        (Signal::SIGUSR1, "USR1"),
        (Signal::SIGUSR2, "USR2"),
        (Signal::SIGALRM, "ALRM"),
        (Signal::SIGWINCH, "WINCH"),
        (Signal::SIGURG, "URG"),
        (Signal::SIGIO, "IO"),
        (Signal::SIGPWR, "PWR"),
        (Signal::SIGXCPU, "XCPU"),
        (Signal::SIGVTALRM, "VTALRM"),
        (Signal::SIGABRT, "ABRT"),
        (Signal::SIGBUS, "BUS"),
        (Signal::SIGFPE, "FPE"),
        (Signal::SIGILL, "ILL"),
        (Signal::SIGSEGV, "SEGV"),
        (Signal::SIGSYS, "SYS"),
        (Signal::SIGTRAP, "TRAP"),
    ];
    for (signal, name) in signals {
        run.signal(signal);
        wait_until(TIMEOUT, format!("{name} to reach the command"), || {
            let got = fs::read_to_string(run.path("got")).unwrap_or_default();
            got.lines().last() == Some(name)
        });
    }
}

#[test]
fn a_signal_reaches_grandchildren_and_the_status_is_the_commands() {
    let server = server();
    let script = "trap 'exit 9' TERM; sleep 600 & echo $! >grand; echo $$ >pid; wait";
    let mut run = run(&server, &[], script);
    let grandchild = run.number("grand");
    run.signal(Signal::SIGTERM);
    assert_eq!(run.status(), 9);
    assert_eq!(state(grandchild), None);
    assert!(call!(server.client(), "GET", "k").is_null());
}

#[test]
fn the_command_inherits_the_signal_dispositions() {
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
fn an_ignored_signal_is_ignored_by_gpulock_and_the_command() {
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
    let ignored = status_of(command, "SigIgn:");
    assert_eq!(u64::from_str_radix(&ignored, 16).expect("a mask") & 1, 1);
    holder.signal(Signal::SIGHUP);
    waiter.signal(Signal::SIGHUP);
    // If HUP were not ignored, it would end the command before TERM.
    holder.signal(Signal::SIGTERM);
    assert_eq!({ holder }.status(), 128 + 15);
    assert!(waiter.number("pid") > 0);
}

#[test]
fn tstp_and_cont_stop_and_continue_both() {
    let server = server();
    // A single process: a shell could be stopped while it starts another one.
    let run = run(&server, &[], "echo $$ >pid; exec sleep 600");
    let command = run.number("pid");
    for _ in 0..2 {
        run.signal(Signal::SIGTSTP);
        wait_state(command, "T");
        wait_state(run.pid(), "T");
        run.signal(Signal::SIGCONT);
        wait_state(command, "SR");
        wait_state(run.pid(), "SR");
    }
}

#[test]
fn a_run_stopped_by_tstp_for_too_long_reports_the_lost_lock() {
    let server = server();
    let mut run = run(&server, &["--lease", "2s"], "echo $$ >pid; exec sleep 600");
    run.signal(Signal::SIGTSTP);
    wait_dead(run.number("pid"));
    run.signal(Signal::SIGCONT);
    assert_eq!(run.status(), 76);
}

#[test]
fn a_wait_can_be_stopped_and_continued() {
    let server = server();
    call!(server.client(), "GPULOCK.ACQUIRE", "k", "other", "EX", 600);
    let mut run = gpulock_run(&server, &["--key", "k", "--", "true"]).start();
    server.wait_blocked(1);
    run.signal(Signal::SIGTSTP);
    wait_state(run.pid(), "T");
    run.signal(Signal::SIGCONT);
    wait_state(run.pid(), "SR");
    call!(server.client(), "GPULOCK.RELEASE", "k", "other");
    assert_eq!(run.status(), 0);
}

#[test]
fn a_command_stopped_by_sigstop_keeps_its_lock() {
    let server = server();
    let script = "trap 'exit 6' USR1; echo $$ >pid; while :; do sleep 0.05; done";
    let mut run = run(&server, &["--lease", "6s"], script);
    let command = run.number("pid");
    let token = call!(server.client(), "GPULOCK.INSPECT", "k").field("token").int();
    send(command, Signal::SIGSTOP);
    wait_until(TIMEOUT, "twice the length of the lease", || {
        call!(server.client(), "GPULOCK.INSPECT", "k").field("held_ms").int() > 12_000
    });
    send(command, Signal::SIGCONT);
    send(command, Signal::SIGUSR1);
    assert_eq!(run.status(), 6);
    assert!(token > 0);
}

#[test]
fn the_command_gets_the_terminal() {
    let server = server();
    let script = "echo $$ >pid; read line; echo $line >typed; exec sleep 600";
    let program = format!("exec $GPULOCK run --key k -- sh -c '{script}'");
    let mut terminal = in_terminal(&server, &program);
    terminal.run.line("pid");
    terminal.types("hello\n");
    assert_eq!(terminal.run.line("typed"), "hello");
    // Control-C: the terminal sends SIGINT to its foreground process group.
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
    // The shell has the terminal again.
    terminal.types("again\n");
    assert_eq!(terminal.run.line("after"), "again");
    assert_eq!(terminal.run.status(), 0);
}

#[test]
fn a_shell_can_stop_and_resume_the_job() {
    let server = server();
    let mut terminal = in_terminal(&server, "bash --norc --noprofile -i");
    terminal.types("$GPULOCK run --key k -- sh -c 'echo $$ >pid; exec sleep 600'\n");
    let command = terminal.run.number("pid");
    let parent: u32 = status_of(command, "PPid:").parse().expect("a number");
    for _ in 0..2 {
        wait_foreground(command);
        // Control-Z.
        terminal.types("\x1a");
        wait_state(command, "T");
        wait_state(parent, "T");
        terminal.types("jobs >jobs; echo >>jobs\n");
        wait_until(TIMEOUT, "the shell to have a stopped job", || {
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

/// Control-Z also stops the other processes of the job.
#[test]
fn control_z_stops_the_whole_job() {
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

/// No shell could continue the command.
#[test]
fn control_z_is_ignored_without_a_shell() {
    let server = server();
    let script = "echo $$ >pid; exec sleep 600";
    let program = format!("exec $GPULOCK run --key k --lease 6s -- sh -c '{script}'");
    let mut terminal = in_terminal(&server, &program);
    let command = terminal.run.number("pid");
    wait_foreground(command);
    terminal.types("\x1a");
    let mut client = server.client();
    wait_until(TIMEOUT, "twice the length of the lease", || {
        call!(client, "GPULOCK.INSPECT", "k").field("held_ms").int() > 12_000
    });
    wait_state(command, "S");
    terminal.types("\x03");
    assert_eq!(terminal.run.status(), 128 + 2);
}

/// The watchdog has killed the command in the meantime.
#[test]
fn a_run_stopped_by_control_z_for_too_long_reports_the_lost_lock() {
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
    wait_until(TIMEOUT, "the status", || {
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
fn the_progress_line_is_redrawn_and_erased() {
    let server = server();
    call!(server.client(), "GPULOCK.ACQUIRE", "k", "other", "EX", 600);
    let program =
        "export TERM=xterm; stty columns 200; $GPULOCK run --key k -- echo done";
    let mut terminal = in_terminal(&server, program);
    let screen = |terminal: &Typed| {
        String::from_utf8_lossy(&fs::read(terminal.run.path("out")).expect("a file"))
            .into_owned()
    };
    wait_until(TIMEOUT, "two draws", || {
        screen(&terminal).matches("position 1; held by other for").count() >= 2
    });
    call!(server.client(), "GPULOCK.RELEASE", "k", "other");
    assert_eq!(terminal.run.status(), 0);
    let screen = screen(&terminal);
    assert!(screen.contains("\r\x1b[Kgpulock: waiting"), "{screen:?}");
    assert!(screen.ends_with("\r\x1b[Kdone\r\n"), "{screen:?}");
}
