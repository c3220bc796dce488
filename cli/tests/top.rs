//! `gpulock top` in a real terminal: its screen, its keys, and the restored terminal however it
//! ends.

use std::fs;
use std::time::Duration;

use gpulock_testkit::{Server, call, on_every_server, send, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[path = "support/invoke.rs"]
mod invoke;
#[path = "support/tmux.rs"]
mod tmux;
use invoke::gpulock;
use tmux::Tmux;

/// Text that only top's screen contains, and text that only the shell prints.
const TOP: &str = "q quit";
const ENDED: &str = "it ended with";
/// Prints the status. The quotes keep the command line itself from matching.
const PRINT_STATUS: &str = "echo it en''ded with $?";

/// Starts top in the shell, which prints its status at the end.
fn start(tmux: &Tmux, server: &Server, options: &str) {
    let program = env!("CARGO_BIN_EXE_gpulock");
    let url = format!("redis://127.0.0.1:{}", server.port());
    tmux.type_line(&format!("'{program}' top --url {url} {options}; {PRINT_STATUS}"));
}

/// Replaces the shell with an interactive bash that reports job changes immediately.
fn start_bash(tmux: &Tmux) {
    tmux.type_line("PS1='$ ' exec bash --norc");
    tmux.type_line("set -b; echo ba''sh");
    tmux.wait_for("echo ba''sh\nbash");
}

/// Sends a signal to a process.
fn send_signal(pid: &str, signal: Signal) {
    let pid = Pid::from_raw(pid.parse().unwrap());
    kill(pid, signal).unwrap();
}

/// Whether a process has ended; it may not be reaped.
fn has_ended(pid: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status"));
    status.map_or(true, |status| status.contains("State:\tZ"))
}

/// Starts top through a shell that records its process id, and returns that.
fn start_with_id(tmux: &Tmux, server: &Server) -> String {
    let file = server.dir().join("top.pid");
    let script = "echo $$ > \"$0\"; exec \"$@\"";
    let program = env!("CARGO_BIN_EXE_gpulock");
    tmux.type_line(&format!(
        "sh -c '{script}' {} '{program}' top --url redis://127.0.0.1:{}; {PRINT_STATUS}",
        file.display(),
        server.port()
    ));
    tmux.wait_for(TOP);
    fs::read_to_string(file).unwrap().trim().to_owned()
}

/// Waits until the shell is back, and has printed this status.
#[track_caller]
fn wait_ended(tmux: &Tmux, status: i32) -> String {
    wait_for_shell(tmux, &format!("{ENDED} {status}"))
}

/// Waits until the shell has printed this text on its original screen, and accepts a command.
#[track_caller]
fn wait_for_shell(tmux: &Tmux, text: &str) -> String {
    // The prompt may be printed later than the text.
    let screen = tmux
        .wait(text, |screen| screen.contains(text) && screen.trim_end().ends_with("\n$"));
    assert!(screen.contains("begun"), "the original screen is not restored:\n{screen}");
    assert!(!screen.contains(TOP), "top's screen is left:\n{screen}");
    assert!(tmux.shows_cursor(), "the cursor is still hidden:\n{screen}");
    tmux.type_line("echo ty''ped");
    tmux.wait_for("$ echo ty''ped\ntyped")
}

#[test]
fn top_shows_the_locks_and_the_queue_of_the_selected_one() {
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
        let position = |key: &str| screen.find(&format!("\n{key}")).unwrap();
        assert!(position("gpu:1") < position("gpu:0"), "most waiting first:\n{screen}");
        // gpu:0, now second, is still selected.
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
fn a_gpu_with_slots_is_one_row_that_opens() {
    on_every_server(|flavour| {
        let Some(tmux) = Tmux::start(100, 30) else { return };
        let server = flavour.start();
        let mut client = server.client();
        call!(client, "GPULOCK.ACQUIRE", "{p:h}:GPU-a:0", "asr", "EX", 600);
        call!(client, "GPULOCK.ACQUIRE", "{p:h}:GPU-a:5", "llm", "EX", 600);
        start(&tmux, &server, "");
        let screen = tmux.wait_for("{p:h}:GPU-a");
        assert!(screen.contains("2 holders (2 slots)"), "{screen}");
        assert!(!screen.contains("asr"), "{screen}");
        tmux.press(&["Enter"]);
        tmux.wait_for("slot 5");
        tmux.press(&["j", "j", "f"]);
        tmux.wait_for("Release {p:h}:GPU-a:5");
        tmux.press(&["y"]);
        tmux.wait_for("{p:h}:GPU-a:5 released; it was held by llm");
        let screen = tmux.wait_for("asr (1 slot)");
        assert!(!screen.contains("slot 5"), "{screen}");
        assert_eq!(call!(client, "EXISTS", "{p:h}:GPU-a:0"), 1);
        tmux.press(&["q"]);
        wait_ended(&tmux, 0);
    });
}

#[test]
fn filter_sort_order_and_help_can_be_changed() {
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
        let screen = tmux.wait_for("1 matching \"tpu\"");
        assert!(screen.contains("\ntpu:0") && !screen.contains("\ngpu:0"), "{screen}");
        tmux.press(&["Escape"]);
        tmux.wait_for("\ngpu:0");
        tmux.press(&["?"]);
        tmux.wait_for("select a lock");
        // This closes only the help.
        tmux.press(&["q"]);
        tmux.wait("the help to close", |screen| !screen.contains("select a lock"));
        tmux.press(&["C-c"]);
        wait_ended(&tmux, 0);
    });
}

