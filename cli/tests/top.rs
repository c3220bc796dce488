//! `gpulock top` on a real terminal: what it shows, what its keys do, and that the terminal
//! is given back however it ends.

use std::fs;
use std::time::Duration;

use gpulock_testkit::{Server, call, on_every_server, send, wait_until};
use rustix::process::{Pid, Signal, kill_process};

#[path = "support/called.rs"]
mod called;
#[path = "support/tmux.rs"]
mod tmux;
use called::gpulock;
use tmux::Tmux;

/// What only the picture has, and what only the shell has.
const PICTURE: &str = "q quit";
const ENDED: &str = "it ended with";
/// What the shell does at the end; the quotes keep the command line from looking like it.
const TELL: &str = "echo it en''ded with $?";

/// Starts top in the shell, which tells its status at the end.
fn start(tmux: &Tmux, server: &Server, options: &str) {
    let program = env!("CARGO_BIN_EXE_gpulock");
    let url = format!("redis://127.0.0.1:{}", server.port());
    tmux.type_line(&format!("'{program}' top --url {url} {options}; {TELL}"));
}

/// In the place of the first shell comes one as people have it, that tells of its jobs at
/// once.
fn start_bash(tmux: &Tmux) {
    tmux.type_line("PS1='$ ' exec bash --norc");
    tmux.type_line("set -b; echo ba''sh");
    tmux.wait_for("echo ba''sh\nbash");
}

