//! A terminal to look at and to type on: tmux, with a server of its own that ends with the
//! test.

use std::io::{Write, stderr};
use std::process::{Command, Output};
use std::time::Duration;

use gpulock_testkit::wait_until;
use tempfile::TempDir;

/// How long a picture may take: only what hangs fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A shell in a window of this size.
pub(crate) struct Tmux {
    dir: TempDir,
}

impl Tmux {
    /// Starts it. None, told loudly, where there is no tmux.
    pub(crate) fn start(width: u16, height: u16) -> Option<Self> {
        let asked = Command::new("tmux").arg("-V").output();
        if !asked.is_ok_and(|output| output.status.success()) {
            // Not by eprintln!, which the test harness swallows when all is well.
            let told =
                writeln!(stderr(), "SKIPPED: no tmux runs here (apt install tmux)");
            told.unwrap();
            return None;
        }
        let tmux = Self { dir: TempDir::with_prefix("gpulock-tmux-").unwrap() };
        let (width, height) = (width.to_string(), height.to_string());
        tmux.run(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            &width,
            "-y",
            &height,
            "sh",
        ]);
        tmux.type_line("PS1='$ '; clear; echo be''gun");
        tmux.wait_for("begun");
        Some(tmux)
    }

    /// Presses keys by tmux's names for them.
    pub(crate) fn press(&self, keys: &[&str]) {
        self.run(&[&["send-keys"], keys].concat());
    }

    /// Types a line into the shell.
    pub(crate) fn type_line(&self, line: &str) {
        self.run(&["send-keys", "-l", line]);
        self.press(&["Enter"]);
    }

    /// What stands on the screen.
    pub(crate) fn screen(&self) -> String {
        let output = self.run(&["capture-pane", "-p"]);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Whether the terminal shows its cursor.
    pub(crate) fn shows_cursor(&self) -> bool {
        self.run(&["display-message", "-p", "#{cursor_flag}"]).stdout == b"1\n"
    }

    /// Waits until this stands on the screen, and gives the screen.
    #[track_caller]
    pub(crate) fn wait_for(&self, text: &str) -> String {
        self.wait(text, |screen| screen.contains(text))
    }

    /// Waits until the screen is as wanted, and gives it.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let mut screen = String::new();
        let look = || {
            screen = self.screen();
            is_so(&screen)
        };
        let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until(PATIENCE, what, look);
        }));
        assert!(
            waited.is_ok(),
            "waited for {what:?}, and the screen is\n{}",
            self.screen()
        );
        screen
    }

    fn run(&self, args: &[&str]) -> Output {
        let socket = self.dir.path().join("socket");
        let output = Command::new("tmux")
            .arg("-S")
            .arg(socket)
            .args(args)
            .env("LC_ALL", "C.UTF-8")
            .env("TERM", "xterm-256color")
            .env_remove("TMUX")
            .output()
            .unwrap();
        assert!(output.status.success(), "tmux {args:?}: {output:?}");
        output
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}