#[test]
fn a_lock_is_released_after_yes_and_not_after_no() {
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
        let screen = tmux.wait_for("y: release");
        for text in ["Release gpu:0", "held by asr", &format!("token {token}")] {
            assert!(screen.contains(text), "{text}:\n{screen}");
        }
        tmux.press(&["n"]);
        tmux.wait("the confirmation to close", |screen| !screen.contains("y: release"));
        assert_eq!(call!(client, "GET", "gpu:0"), "asr");
        tmux.press(&["f"]);
        tmux.wait_for("y: release");
        tmux.press(&["y"]);
        tmux.wait_for("gpu:0 released; it was held by asr");
        assert!(waiter.read().int() > token, "the next waiter gets it");
        tmux.wait_for("gpu:0  tts");
        tmux.press(&["q"]);
        wait_ended(&tmux, 0);
    });
}

#[test]
fn a_later_hold_is_not_released() {
    on_every_server(|flavour| {
        let Some(tmux) = Tmux::start(100, 30) else { return };
        let server = flavour.start();
        let mut client = server.client();
        call!(client, "GPULOCK.ACQUIRE", "gpu:0", "asr");
        start(&tmux, &server, "");
        tmux.wait_for("\ngpu:0");
        tmux.press(&["f"]);
        tmux.wait_for("y: release");
        call!(client, "GPULOCK.RELEASE", "gpu:0", "asr");
        call!(client, "GPULOCK.ACQUIRE", "gpu:0", "asr");
        tmux.wait_for("This hold has ended.");
        tmux.press(&["y"]);
        tmux.wait_for("gpu:0 not released");
        assert_eq!(call!(client, "GET", "gpu:0"), "asr");
        tmux.press(&["q"]);
        wait_ended(&tmux, 0);
    });
}

#[test]
fn top_reconnects_to_a_restarted_server() {
    on_every_server(|flavour| {
        let Some(tmux) = Tmux::start(100, 30) else { return };
        let mut server = flavour.start();
        call!(server.client(), "GPULOCK.ACQUIRE", "gpu:0", "asr");
        start(&tmux, &server, "");
        tmux.wait_for("\ngpu:0");
        server.kill9();
        let expected =
            format!("failed to connect to 127.0.0.1:{}, retrying", server.port());
        let screen = tmux.wait_for(&expected);
        assert!(screen.contains("\ngpu:0"), "the last snapshot stays:\n{screen}");
        server.restart();
        call!(server.client(), "GPULOCK.ACQUIRE", "gpu:7", "llm");
        let screen = tmux.wait_for("\ngpu:7");
        assert!(!screen.contains("retrying"), "{screen}");
        tmux.press(&["q"]);
        wait_ended(&tmux, 0);
    });
}

#[test]
fn keys_work_while_the_server_hangs() {
    on_every_server(|flavour| {
        let Some(tmux) = Tmux::start(100, 30) else { return };
        let mut server = flavour.start();
        call!(server.client(), "GPULOCK.ACQUIRE", "gpu:0", "asr");
        start(&tmux, &server, "");
        tmux.wait_for("\ngpu:0");
        server.freeze();
        tmux.wait_for("no reply");
        tmux.press(&["?"]);
        tmux.wait_for("select a lock");
        tmux.press(&["Escape"]);
        tmux.wait("the help to close", |screen| !screen.contains("select a lock"));
        tmux.press(&["q"]);
        wait_ended(&tmux, 0);
        server.thaw();
    });
}

#[test]
fn a_signal_restores_the_terminal_and_sets_the_status() {
    on_every_server(|flavour| {
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
            let Some(tmux) = Tmux::start(100, 30) else { return };
            let server = flavour.start();
            let pid = start_with_id(&tmux, &server);
            send_signal(&pid, signal);
            wait_ended(&tmux, 128 + signal as i32);
        }
    });
}

/// Printed by bash for a command that was stopped.
const STOPPED: &str = "Stopped";