/// Sends a signal to a process.
fn send_signal(pid: &str, signal: Signal) {
    let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Whether a process ended; nobody may be there to bury it.
fn is_over(pid: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status"));
    status.map_or(true, |status| status.contains("State:\tZ"))
}

/// Starts top in a shell that becomes it, and gives its process id.
fn start_with_id(tmux: &Tmux, server: &Server) -> String {
    let file = server.dir().join("top.pid");
    let becomes = "echo $$ > \"$0\"; exec \"$@\"";
    let program = env!("CARGO_BIN_EXE_gpulock");
    tmux.type_line(&format!(
        "sh -c '{becomes}' {} '{program}' top --url redis://127.0.0.1:{}; {TELL}",
        file.display(),
        server.port()
    ));
    tmux.wait_for(PICTURE);
    fs::read_to_string(file).unwrap().trim().to_owned()
}

/// Waits until the shell is back with this status, and what stood there before.
#[track_caller]
fn wait_ended(tmux: &Tmux, status: i32) -> String {
    wait_for_the_shell(tmux, &format!("{ENDED} {status}"))
}

/// Waits until the shell says so on the screen that it had before, and takes a line.
#[track_caller]
fn wait_for_the_shell(tmux: &Tmux, said: &str) -> String {
    // The prompt may come in a write of its own.
    let screen = tmux
        .wait(said, |screen| screen.contains(said) && screen.trim_end().ends_with("\n$"));
    assert!(screen.contains("begun"), "the screen from before is not back:\n{screen}");
    assert!(!screen.contains(PICTURE), "the picture is left:\n{screen}");
    assert!(tmux.shows_cursor(), "the cursor is left hidden:\n{screen}");
    tmux.type_line("echo ty''ped");
    tmux.wait_for("$ echo ty''ped\ntyped")
}

#[test]
fn it_shows_the_locks_and_the_line_of_the_chosen_one() {
    on_every_server(|flavour| {
        let Some(tmux) = Tmux::start(100, 30) else { return };
        let server = flavour.start();
        let mut client = server.client();
        call!(client, "GPULOCK.ACQUIRE", "gpu:0", "asr", "EX", 600);
        let token = call!(client, "GPULOCK.ACQUIRE", "gpu:1", "llm", "EX", 600).int();
        start(&tmux, &server, "");
        tmux.wait_for("2 held · 0 waiting");
        let mut waiter = server.client();
        send!(waiter, "GPULOCK.ACQUIRE", "gpu:1", "tts", "BLOCK", 0);
        let screen = tmux.wait_for("2 held · 1 waiting");
        let place = |key: &str| screen.find(&format!("\n{key}")).unwrap();
        assert!(place("gpu:1") < place("gpu:0"), "most contended first:\n{screen}");
        // The choice stayed with gpu:0, which now stands second.
        tmux.press(&["k", "Enter"]);
        let screen = tmux.wait_for("held by llm");
        assert!(screen.contains(&format!("token {token}")), "{screen}");
        assert!(screen.contains("1    tts"), "{screen}");
        tmux.press(&["j"]);
        tmux.wait_for("held by asr");
        tmux.press(&["Escape"]);
        tmux.wait("the panel to close", |screen| !screen.contains("held by"));
        tmux.press(&["q"]);
        wait_ended(&tmux, 0);
    });
}

#[test]
fn the_filter_the_order_and_the_help_come_and_go() {
    on_every_server(|flavour| {
        let Some(tmux) = Tmux::start(100, 30) else { return };
        let server = flavour.start();
        let mut client = server.client();
        for key in ["gpu:0", "gpu:1", "tpu:0"] {
            call!(client, "GPULOCK.ACQUIRE", key, "asr");
        }
        start(&tmux, &server, "");
        tmux.wait_for("most waiting first");
        tmux.press(&["s"]);
        tmux.wait_for("longest held first");
        tmux.press(&["/", "t", "p", "u"]);
        tmux.wait_for("filter: tpu");
        tmux.press(&["Enter"]);
        let screen = tmux.wait_for("1 with \"tpu\"");
        assert!(screen.contains("\ntpu:0") && !screen.contains("\ngpu:0"), "{screen}");
        tmux.press(&["Escape"]);
        tmux.wait_for("\ngpu:0");
        tmux.press(&["?"]);
        tmux.wait_for("choose a lock");
        // It closes the help, and quits nothing.
        tmux.press(&["q"]);
        tmux.wait("the help to close", |screen| !screen.contains("choose a lock"));
        tmux.press(&["C-c"]);
        wait_ended(&tmux, 0);
    });
}

#[test]
fn a_lock_is_taken_after_a_yes_and_not_after_a_no() {
    on_every_server(|flavour| {
        let Some(tmux) = Tmux::start(100, 30) else { return };
        let server = flavour.start();
        let mut client = server.client();
        let token = call!(client, "GPULOCK.ACQUIRE", "gpu:0", "asr", "EX", 600).int();
        let mut waiter = server.client();
        send!(waiter, "GPULOCK.ACQUIRE", "gpu:0", "tts", "EX", 600, "BLOCK", 0);
        server.wait_blocked(1);
        start(&tmux, &server, "");
        tmux.wait_for("1 held · 1 waiting");
        tmux.press(&["f"]);
        let screen = tmux.wait_for("y: take it");
        for told in ["Take gpu:0", "from asr", &format!("token {token}")] {
            assert!(screen.contains(told), "{told}:\n{screen}");
        }
        tmux.press(&["n"]);
        tmux.wait("the question to go", |screen| !screen.contains("y: take it"));
        assert_eq!(call!(client, "GET", "gpu:0"), "asr");
        tmux.press(&["f"]);
        tmux.wait_for("y: take it");
        tmux.press(&["y"]);
        tmux.wait_for("gpu:0 taken from asr");
        assert!(waiter.read().int() > token, "the next waiter has it");
        tmux.wait_for("gpu:0  tts");
        tmux.press(&["q"]);
        wait_ended(&tmux, 0);
    });
}

#[test]
fn a_successor_of_the_hold_that_was_shown_keeps_the_lock() {
    on_every_server(|flavour| {
        let Some(tmux) = Tmux::start(100, 30) else { return };
        let server = flavour.start();
        let mut client = server.client();
        call!(client, "GPULOCK.ACQUIRE", "gpu:0", "asr");
        start(&tmux, &server, "");
        tmux.wait_for("\ngpu:0");
        tmux.press(&["f"]);
        tmux.wait_for("y: take it");
        call!(client, "GPULOCK.RELEASE", "gpu:0", "asr");
        call!(client, "GPULOCK.ACQUIRE", "gpu:0", "asr");
        tmux.wait_for("It is no longer held so.");
        tmux.press(&["y"]);
        tmux.wait_for("gpu:0 not taken");
        assert_eq!(call!(client, "GET", "gpu:0"), "asr");
        tmux.press(&["q"]);
        wait_ended(&tmux, 0);
    });
}

#[test]
fn it_outlives_the_server_and_comes_back_with_it() {
    on_every_server(|flavour| {
        let Some(tmux) = Tmux::start(100, 30) else { return };
        let mut server = flavour.start();
        call!(server.client(), "GPULOCK.ACQUIRE", "gpu:0", "asr");
        start(&tmux, &server, "");
        tmux.wait_for("\ngpu:0");
        server.kill9();
        let told = format!("no connection to 127.0.0.1:{}, trying again", server.port());
        let screen = tmux.wait_for(&told);
        assert!(screen.contains("\ngpu:0"), "what was seen last stays:\n{screen}");
        server.restart();
        call!(server.client(), "GPULOCK.ACQUIRE", "gpu:7", "llm");
        let screen = tmux.wait_for("\ngpu:7");
        assert!(!screen.contains("trying again"), "{screen}");
        tmux.press(&["q"]);
        wait_ended(&tmux, 0);
    });
}

#[test]
fn no_key_waits_for_a_server_that_hangs() {
    on_every_server(|flavour| {
        let Some(tmux) = Tmux::start(100, 30) else { return };
        let mut server = flavour.start();
        call!(server.client(), "GPULOCK.ACQUIRE", "gpu:0", "asr");
        start(&tmux, &server, "");
        tmux.wait_for("\ngpu:0");
        server.freeze();
        tmux.wait_for("no answer");
        tmux.press(&["?"]);
        tmux.wait_for("choose a lock");
        tmux.press(&["Escape"]);
        tmux.wait("the help to close", |screen| !screen.contains("choose a lock"));
        tmux.press(&["q"]);
        wait_ended(&tmux, 0);
        server.thaw();
    });
}

#[test]
fn a_signal_gives_the_terminal_back_and_is_told_by_the_status() {
    on_every_server(|flavour| {
        for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
            let Some(tmux) = Tmux::start(100, 30) else { return };
            let server = flavour.start();
            let pid = start_with_id(&tmux, &server);
            send_signal(&pid, signal);
            wait_ended(&tmux, 128 + signal.as_raw());
        }
    });
}

