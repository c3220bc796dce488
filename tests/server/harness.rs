//! Runs each test on each server as a named case: `queue::fifo::name [redis 7.0.15]`.
//!
//! Each case runs in a process of its own. That process captures the output of all threads
//! of the test and of the test kit, and prints it with the case only when it fails.

use std::collections::BTreeSet;
use std::env;
use std::process::{Command, ExitCode, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use gpulock_testkit::{Flavour, servers};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// The environment of a process that runs one case: the test and the server program.
const CASE: &str = "GPULOCK_TEST_CASE";
const SERVER: &str = "GPULOCK_TEST_SERVER";

/// Starts the line with the reason why a case, or a part of it, was skipped.
const SKIPPED: &str = "SKIPPED: ";

/// The exit code of a case that was skipped.
const EXIT_SKIPPED: i32 = 77;

static IS_SKIPPED: AtomicBool = AtomicBool::new(false);

/// A test function.
#[derive(Clone, Copy)]
pub(crate) struct Test {
    module: &'static str,
    function: &'static str,
    run: Run,
}

#[derive(Clone, Copy)]
enum Run {
    Once(fn()),
    OnEachServer(fn(&Flavour)),
}

/// Declares the tests of a module, in the order in which they run: `tests! { one, two }`. A
/// function that is not listed is dead code.
macro_rules! tests {
    ($($test:ident),+ $(,)?) => {
        pub(crate) const TESTS: &[$crate::harness::Test] = &[$(
            $crate::harness::Test::on_each_server(module_path!(), stringify!($test), $test),
        )+];
    };
}

/// Declares tests that need no server: `tests_without_server! { one, two }`.
macro_rules! tests_without_server {
    ($($test:ident),+ $(,)?) => {
        pub(crate) const TESTS_WITHOUT_SERVER: &[$crate::harness::Test] = &[$(
            $crate::harness::Test::once(module_path!(), stringify!($test), $test),
        )+];
    };
}

impl Test {
    pub(crate) const fn on_each_server(
        module: &'static str,
        function: &'static str,
        test: fn(&Flavour),
    ) -> Self {
        Self { module, function, run: Run::OnEachServer(test) }
    }

    pub(crate) const fn once(
        module: &'static str,
        function: &'static str,
        test: fn(),
    ) -> Self {
        Self { module, function, run: Run::Once(test) }
    }

    /// The path of the function within this program: `queue::fifo::name`.
    pub(crate) fn name(&self) -> String {
        let module = self.module.split_once("::").map_or("", |(_, path)| path);
        format!("{module}::{}", self.function)
    }
}

/// Runs the cases that the command line selects, or the one case of this process.
pub(crate) fn main(tests: &[Test]) -> ExitCode {
    if let Ok(name) = env::var(CASE) {
        return run_case(tests, &name);
    }
    let mut args = Arguments::from_args();
    // The variable with which the tests of other programs are limited, too.
    args.test_threads = args.test_threads.or_else(threads_of_environment);
    let servers = servers();
    let cases = tests.iter().flat_map(|test| cases(test, &servers, args.nocapture));
    libtest_mimic::run(&args, cases.collect()).exit_code()
}

fn threads_of_environment() -> Option<usize> {
    env::var("RUST_TEST_THREADS").ok()?.parse().ok()
}

/// Marks the running case as ignored: `return skip("reason")`.
pub(crate) fn skip(reason: &str) {
    note_skipped(reason);
    IS_SKIPPED.store(true, Ordering::Relaxed);
}

/// Prints the reason why a part of the running case is skipped.
pub(crate) fn note_skipped(reason: &str) {
    eprintln!("{SKIPPED}{reason}");
}

/// The cases of a test: one for each server.
fn cases(test: &Test, servers: &[Flavour], nocapture: bool) -> Vec<Trial> {
    let case = |server: Option<&Flavour>| {
        let (name, server) = (test.name(), server.cloned());
        let title = match &server {
            Some(server) => format!("{name} [{server}]"),
            None => name.clone(),
        };
        let run = move || run_in_process(&name, server.as_ref(), nocapture);
        Trial::ignorable_test(title, run)
    };
    match test.run {
        Run::Once(_) => vec![case(None)],
        Run::OnEachServer(_) => servers.iter().map(Some).map(case).collect(),
    }
}

/// Runs a case in a new process of this program. On failure returns its output.
fn run_in_process(
    name: &str,
    server: Option<&Flavour>,
    nocapture: bool,
) -> Result<Completion, Failed> {
    let mut command = Command::new(env::current_exe()?);
    command.env(CASE, name).stdin(Stdio::null());
    if let Some(server) = server {
        command.env(SERVER, server.program());
    }
    let Output { status, stdout, stderr } = if nocapture {
        let status = command.status()?;
        Output { status, stdout: Vec::new(), stderr: Vec::new() }
    } else {
        command.output()?
    };
    let output = [stdout, stderr].concat();
    let output = String::from_utf8_lossy(&output);
    let mut skipped = output.lines().filter_map(|line| line.strip_prefix(SKIPPED));
    match status.code() {
        Some(0) => {
            skipped.for_each(print_once);
            Ok(Completion::Completed)
        }
        Some(EXIT_SKIPPED) => {
            Ok(Completion::ignored_with(skipped.next().unwrap_or("see its output")))
        }
        _ => Err(format!("{output}{name} ended with {status}").into()),
    }
}

/// Prints the reason why a part of a test was skipped, once for all cases.
fn print_once(reason: &str) {
    static PRINTED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut printed = PRINTED.lock().expect("no thread panics while it holds this");
    if printed.insert(reason.to_owned()) {
        eprintln!("{SKIPPED}{reason}");
    }
}

/// Runs one case in this process. A panic ends the process with its message.
fn run_case(tests: &[Test], name: &str) -> ExitCode {
    let test = tests.iter().find(|test| test.name() == name).expect("a known test");
    match test.run {
        Run::Once(test) => test(),
        Run::OnEachServer(test) => {
            let program = env::var_os(SERVER).expect("the server program");
            test(&Flavour::new(program));
        }
    }
    if IS_SKIPPED.load(Ordering::Relaxed) {
        return ExitCode::from(EXIT_SKIPPED as u8);
    }
    ExitCode::SUCCESS
}
