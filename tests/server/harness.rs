//! Runs each test on each server as a named case: `queue::fifo::name [redis 7.0.15]`.
//!
//! Each case runs in a process of its own. That process captures the output of all threads
//! of the test and of the test kit, and prints it with the case only when it fails.

use std::collections::BTreeSet;
use std::env;
use std::process::{Command, ExitCode, Output, Stdio};
use std::sync::Mutex;

use gpulock_testkit::{Flavour, servers};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// Names the one case that this process runs.
const CASE: &str = "GPULOCK_TEST_CASE";

/// Starts a line that is printed even when the case passes.
const SKIPPED: &str = "SKIPPED: ";

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
    OnEachServer { test: fn(&Flavour), needs: Option<Need> },
}

/// What a server must support for a test; on other servers the test is ignored.
#[derive(Clone, Copy)]
pub(crate) struct Need {
    pub(crate) name: &'static str,
    pub(crate) is_met: fn(&Flavour) -> bool,
}

/// Declares the tests of a module, in the order in which they run: `tests! { one, two }`.
/// `one if NEED` runs only on servers that meet the [`Need`]. A function that is not listed
/// is dead code.
macro_rules! tests {
    (@need) => { None };
    (@need $need:path) => { Some($need) };
    ($($test:ident $(if $need:path)?),+ $(,)?) => {
        pub(crate) const TESTS: &[$crate::harness::Test] = &[$(
            $crate::harness::Test::on_each_server(
                module_path!(),
                stringify!($test),
                $test,
                tests!(@need $($need)?),
            ),
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
        needs: Option<Need>,
    ) -> Self {
        Self { module, function, run: Run::OnEachServer { test, needs } }
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
        run_case(tests, &name);
        return ExitCode::SUCCESS;
    }
    let args = Arguments::from_args();
    let servers = servers();
    let cases = tests.iter().flat_map(|test| cases(test, &servers, args.nocapture));
    libtest_mimic::run(&args, cases.collect()).exit_code()
}

/// The cases of a test: one for each server.
fn cases(test: &Test, servers: &[Flavour], nocapture: bool) -> Vec<Trial> {
    let name = test.name();
    match test.run {
        Run::Once(_) => {
            let case = name.clone();
            vec![Trial::test(case, move || run_in_process(&name, None, nocapture))]
        }
        Run::OnEachServer { needs, .. } => servers
            .iter()
            .map(|server| {
                let (name, server) = (name.clone(), server.clone());
                let case = format!("{name} [{server}]");
                match needs.filter(|need| !(need.is_met)(&server)) {
                    Some(need) => Trial::ignorable_test(case, move || {
                        let reason = format!("{server} has no {}", need.name);
                        Ok(Completion::ignored_with(reason))
                    }),
                    None => Trial::test(case, move || {
                        run_in_process(&name, Some(&server), nocapture)
                    }),
                }
            })
            .collect(),
    }
}

/// Runs a case in a new process of this program. On failure returns what it printed.
fn run_in_process(
    name: &str,
    server: Option<&Flavour>,
    nocapture: bool,
) -> Result<(), Failed> {
    let mut command = Command::new(env::current_exe()?);
    command.env(CASE, name).stdin(Stdio::null());
    if let Some(server) = server {
        command.env("SERVERS", server.program());
    }
    let Output { status, stdout, stderr } = if nocapture {
        let status = command.status()?;
        Output { status, stdout: Vec::new(), stderr: Vec::new() }
    } else {
        command.output()?
    };
    let output = [stdout, stderr].concat();
    let output = String::from_utf8_lossy(&output);
    if !status.success() {
        return Err(format!("{output}{name} ended with {status}").into());
    }
    print_skipped(&output);
    Ok(())
}

/// Prints the reasons for skipped checks, each once.
fn print_skipped(output: &str) {
    static PRINTED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut printed = PRINTED.lock().expect("no thread panics while it holds this");
    for line in output.lines().filter(|line| line.starts_with(SKIPPED)) {
        if printed.insert(line.to_owned()) {
            eprintln!("{line}");
        }
    }
}

/// Runs one case in this process. A panic ends the process with its message.
fn run_case(tests: &[Test], name: &str) {
    let test = tests.iter().find(|test| test.name() == name).expect("a known test");
    match test.run {
        Run::Once(test) => test(),
        Run::OnEachServer { test, .. } => {
            for server in servers() {
                test(&server);
            }
        }
    }
}