/// What bash tells of a command that was stopped.
const STOPPED: &str = "Stopped";

#[test]
fn who_stops_it_is_in_the_shell_and_fg_brings_it_back() {
    on_every_server(|flavour| {
        let Some(tmux) = Tmux::start(100, 30) else { return };
        start_bash(&tmux);
        let server = flavour.start();
        let pid = start_with_id(&tmux, &server);
        let stops: [&dyn Fn(); 2] =
            [&|| send_signal(&pid, Signal::TSTP), &|| tmux.press(&["C-z"])];
        for (stop, key) in stops.into_iter().zip(["gpu:0", "gpu:1"]) {
            stop();
            wait_for_the_shell(&tmux, STOPPED);
            call!(server.client(), "GPULOCK.ACQUIRE", key, "asr");
            tmux.type_line(&format!("clear; echo be''gun; fg; {TELL}"));
            let screen = tmux.wait_for(&format!("\n{key}"));
            assert!(screen.contains(PICTURE), "not all of the picture:\n{screen}");
        }
        tmux.press(&["?"]);
        tmux.wait_for("choose a lock");
        tmux.press(&["C-c"]);
        wait_ended(&tmux, 0);
    });
}

/// SIGSTOP leaves it no time to give the terminal back: bash writes over the picture.
#[test]
fn after_a_stop_that_it_did_not_see_it_draws_anew() {
    on_every_server(|flavour| {
        let Some(tmux) = Tmux::start(100, 30) else { return };
        start_bash(&tmux);
        let server = flavour.start();
        let pid = start_with_id(&tmux, &server);
        send_signal(&pid, Signal::STOP);
        tmux.wait_for(STOPPED);
        tmux.type_line(&format!("fg; {TELL}"));
        let screen = tmux.wait("the picture alone", |screen| {
            screen.contains(PICTURE) && !screen.contains(STOPPED)
        });
        assert!(!screen.contains(TELL), "{screen}");
        tmux.press(&["q"]);
        wait_ended(&tmux, 0);
    });
}

