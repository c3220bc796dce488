//! The signals that terminate, stop and continue the program: they are blocked and accepted one
//! by one, so that the terminal is restored first.

use std::io;
use std::process;
use std::sync::Arc;
use std::thread;

use nix::sys::signal::{SigSet, Signal, killpg, raise};
use nix::unistd::{getpgrp, getsid, tcgetpgrp};

use super::screen::Shared;

/// Blocks the signals in this thread and in threads that it starts later.
///
/// # Errors
/// If the system call fails.
pub(crate) fn block() -> io::Result<SigSet> {
    use Signal::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
    let blocked = SigSet::from_iter([SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGCONT]);
    blocked.thread_block()?;
    Ok(blocked)
}

/// Handles the signals in a separate thread: crossterm may block the main thread indefinitely on
/// a terminal that is gone.
pub(crate) fn handle(blocked: SigSet, screen: Arc<Shared>) {
    thread::spawn(move || {
        let mut released = None;
        // Of several pending signals TERM comes first: `kill %1` sends TERM and CONT.
        while let Ok(signal) = blocked.wait() {
            match signal {
                Signal::SIGTSTP if released.is_none() && may_stop() => {
                    released = Some(screen.release());
                    stop();
                }
                Signal::SIGTSTP => {}
                // Setting up the terminal from the background would stop us halfway.
                Signal::SIGCONT if is_in_the_background() => stop(),
                Signal::SIGCONT => screen.resume(released.take()),
                _ => {
                    let _released = released.take().unwrap_or_else(|| screen.release());
                    process::exit(128 + signal as i32);
                }
            }
        }
    });
}

/// Stops the whole job, as the terminal does on Control-Z without raw mode.
///
/// # Errors
/// If the system call fails.
pub(crate) fn suspend() -> io::Result<()> {
    Ok(killpg(getpgrp(), Signal::SIGTSTP)?)
}

/// The first process group of a session has no shell that could continue it. The kernel ignores
/// SIGTSTP there, too.
fn may_stop() -> bool {
    getsid(None) != Ok(getpgrp())
}

fn is_in_the_background() -> bool {
    tcgetpgrp(io::stdin()).is_ok_and(|group| group != getpgrp())
}

/// Returns when the process is continued.
fn stop() {
    // Cannot fail with a valid signal.
    let _ = raise(Signal::SIGSTOP);
}
