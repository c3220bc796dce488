//! `--pool`: the GPUs of this host, found through the driver's own library. That library is
//! one that the test builds; all else is as on a machine with GPUs.

use std::fs;
use std::path::PathBuf;

use gpulock_testkit::{Server, call, servers, wait_until, workspace};
use rustix::process::Signal;
use rustix::system::uname;
use tempfile::TempDir;

use crate::runner::{Builder, PATIENCE, build, gpulock_run};

/// Writes down what a command with a GPU is told.
const TELLS: &str =
    "echo $GPULOCK_KEYS $CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER >told; sleep 600";

/// Writes down its token.
const TELLS_TOKEN: &str = "echo $GPULOCK_TOKENS >told; sleep 600";

/// A host with GPUs, which a file describes.
struct Host {
    folder: TempDir,
}

impl Host {
    fn with(gpus: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let library = folder.path().join("libnvidia-ml.so.1");
        build("nvml.c", &["-shared", "-fPIC"], &library);
        let host = Self { folder };
        host.now_has(gpus);
        host
    }

    /// Changes what is there, all at once.
    fn now_has(&self, gpus: &str) {
        let new = self.folder.path().join("new");
        fs::write(&new, gpus).expect("a file");
        fs::rename(new, self.gpus()).expect("a file");
    }

    fn gpus(&self) -> PathBuf {
        self.folder.path().join("gpus")
    }

    fn run(&self, server: &Server, args: &[&str], script: &str) -> Builder {
        let args = [&["--pool", "p"], args, &["--", "sh", "-c", script]].concat();
        gpulock_run(server, &args).with(|command| {
            command.env("LD_LIBRARY_PATH", self.folder.path());
            command.env("STUB_GPUS", self.gpus());
        })
    }
}

fn server() -> Server {
    servers()[0].server().start()
}

fn key(place: &str) -> String {
    format!("{{p:{}}}:gpu:{place}", uname().nodename().to_string_lossy())
}

#[test]
fn each_command_gets_gpus_of_its_own() {
    let server = server();
    let host = Host::with("GPU-a 9000\nGPU-b 9000\nGPU-c 9000\n");
    let one = host.run(&server, &[], TELLS).start();
    assert_eq!(one.line("told"), format!("{} GPU-a PCI_BUS_ID", key("0")));
    let two = host.run(&server, &["-n", "2"], TELLS).start();
    let both = format!("{},{} GPU-b,GPU-c PCI_BUS_ID", key("1"), key("2"));
    assert_eq!(two.line("told"), both);
    let (status, _) = host.run(&server, &["--no-wait"], TELLS).status();
    assert_eq!(status, 75);
}

#[test]
fn the_worker_of_the_docs_may_use_a_pool() {
    let server = server();
    let docs = fs::read_to_string(workspace().join("docs/operations.md"));
    let docs = docs.expect("the docs");
    let recipe = docs.lines().find(|line| line.starts_with("ACL SETUSER worker "));
    assert_eq!(server.client().line(recipe.expect("a recipe")), "OK");
    let url = format!("redis://worker:worker-secret@127.0.0.1:{}", server.port());
    let host = Host::with("GPU-a 9000\n");
    let (status, run) = host
        .run(&server, &["--lease", "6s"], "sleep 7")
        .with(|command| {
            command.env("GPULOCK_URL", url);
        })
        .status();
    assert_eq!(status, 0, "{}", run.err());
    assert_eq!(server.info_int("gpulock", "gpulock_releases"), 1);
}

#[test]
fn a_divided_gpu_is_given_away_in_parts() {
    let server = server();
    let host = Host::with("GPU-a 9000\n MIG-x 4000\n MIG-y 4000\nGPU-b 9000\n");
    let mut running = Vec::new();
    for (place, device) in [("0:mig:0", "MIG-x"), ("0:mig:1", "MIG-y"), ("1", "GPU-b")] {
        let run = host.run(&server, &[], TELLS).start();
        assert_eq!(run.line("told"), format!("{} {device} PCI_BUS_ID", key(place)));
        running.push(run);
    }
}