#[test]
fn in_the_background_it_stays_stopped_and_can_be_ended() {
    on_every_server(|flavour| {
        let Some(tmux) = Tmux::start(100, 30) else { return };
        start_bash(&tmux);
        let server = flavour.start();
        let pid = start_with_id(&tmux, &server);
        tmux.press(&["C-z"]);
        wait_for_the_shell(&tmux, STOPPED);
        tmux.type_line("clear; bg; echo contin''ued");
        tmux.wait("a second stop", |screen| {
            screen.contains("continued") && screen.contains(STOPPED)
        });
        tmux.type_line("kill %1");
        wait_until(Duration::from_secs(60), "top to end", || is_over(&pid));
        let screen = tmux.screen();
        assert!(!screen.contains(PICTURE), "drawn on the shell's screen:\n{screen}");
    });
}

#[test]
fn where_no_shell_could_continue_it_it_does_not_stop() {
    on_every_server(|flavour| {
        let Some(tmux) = Tmux::start(100, 30) else { return };
        let server = flavour.start();
        let program = env!("CARGO_BIN_EXE_gpulock");
        let port = server.port();
        tmux.type_line(&format!("exec '{program}' top --url redis://127.0.0.1:{port}"));
        tmux.wait_for(PICTURE);
        tmux.press(&["C-z", "?"]);
        tmux.wait_for("choose a lock");
        call!(server.client(), "GPULOCK.ACQUIRE", "gpu:0", "asr");
        tmux.wait_for("1 held");
    });
}

#[test]
fn it_ends_with_its_terminal() {
    on_every_server(|flavour| {
        let Some(tmux) = Tmux::start(100, 30) else { return };
        let server = flavour.start();
        let pid = start_with_id(&tmux, &server);
        drop(tmux);
        wait_until(Duration::from_secs(60), "top to end", || is_over(&pid));
    });
}

#[test]
fn a_narrow_screen_is_enough() {
    on_every_server(|flavour| {
        let Some(tmux) = Tmux::start(40, 10) else { return };
        let server = flavour.start();
        let mut client = server.client();
        for key in ["{a-long-name-of-a-node}:gpu:0", "{a-long-name-of-a-node}:gpu:1"] {
            call!(client, "GPULOCK.ACQUIRE", key, "asr");
        }
        start(&tmux, &server, "--interval 0.2");
        let screen = tmux.wait_for("gpu:0");
        assert!(screen.contains("gpu:1"), "{screen}");
        tmux.press(&["q"]);
        tmux.wait_for(ENDED);
    });
}

#[test]
fn tables_are_folded_and_not_cut_on_a_narrow_terminal() {
    on_every_server(|flavour| {
        let Some(tmux) = Tmux::start(50, 30) else { return };
        let server = flavour.start();
        let key: String = ('a'..='z').cycle().take(60).collect();
        call!(server.client(), "GPULOCK.ACQUIRE", key, "asr");
        let program = env!("CARGO_BIN_EXE_gpulock");
        tmux.type_line(&format!(
            "'{program}' ls --url redis://127.0.0.1:{}; echo do''ne",
            server.port()
        ));
        let screen = tmux.wait_for("done");
        let table = screen.split("KEY").nth(1).unwrap();
        let column: String = table
            .lines()
            .skip(1)
            .take_while(|line| *line != "done")
            .map(|line| line.split(' ').next().unwrap())
            .collect();
        assert_eq!(column, key, "{screen}");
    });
}

#[test]
fn away_from_a_terminal_it_says_what_to_do_instead() {
    on_every_server(|flavour| {
        let called = gpulock(&flavour.start(), &["top"]);
        assert_eq!((called.status, &*called.out), (1, ""), "{called:?}");
        assert!(called.err.contains("top needs a terminal"), "{called:?}");
    });
}

#[test]
fn a_first_look_that_fails_is_told_on_the_shells_screen() {
    on_every_server(|flavour| {
        let Some(tmux) = Tmux::start(100, 30) else { return };
        let mut server = flavour.server().without_module().start();
        start(&tmux, &server, "");
        let screen = wait_ended(&tmux, 1);
        assert!(screen.contains("has not loaded the module"), "{screen}");
        server.stop();
        start(&tmux, &server, "");
        let screen = wait_ended(&tmux, 69);
        assert!(screen.contains("no connection to 127.0.0.1:"), "{screen}");
    });
}
