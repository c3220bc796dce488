//! The signals that end, stop and continue a program, and what they do with the terminal.
//! They are held and taken one by one; what the terminal is stands in screen.rs.

use std::io;
use std::process;
use std::sync::Arc;
use std::thread;

use nix::sys::signal::{SigSet, Signal, raise};
use rustix::process::{getpgrp, getsid, kill_current_process_group};
use rustix::stdio::stdin;
use rustix::termios::tcgetpgrp;

use super::screen::Shared;

/// Holds the signals in this thread and in those that it starts from now on.
///
/// # Errors
/// None that is known.
pub(crate) fn hold() -> io::Result<SigSet> {
    use Signal::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
    let held = SigSet::from_iter([SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGCONT]);
    held.thread_block()?;
    Ok(held)
}

/// Does what they want. A thread of its own, for the main one may be kept by a terminal that
/// is gone: crossterm reads there without an end.
pub(crate) fn obey(held: SigSet, screen: Arc<Shared>) {
    thread::spawn(move || {
        let mut away = None;
        // Of several the one that ends comes first: `kill %1` sends TERM and CONT.
        while let Ok(signal) = held.wait() {
            match signal {
                Signal::SIGTSTP if away.is_none() && may_stop() => {
                    away = Some(screen.leave());
                    stop();
                }
                Signal::SIGTSTP => {}
                // Who takes the terminal from the background is stopped in the midst of it.
                Signal::SIGCONT if is_in_the_background() => stop(),
                Signal::SIGCONT => screen.come_back(away.take()),
                _ => {
                    let _away = away.take().unwrap_or_else(|| screen.leave());
                    process::exit(128 + signal as i32);
                }
            }
        }
    });
}

/// Does what Control-Z does where the terminal makes a signal of it: all that the shell
/// started with us stops too.
///
/// # Errors
/// None that is known.
pub(crate) fn suspend() -> io::Result<()> {
    Ok(kill_current_process_group(rustix::process::Signal::TSTP)?)
}

/// Who is in the first process group of a session has no shell that could continue it. The
/// kernel itself stops nobody there by SIGTSTP.
fn may_stop() -> bool {
    getsid(None) != Ok(getpgrp())
}

fn is_in_the_background() -> bool {
    tcgetpgrp(stdin()).is_ok_and(|group| group != getpgrp())
}

/// Returns when somebody continues us.
fn stop() {
    // Nobody can refuse this signal.
    let _ = raise(Signal::SIGSTOP);
}
