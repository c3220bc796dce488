//! A terminal to read and type on: tmux, with a separate server that ends with the test.

use std::process::{Command, Output};
use std::time::Duration;

use gpulock_testkit::{print_skipped, wait_until};
use tempfile::TempDir;

/// Timeout that only a hang exceeds.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A shell in a window of this size.
pub(crate) struct Tmux {
    dir: TempDir,
}

impl Tmux {
    /// Starts it. Prints a message and returns None if there is no tmux.
    pub(crate) fn start(width: u16, height: u16) -> Option<Self> {
        let version = Command::new("tmux").arg("-V").output();
        if !version.is_ok_and(|output| output.status.success()) {
            print_skipped("tmux is not installed (apt install tmux)");
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

    /// Presses keys, by their tmux names.
    pub(crate) fn press(&self, keys: &[&str]) {
        self.run(&[&["send-keys"], keys].concat());
    }

    /// Types a line into the shell.
    pub(crate) fn type_line(&self, line: &str) {
        self.run(&["send-keys", "-l", line]);
        self.press(&["Enter"]);
    }

    /// The content of the screen.
    pub(crate) fn screen(&self) -> String {
        let output = self.run(&["capture-pane", "-p"]);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Whether the terminal shows its cursor.
    pub(crate) fn shows_cursor(&self) -> bool {
        self.run(&["display-message", "-p", "#{cursor_flag}"]).stdout == b"1\n"
    }

    /// Waits until the screen contains this text, and returns the screen.
    #[track_caller]
    pub(crate) fn wait_for(&self, text: &str) -> String {
        self.wait(text, |screen| screen.contains(text))
    }

    /// Waits until the screen satisfies the condition, and returns it.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str, condition: impl Fn(&str) -> bool) -> String {
        let mut screen = String::new();
        let check = || {
            screen = self.screen();
            condition(&screen)
        };
        let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until(TIMEOUT, what, check);
        }));
        assert!(waited.is_ok(), "no {what:?} on the screen:\n{}", self.screen());
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