#[test]
fn a_gpu_without_a_uuid_goes_by_its_number() {
    let server = server();
    let host = Host::with("GPU-a 9000\n- 9000\n");
    call!(server.client(), "GPULOCK.ACQUIRE", key("0"), "other", "EX", 600);
    let run = host.run(&server, &[], TELLS).start();
    assert_eq!(run.line("told"), format!("{} 1 PCI_BUS_ID", key("1")));
}

#[test]
fn a_gpu_that_is_too_full_is_passed_over_and_come_back_to() {
    let server = server();
    let host = Host::with("GPU-a 999\nGPU-b 1000\n");
    let full = ["--min-free-mib", "1000"];
    let first = host.run(&server, &full, TELLS).start();
    assert_eq!(first.line("told"), format!("{} GPU-b PCI_BUS_ID", key("1")));
    assert!(first.err().contains("only 999 MiB are free"), "{}", first.err());
    let none = ["--min-free-mib", "1000", "--no-wait"];
    let (status, _) = host.run(&server, &none, TELLS).status();
    assert_eq!(status, 75);
    let second = host.run(&server, &full, TELLS).start();
    server.wait_blocked(1);
    host.now_has("GPU-a 1000\nGPU-b 1000\n");
    assert_eq!(second.line("told"), format!("{} GPU-a PCI_BUS_ID", key("0")));
}

#[test]
fn it_waits_while_all_gpus_are_too_full() {
    let server = server();
    let host = Host::with("GPU-a 10\n");
    let args = ["--min-free-mib", "1000", "--wait", "1s"];
    let (status, run) = host.run(&server, &args, TELLS).status();
    assert_eq!(status, 75);
    assert!(!run.path("told").exists());
    let run = host.run(&server, &["--min-free-mib", "1000"], TELLS).start();
    run.line("err");
    host.now_has("GPU-a 1000\n");
    assert_eq!(run.line("told"), format!("{} GPU-a PCI_BUS_ID", key("0")));
}

/// A GPU that hangs keeps its lock from being of use to anybody.
#[test]
fn a_grant_that_ran_out_while_its_gpu_was_looked_at_is_none() {
    let server = server();
    let host = Host::with("GPU-a 9000\n");
    let hangs = host.folder.path().join("hangs");
    fs::write(&hangs, "").expect("a file");
    let args = ["--min-free-mib", "1", "--lease", "4s"];
    let run = host.run(&server, &args, TELLS_TOKEN).with(|command| {
        command.env("STUB_GPU_HANGS", &hangs);
    });
    let run = run.start();
    let mut other = server.client();
    wait_until(PATIENCE, "the first grant", || !call!(other, "EXISTS", key("0")).eq(&0));
    let next =
        call!(other, "GPULOCK.ACQUIRE", key("0"), "next", "EX", 600, "BLOCK", 60000);
    fs::remove_file(&hangs).expect("a file");
    server.wait_blocked(1);
    assert!(!run.path("told").exists());
    call!(other, "GPULOCK.RELEASE", key("0"), "next");
    assert!(run.line("told").parse::<i64>().expect("a token") > next.int());
}

/// The file is never taken away.
#[test]
fn a_driver_that_hangs_keeps_no_signal_from_ending_it() {
    let server = server();
    let host = Host::with("GPU-a 9000\n");
    let run = host.run(&server, &[], TELLS).with(|command| {
        command.env("STUB_DRIVER_HANGS", host.gpus());
    });
    let mut run = run.start();
    let maps = format!("/proc/{}/maps", run.pid());
    wait_until(PATIENCE, "the driver to be asked", || {
        fs::read_to_string(&maps).is_ok_and(|maps| maps.contains("libnvidia-ml"))
    });
    run.signal(Signal::INT);
    assert_eq!(run.status(), 130);
    assert!(!run.path("told").exists());
}

#[test]
fn without_a_driver_or_gpus_it_says_what_to_do() {
    let server = server();
    let pool = ["--pool", "p", "--", "true"];
    let (status, run) = gpulock_run(&server, &pool).status();
    assert_eq!(status, 1);
    assert!(run.err().contains("--keys"), "{}", run.err());
    let (status, run) = Host::with("").run(&server, &[], "true").status();
    assert_eq!(status, 1);
    assert!(run.err().contains("no GPU"), "{}", run.err());
}
