//! `--pool`: the GPUs of this host. The tests replace the driver's library with a stub; all else
//! is as on a machine with GPUs.

use std::fs;
use std::path::PathBuf;

use gpulock_testkit::{Server, call, servers, wait_until, workspace};
use nix::sys::signal::Signal;
use nix::sys::utsname::uname;
use tempfile::TempDir;

use crate::runner::{Builder, TIMEOUT, build, gpulock_run};

/// Prints the variables of a command with a GPU.
const PRINT_GPUS: &str =
    "echo $GPULOCK_KEYS $CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER >gpus; sleep 600";

/// Prints the token.
const PRINT_TOKEN: &str = "echo $GPULOCK_TOKENS >gpus; sleep 600";

/// A host with GPUs, which are listed in a file.
struct Host {
    folder: TempDir,
}

impl Host {
    fn with(gpus: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let library = folder.path().join("libnvidia-ml.so.1");
        build("nvml.c", &["-shared", "-fPIC"], &library);
        let host = Self { folder };
        host.set_gpus(gpus);
        host
    }

    /// Replaces the GPUs atomically.
    fn set_gpus(&self, gpus: &str) {
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

fn key(id: &str) -> String {
    format!(
        "{{p:{}}}:gpu:{id}",
        uname().expect("a host name").nodename().to_string_lossy()
    )
}

#[test]
fn each_command_gets_different_gpus() {
    let server = server();
    let host = Host::with("GPU-a 9000\nGPU-b 9000\nGPU-c 9000\n");
    let one = host.run(&server, &[], PRINT_GPUS).start();
    assert_eq!(one.line("gpus"), format!("{} GPU-a PCI_BUS_ID", key("0")));
    let two = host.run(&server, &["-n", "2"], PRINT_GPUS).start();
    let both = format!("{},{} GPU-b,GPU-c PCI_BUS_ID", key("1"), key("2"));
    assert_eq!(two.line("gpus"), both);
    let (status, _) = host.run(&server, &["--no-wait"], PRINT_GPUS).status();
    assert_eq!(status, 75);
}

#[test]
fn the_documented_worker_user_can_use_a_pool() {
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
fn the_instances_of_a_mig_gpu_are_separate_locks() {
    let server = server();
    let host = Host::with("GPU-a 9000\n MIG-x 4000\n MIG-y 4000\nGPU-b 9000\n");
    let mut running = Vec::new();
    for (id, device) in [("0:mig:0", "MIG-x"), ("0:mig:1", "MIG-y"), ("1", "GPU-b")] {
        let run = host.run(&server, &[], PRINT_GPUS).start();
        assert_eq!(run.line("gpus"), format!("{} {device} PCI_BUS_ID", key(id)));
        running.push(run);
    }
}

#[test]
fn a_gpu_without_uuid_is_named_by_its_index() {
    let server = server();
    let host = Host::with("GPU-a 9000\n- 9000\n");
    call!(server.client(), "GPULOCK.ACQUIRE", key("0"), "other", "EX", 600);
    let run = host.run(&server, &[], PRINT_GPUS).start();
    assert_eq!(run.line("gpus"), format!("{} 1 PCI_BUS_ID", key("1")));
}

#[test]
fn a_gpu_with_too_little_memory_is_skipped_and_retried() {
    let server = server();
    let host = Host::with("GPU-a 999\nGPU-b 1000\n");
    let full = ["--min-free-mib", "1000"];
    let first = host.run(&server, &full, PRINT_GPUS).start();
    assert_eq!(first.line("gpus"), format!("{} GPU-b PCI_BUS_ID", key("1")));
    assert!(first.err().contains("999 MiB free, 1000 MiB required"), "{}", first.err());
    let none = ["--min-free-mib", "1000", "--no-wait"];
    let (status, _) = host.run(&server, &none, PRINT_GPUS).status();
    assert_eq!(status, 75);
    let second = host.run(&server, &full, PRINT_GPUS).start();
    server.wait_blocked(1);
    host.set_gpus("GPU-a 1000\nGPU-b 1000\n");
    assert_eq!(second.line("gpus"), format!("{} GPU-a PCI_BUS_ID", key("0")));
}

#[test]
fn a_run_waits_while_all_gpus_have_too_little_memory() {
    let server = server();
    let host = Host::with("GPU-a 10\n");
    let args = ["--min-free-mib", "1000", "--wait", "1s"];
    let (status, run) = host.run(&server, &args, PRINT_GPUS).status();
    assert_eq!(status, 75);
    assert!(!run.path("gpus").exists());
    let run = host.run(&server, &["--min-free-mib", "1000"], PRINT_GPUS).start();
    run.line("err");
    host.set_gpus("GPU-a 1000\n");
    assert_eq!(run.line("gpus"), format!("{} GPU-a PCI_BUS_ID", key("0")));
}

/// The check of the GPU hangs for longer than the lease.
#[test]
fn a_grant_that_expired_during_the_gpu_check_is_not_used() {
    let server = server();
    let host = Host::with("GPU-a 9000\n");
    let hangs = host.folder.path().join("hangs");
    fs::write(&hangs, "").expect("a file");
    let args = ["--min-free-mib", "1", "--lease", "4s"];
    let run = host.run(&server, &args, PRINT_TOKEN).with(|command| {
        command.env("STUB_GPU_HANGS", &hangs);
    });
    let run = run.start();
    let mut other = server.client();
    wait_until(TIMEOUT, "the first grant", || !call!(other, "EXISTS", key("0")).eq(&0));
    let next =
        call!(other, "GPULOCK.ACQUIRE", key("0"), "next", "EX", 600, "BLOCK", 60000);
    fs::remove_file(&hangs).expect("a file");
    server.wait_blocked(1);
    assert!(!run.path("gpus").exists());
    call!(other, "GPULOCK.RELEASE", key("0"), "next");
    assert!(run.line("gpus").parse::<i64>().expect("a token") > next.int());
}

/// The file that makes the driver hang is never removed.
#[test]
fn a_signal_ends_a_run_while_the_driver_hangs() {
    let server = server();
    let host = Host::with("GPU-a 9000\n");
    let run = host.run(&server, &[], PRINT_GPUS).with(|command| {
        command.env("STUB_DRIVER_HANGS", host.gpus());
    });
    let mut run = run.start();
    let maps = format!("/proc/{}/maps", run.pid());
    wait_until(TIMEOUT, "the driver to be loaded", || {
        fs::read_to_string(&maps).is_ok_and(|maps| maps.contains("libnvidia-ml"))
    });
    run.signal(Signal::SIGINT);
    assert_eq!(run.status(), 130);
    assert!(!run.path("gpus").exists());
}

#[test]
fn without_a_driver_or_gpus_the_error_suggests_a_fix() {
    let server = server();
    let pool = ["--pool", "p", "--", "true"];
    let (status, run) = gpulock_run(&server, &pool).status();
    assert_eq!(status, 1);
    assert!(run.err().contains("--keys"), "{}", run.err());
    let (status, run) = Host::with("").run(&server, &[], "true").status();
    assert_eq!(status, 1);
    assert!(run.err().contains("no working GPU"), "{}", run.err());
}