#[test]
fn tstp_returns_to_the_shell_and_fg_resumes() {
    on_every_server(|flavour| {
        let Some(tmux) = Tmux::start(100, 30) else { return };
        start_bash(&tmux);
        let server = flavour.start();
        let pid = start_with_id(&tmux, &server);
        let stops: [&dyn Fn(); 2] =
            [&|| send_signal(&pid, Signal::SIGTSTP), &|| tmux.press(&["C-z"])];
        for (stop, key) in stops.into_iter().zip(["gpu:0", "gpu:1"]) {
            stop();
            wait_for_shell(&tmux, STOPPED);
            call!(server.client(), "GPULOCK.ACQUIRE", key, "asr");
            tmux.type_line(&format!("clear; echo be''gun; fg; {PRINT_STATUS}"));
            let screen = tmux.wait_for(&format!("\n{key}"));
            assert!(screen.contains(TOP), "the screen is incomplete:\n{screen}");
        }
        tmux.press(&["?"]);
        tmux.wait_for("select a lock");
        tmux.press(&["C-c"]);
        wait_ended(&tmux, 0);
    });
}

/// After SIGSTOP the terminal is not restored, and bash overwrites the screen.
#[test]
fn the_screen_is_redrawn_after_sigstop() {
    on_every_server(|flavour| {
        let Some(tmux) = Tmux::start(100, 30) else { return };
        start_bash(&tmux);
        let server = flavour.start();
        let pid = start_with_id(&tmux, &server);
        send_signal(&pid, Signal::SIGSTOP);
        tmux.wait_for(STOPPED);
        tmux.type_line(&format!("fg; {PRINT_STATUS}"));
        let screen = tmux.wait("top's screen only", |screen| {
            screen.contains(TOP) && !screen.contains(STOPPED)
        });
        assert!(!screen.contains(PRINT_STATUS), "{screen}");
        tmux.press(&["q"]);
        wait_ended(&tmux, 0);
    });
}

#[test]
fn in_the_background_top_stays_stopped_and_can_be_terminated() {
    on_every_server(|flavour| {
        let Some(tmux) = Tmux::start(100, 30) else { return };
        start_bash(&tmux);
        let server = flavour.start();
        let pid = start_with_id(&tmux, &server);
        tmux.press(&["C-z"]);
        wait_for_shell(&tmux, STOPPED);
        tmux.type_line("clear; bg; echo contin''ued");
        tmux.wait("a second stop", |screen| {
            screen.contains("continued") && screen.contains(STOPPED)
        });
        tmux.type_line("kill %1");
        wait_until(Duration::from_secs(60), "top to end", || has_ended(&pid));
        let screen = tmux.screen();
        assert!(!screen.contains(TOP), "drawn on the shell's screen:\n{screen}");
    });
}

#[test]
fn control_z_is_ignored_without_a_shell() {
    on_every_server(|flavour| {
        let Some(tmux) = Tmux::start(100, 30) else { return };
        let server = flavour.start();
        let program = env!("CARGO_BIN_EXE_gpulock");
        let port = server.port();
        tmux.type_line(&format!("exec '{program}' top --url redis://127.0.0.1:{port}"));
        tmux.wait_for(TOP);
        tmux.press(&["C-z", "?"]);
        tmux.wait_for("select a lock");
        call!(server.client(), "GPULOCK.ACQUIRE", "gpu:0", "asr");
        tmux.wait_for("1 held");
    });
}

#[test]
fn top_ends_with_its_terminal() {
    on_every_server(|flavour| {
        let Some(tmux) = Tmux::start(100, 30) else { return };
        let server = flavour.start();
        let pid = start_with_id(&tmux, &server);
        drop(tmux);
        wait_until(Duration::from_secs(60), "top to end", || has_ended(&pid));
    });
}

#[test]
fn a_narrow_screen_is_sufficient() {
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
fn tables_wrap_on_a_narrow_terminal() {
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
fn without_a_terminal_the_error_suggests_ls() {
    on_every_server(|flavour| {
        let result = gpulock(&flavour.start(), &["top"]);
        assert_eq!((result.status, &*result.out), (1, ""), "{result:?}");
        assert!(result.err.contains("top needs a terminal"), "{result:?}");
    });
}

#[test]
fn an_error_of_the_first_query_is_printed_to_the_shell() {
    on_every_server(|flavour| {
        let Some(tmux) = Tmux::start(100, 30) else { return };
        let mut server = flavour.server().without_module().start();
        start(&tmux, &server, "");
        let screen = wait_ended(&tmux, 1);
        assert!(screen.contains("has not loaded the module"), "{screen}");
        server.stop();
        start(&tmux, &server, "");
        let screen = wait_ended(&tmux, 69);
        assert!(screen.contains("failed to connect to 127.0.0.1:"), "{screen}");
    });
}
