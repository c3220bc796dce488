//! Reports what a test could not do on this machine.

use std::io::{Write, stderr};

/// Prints why a test, or a part of it, is skipped: at the start of a line, also between the dots of a
/// quiet test run. The test harness hides the output of `eprintln!` if the test passes.
///
/// # Panics
/// If standard error cannot be written to.
pub fn print_skipped(reason: &str) {
    let line = format!("\nSKIPPED: {reason}\n");
    stderr().write_all(line.as_bytes()).expect("standard error");
}
