//! Processes that use a GPU although they do not hold its lock: of another user, or of a job
//! that was started without a lock.

use std::process::{Child, Command};
use std::thread::sleep;
use std::time::Duration;

use gpulock_testkit::{Server, servers, wait_until};

use crate::gpu_host::Host;
use crate::runner::{Builder, Runner, TIMEOUT};

/// A process that is ended when the test ends.
struct Process(Child);

impl Process {
    fn start(set: &[(&str, &str)]) -> Self {
        let mut command = Command::new("sleep");
        command.arg("600").envs(set.iter().copied());
        Self(command.spawn().expect("sleep starts"))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn server() -> Server {
    servers()[0].server().start()
}

fn run(server: &Server, host: &Host) -> Builder {
    host.run(server, &[], "echo $$ >pid; echo $GPULOCK_KEYS >gpus; exec sleep 600")
}

fn count_reports(run: &Runner) -> usize {
    run.err().matches("hold its lock").count()
}

fn wait_for(run: &Runner, report: &str) {
    wait_until(TIMEOUT, format!("{report:?} in {}", run.err()), || {
        run.err().contains(report)
    });
}

/// The second GPU is never held.
#[test]
fn a_process_without_the_lock_is_reported_once() {
    let server = server();
    let (one, two) = (Process::start(&[]), Process::start(&[]));
    let (a, b) = (one.pid(), two.pid());
    let host = Host::with(&format!("GPU-a 9000 9000\nGPU-b 9000 9000 {a}\n"));
    let run = run(&server, &host).start();
    run.line("gpus");
    host.set_gpus(&format!("GPU-a 9000 9000 {b}\nGPU-b 9000 9000 {a}\n"));
    let report =
        format!("GPU-a is used by process {b} (sleep), which does not hold its lock\n");
    wait_for(&run, &report);
    host.set_gpus(&format!("GPU-a 9000 9000 {a} {b}\n"));
    // Longer than the pause between two checks.
    sleep(Duration::from_secs(6));
    assert_eq!(count_reports(&run), 1, "{}", run.err());
}

/// The report about the second GPU shows that the processes on the first were checked.
#[test]
fn processes_of_the_run_and_of_holders_are_not_reported() {
    let server = server();
    let foreign = Process::start(&[]);
    let host = Host::with("GPU-a 9000 9000\nGPU-b 9000 9000\n");
    let both = host.run(
        &server,
        &["-n", "2"],
        "setsid env -u GPULOCK_OWNER -u GPULOCK_KEYS sleep 600 & echo $! >child; \
         echo $GPULOCK_KEYS >gpus; echo $$ >pid; exec sleep 600",
    );
    let run = both.start();
    let (child, command) = (run.number("child"), run.number("pid"));
    let keys = run.line("gpus");
    let holder = Process::start(&[("GPULOCK_KEYS", &keys)]);
    let (holder, foreign, gone) = (holder.pid(), foreign.pid(), u32::MAX >> 1);
    host.set_gpus(&format!(
        "GPU-a 9000 9000 {command} {child} {holder} {gone}\nGPU-b 9000 9000 {foreign}\n"
    ));
    wait_for(&run, &format!("GPU-b is used by process {foreign} "));
    assert_eq!(count_reports(&run), 1, "{}", run.err());
}

#[test]
fn the_processes_of_a_mig_instance_are_its_own() {
    let server = server();
    let (one, two) = (Process::start(&[]), Process::start(&[]));
    let (x, y) = (one.pid(), two.pid());
    let host = Host::with(&format!(
        "GPU-a 9000\n MIG-x 4000 4000 {x} {y}\n MIG-y 4000 4000 {y}\n"
    ));
    let run = run(&server, &host).start();
    let report =
        format!("MIG-x is used by processes {x} (sleep), {y} (sleep), which do not");
    wait_for(&run, &report);
}

/// The driver's numbers mean other processes there.
#[test]
fn nothing_is_reported_in_a_container() {
    let server = server();
    let foreign = Process::start(&[]);
    let host = Host::with(&format!("GPU-a 9000 9000 {}\n", foreign.pid()));
    host.set_process_namespace("pid:[4026532835]");
    // Longer than the time before the first check.
    let (status, run) = host.run(&server, &[], "sleep 4").status();
    assert_eq!((status, count_reports(&run)), (0, 0), "{}", run.err());
}
