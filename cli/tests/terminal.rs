//! Narrow terminals, and terminals that cannot move their cursor (`TERM=dumb`).

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use gpulock_testkit::{Client, Server, call, on_every_server, wait_until};
use nix::fcntl::OFlag;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};

#[path = "support/invoke.rs"]
mod invoke;
#[path = "support/tmux.rs"]
mod tmux;
use invoke::{Invocation, command, gpulock};
use tmux::Tmux;

const KEY: &str = "{node7}:gpu:0";

/// A server with a held lock and a log entry.
fn busy(server: &Server) -> Client {
    let mut client = server.client();
    call!(client, "GPULOCK.ACQUIRE", KEY, "asr-7f3a", "EX", 36_000);
    call!(client, "GPULOCK.RELEASE", KEY, "other");
    client
}

/// A shell in a terminal of this size, with the program as `gpulock`.
fn shell(width: u16, height: u16, server: &Server) -> Option<Tmux> {
    let tmux = Tmux::start(width, height)?;
    let url = format!("export GPULOCK_URL=redis://127.0.0.1:{}", server.port());
    let program = env!("CARGO_BIN_EXE_gpulock");
    tmux.type_line(&format!("{url}; alias gpulock='{program}'; clear; echo re''ady"));
    tmux.wait_for("ready");
    Some(tmux)
}

#[test]
fn tables_are_readable_in_twenty_columns() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let _client = busy(&server);
        let Some(tmux) = shell(20, 60, &server) else { return };
        #[rustfmt::skip]
        let cases: [(&str, &[&str]); 4] = [
            ("ls",                    &["\nKEY: {node7}:gpu:0\nOWNER: asr-7f3a\nHELD FOR: "]),
            ("log",                   &["\nDB: 0\nKEY: {node7}:gpu:0\nHOLDER: asr-7f3a\n"]),
            ("inspect '{node7}:gpu:0'", &["\nowner       asr-7f3a\n", "\nlease left  "]),
            ("stats",                 &["\nlocks_held: 1\n", "\nholds\nCOUNT: 0\nMEAN: -\n"]),
        ];
        for (number, (args, expected)) in cases.into_iter().enumerate() {
            tmux.type_line(&format!("clear; gpulock {args}; echo en''ded {number}"));
            let ended = format!("\nended {number}\n");
            let screen = tmux.wait(&ended, |screen| screen.contains(&ended));
            let screen = format!("\n{screen}");
            for expected in expected {
                assert!(screen.contains(expected), "{args}: {expected:?}\n{screen}");
            }
        }
    });
}

#[test]
fn the_progress_line_fits_twenty_columns() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut client = busy(&server);
        let Some(tmux) = shell(20, 12, &server) else { return };
        tmux.type_line(&format!("clear; gpulock run --key '{KEY}' -- echo don''e"));
        // It is redrawn in place.
        let screen =
            tmux.wait("a redrawn line", |screen| screen.contains("2s position 1"));
        assert_eq!(screen.matches("position").count(), 1, "{screen}");
        call!(client, "GPULOCK.RELEASE", KEY, "asr-7f3a");
        let screen = tmux.wait("the end", |screen| screen.starts_with("done\n"));
        assert!(!screen.contains("position"), "{screen}");
        assert!(tmux.shows_cursor());
    });
}

/// A terminal, and the end of it that a program uses.
fn terminal() -> (PtyMaster, File) {
    let terminal = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let path = ptsname_r(&terminal).unwrap();
    (terminal, OpenOptions::new().read(true).write(true).open(path).unwrap())
}

/// Everything that was written to the terminal, until no program has it open.
fn written(mut terminal: PtyMaster) -> String {
    let mut text = Vec::new();
    let mut bytes = [0; 4096];
    // Linux returns an error instead of the end.
    while let Ok(count @ 1..) = terminal.read(&mut bytes) {
        text.extend_from_slice(&bytes[..count]);
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn a_wait_on_a_dumb_terminal_prints_one_line() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut client = busy(&server);
        let (terminal, end) = terminal();
        let mut run = command(&server)
            .args(["run", "--key", KEY, "--", "true"])
            .env("TERM", "dumb")
            .stdout(Stdio::null())
            .stderr(end)
            .spawn()
            .unwrap();
        // A smart terminal has got the third line by now.
        wait_until(Duration::from_secs(60), "a wait of two seconds", || {
            let queue = client.line(&format!("GPULOCK.INSPECT {KEY}")).field("waiters");
            let waiters = queue.list();
            waiters.first().is_some_and(|it| it.field("waited_ms").int() > 2_000)
        });
        call!(client, "GPULOCK.RELEASE", KEY, "asr-7f3a");
        assert!(run.wait().unwrap().success());
        let text = written(terminal);
        assert!(!text.contains('\u{1b}'), "{text:?}");
        assert_eq!(text.matches("gpulock: waiting").count(), 1, "{text:?}");
    });
}

#[test]
fn top_refuses_a_dumb_terminal() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let (terminal, end) = terminal();
        let output = command(&server)
            .arg("top")
            .env("TERM", "dumb")
            .stdin(end.try_clone().unwrap())
            .stdout(end)
            .output()
            .unwrap();
        let result = Invocation::from(output);
        let why =
            "gpulock: top needs a terminal that can move its cursor, not TERM=dumb; ";
        assert!(result.status == 1 && result.err.starts_with(why), "{result:?}");
        assert_eq!(written(terminal), "");
        let other = gpulock(&server, &["top"]);
        assert!(other.err.starts_with("gpulock: top needs a terminal; "), "{other:?}");
        assert!(other.out.is_empty());
    });
}
