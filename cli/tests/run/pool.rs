//! `--pool`: the GPUs of this host.

use std::fs;

use gpulock_testkit::{AclUser, Server, call, servers, wait_until};
use nix::sys::signal::Signal;

use crate::gpu_host::{Host, key};
use crate::runner::{Runner, TIMEOUT, gpulock_run};

/// Prints the variables of a command with a GPU.
const PRINT_GPUS: &str =
    "echo $GPULOCK_KEYS $CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER >gpus; sleep 600";

/// Prints the token.
const PRINT_TOKEN: &str = "echo $GPULOCK_TOKENS >gpus; sleep 600";

fn server() -> Server {
    servers()[0].server().start()
}

#[test]
fn each_command_gets_different_gpus() {
    let server = server();
    let host = Host::with("GPU-a 9000\nGPU-b 9000\nGPU-c 9000\n");
    let one = host.run(&server, &[], PRINT_GPUS).start();
    assert_eq!(one.line("gpus"), format!("{} GPU-a PCI_BUS_ID", key("GPU-a")));
    let two = host.run(&server, &["-n", "2"], PRINT_GPUS).start();
    let both = format!("{},{} GPU-b,GPU-c PCI_BUS_ID", key("GPU-b"), key("GPU-c"));
    assert_eq!(two.line("gpus"), both);
    let (status, _) = host.run(&server, &["--no-wait"], PRINT_GPUS).status();
    assert_eq!(status, 75);
}

#[test]
fn the_documented_worker_user_can_use_a_pool() {
    let server = server();
    let worker = AclUser::documented("worker");
    worker.create(&mut server.client());
    let host = Host::with("GPU-a 9000\n");
    let (status, run) = host
        .run(&server, &["--lease", "6s"], "sleep 7")
        .with(|command| {
            command.env("GPULOCK_URL", worker.url(server.port()));
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
    for device in ["MIG-x", "MIG-y", "GPU-b"] {
        let run = host.run(&server, &[], PRINT_GPUS).start();
        assert_eq!(run.line("gpus"), format!("{} {device} PCI_BUS_ID", key(device)));
        running.push(run);
    }
}

#[test]
fn a_gpu_without_uuid_is_named_by_its_index() {
    let server = server();
    let host = Host::with("GPU-a 9000\n- 9000\n");
    call!(server.client(), "GPULOCK.ACQUIRE", key("GPU-a"), "other", "EX", 600);
    let run = host.run(&server, &[], PRINT_GPUS).start();
    assert_eq!(run.line("gpus"), format!("{} 1 PCI_BUS_ID", key("gpu:1")));
}

#[test]
fn a_gpu_with_too_little_memory_is_skipped_and_retried() {
    let server = server();
    let host = Host::with("GPU-a 999\nGPU-b 1000\n");
    let full = ["--min-free-mib", "1000"];
    let first = host.run(&server, &full, PRINT_GPUS).start();
    assert_eq!(first.line("gpus"), format!("{} GPU-b PCI_BUS_ID", key("GPU-b")));
    assert!(first.err().contains("999 MiB free, 1000 MiB required"), "{}", first.err());
    let none = ["--min-free-mib", "1000", "--no-wait"];
    let (status, _) = host.run(&server, &none, PRINT_GPUS).status();
    assert_eq!(status, 75);
    let second = host.run(&server, &full, PRINT_GPUS).start();
    server.wait_blocked(1);
    host.set_gpus("GPU-a 1000\nGPU-b 1000\n");
    assert_eq!(second.line("gpus"), format!("{} GPU-a PCI_BUS_ID", key("GPU-a")));
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
    assert_eq!(run.line("gpus"), format!("{} GPU-a PCI_BUS_ID", key("GPU-a")));
}

/// The last GPU's number changes while it is in use.
#[test]
fn a_lock_follows_its_gpu_when_another_one_disappears() {
    let server = server();
    for (before, after, last) in [
        ("GPU-a 9\nGPU-b 9\nGPU-c 9\n", "GPU-a 9\nGPU-c 9\n", "GPU-c"),
        ("GPU-d 9\n MIG-x 4\n MIG-y 4\n", "GPU-d 9\n MIG-y 4\n", "MIG-y"),
    ] {
        let host = Host::with(before);
        let run = host.run(&server, &["--only", last], PRINT_GPUS).start();
        assert_eq!(run.line("gpus"), format!("{} {last} PCI_BUS_ID", key(last)));
        host.set_gpus(after);
        let args = ["--only", last, "--no-wait"];
        let (status, _) = host.run(&server, &args, PRINT_GPUS).status();
        assert_eq!(status, 75, "{last} was given to two commands");
    }
}

#[test]
fn a_gpu_that_is_gone_when_its_lock_is_granted_is_skipped() {
    let server = server();
    for (before, after) in [
        ("GPU-a 9\nGPU-b 9\n", "GPU-b 9\n"),
        ("GPU-c 9\n MIG-a 4\nGPU-b 9\n", "GPU-c 9\n MIG-d 4\nGPU-b 9\n"),
    ] {
        let first = if before.contains("MIG-a") { "MIG-a" } else { "GPU-a" };
        let host = Host::with(before);
        let mut other = server.client();
        for gpu in [first, "GPU-b"] {
            call!(other, "GPULOCK.ACQUIRE", key(gpu), "other", "EX", 600);
        }
        let run = host.run(&server, &[], PRINT_GPUS).start();
        server.wait_blocked(1);
        host.set_gpus(after);
        call!(other, "GPULOCK.RELEASE", key(first), "other");
        wait_until(TIMEOUT, "the GPU to be skipped", || {
            run.err().contains(&format!("skipping {}: ", key(first)))
        });
        assert_eq!(call!(other, "EXISTS", key(first)).int(), 0);
        call!(other, "GPULOCK.RELEASE", key("GPU-b"), "other");
        assert_eq!(run.line("gpus"), format!("{} GPU-b PCI_BUS_ID", key("GPU-b")));
    }
}

/// The index that the GPU had before the wait is that of another GPU now.
#[test]
fn the_memory_of_a_gpu_is_checked_under_its_uuid() {
    let server = server();
    for (gpu, before, after) in [
        ("GPU-b", "GPU-a 9\nGPU-b 9\nGPU-c 9\n", "GPU-b 3\nGPU-c 9\n"),
        ("MIG-x", "GPU-a 9\n MIG-x 9\n", "GPU-a 9\n MIG-y 9\n MIG-x 3\n"),
    ] {
        let host = Host::with(before);
        call!(server.client(), "GPULOCK.ACQUIRE", key(gpu), "other", "EX", 600);
        let args = ["--only", gpu, "--min-free-mib", "5"];
        let run = host.run(&server, &args, PRINT_GPUS).start();
        server.wait_blocked(1);
        host.set_gpus(after);
        call!(server.client(), "GPULOCK.RELEASE", key(gpu), "other");
        let why = format!("skipping {}: 3 MiB free, 5 MiB required", key(gpu));
        wait_until(TIMEOUT, "the GPU to be skipped", || run.err().contains(&why));
        assert!(!run.path("gpus").exists());
    }
}

#[test]
fn gpus_after_one_that_has_failed_cannot_be_visible_by_index() {
    let server = server();
    let host = Host::with("GPU-a 9000\n! 9000\nGPU-b 9000\n");
    let by_index = ["--visible-as", "index"];
    let (status, run) = host.run(&server, &by_index, PRINT_GPUS).status();
    assert_eq!(status, 2);
    assert!(run.err().contains("GPU 1 does not respond"), "{}", run.err());
    let first = [&by_index[..], &["--only", "GPU-a"]].concat();
    let run = host.run(&server, &first, PRINT_GPUS).start();
    assert_eq!(run.line("gpus"), format!("{} 0 PCI_BUS_ID", key("GPU-a")));
    let run = host.run(&server, &["--only", "GPU-b"], PRINT_GPUS).start();
    assert_eq!(run.line("gpus"), format!("{} GPU-b PCI_BUS_ID", key("GPU-b")));
}

#[test]
fn gpus_are_visible_by_index_on_request() {
    let server = server();
    let host = Host::with("GPU-a 9000\nGPU-b 9000\n");
    let args = ["--exclude", "GPU-a", "--visible-as", "index"];
    let run = host.run(&server, &args, PRINT_GPUS).start();
    assert_eq!(run.line("gpus"), format!("{} 1 PCI_BUS_ID", key("GPU-b")));
}

#[test]
fn a_mig_instance_cannot_be_visible_by_index() {
    let server = server();
    let host = Host::with("GPU-a 9000\n MIG-x 4000\nGPU-b 9000\n");
    for option in [&["--visible-as", "index"][..], &["--set", "A={index}"]] {
        let (status, run) = host.run(&server, option, PRINT_GPUS).status();
        assert_eq!(status, 2);
        assert!(run.err().contains("MIG-x is a MIG instance"), "{}", run.err());
        let others = [option, &["--only", "1"]].concat();
        let run = host.run(&server, &others, PRINT_GPUS).start();
        assert!(run.line("gpus").starts_with(&key("GPU-b")), "{}", run.err());
    }
}

#[test]
fn a_pool_name_that_would_break_its_keys_is_refused() {
    let server = server();
    for name in ["{a", "a}", "a,b", "", "a/1", "a/65"] {
        let (status, run) =
            gpulock_run(&server, &["--pool", name, "--", "true"]).status();
        assert_eq!(status, 2, "{name}: {}", run.err());
        assert!(run.err().contains("--pool"), "{}", run.err());
    }
}

/// The first look finds enough memory; the second wait is reported like any wait.
#[test]
fn the_wait_after_the_second_look_is_reported() {
    let server = server();
    let host = Host::with("GPU-a 1000\n");
    let next = host.path("next");
    fs::write(&next, "GPU-a 300\n").expect("a file");
    call!(server.client(), "GPULOCK.ACQUIRE", key("GPU-a"), "other", "EX", 600);
    let run =
        host.run(&server, &["--min-free-mib", "1000"], PRINT_GPUS).with(|command| {
            command.env("STUB_NEXT_GPUS", &next);
        });
    let run = run.start();
    let lines = |text| move |run: &Runner| run.err().matches(text).count();
    let waits = lines("waiting ");
    wait_until(TIMEOUT, "the first wait", || waits(&run) == 1);
    call!(server.client(), "GPULOCK.RELEASE", key("GPU-a"), "other");
    wait_until(TIMEOUT, "the second wait", || waits(&run) == 2);
    host.set_gpus("GPU-a 1000\n");
    run.line("gpus");
    assert_eq!(lines("acquired ")(&run), 2, "{}", run.err());
    assert!(!run.err().contains("after 0ms"), "{}", run.err());
}

/// The first look finds enough memory; then a process without the lock takes it.
#[test]
fn the_memory_is_checked_again_right_before_the_start() {
    let server = server();
    let host = Host::with("GPU-a 1000\nGPU-b 1000\n");
    let next = host.path("next");
    fs::write(&next, "GPU-a 300\nGPU-b 10\n").expect("a file");
    let run = |args: &[&str]| {
        let args = [&["--min-free-mib", "1000"], args].concat();
        host.run(&server, &args, PRINT_GPUS).with(|command| {
            command.env("STUB_NEXT_GPUS", &next);
        })
    };
    let mut waits = run(&[]).start();
    wait_until(TIMEOUT, "both GPUs to be skipped", || {
        let skipped = "skipping ";
        waits.err().matches(skipped).count() == 2
    });
    assert!(waits.err().contains("300 MiB free, 1000 MiB required"), "{}", waits.err());
    assert!(!waits.path("gpus").exists() && !waits.has_ended());
    for gpu in ["GPU-a", "GPU-b"] {
        assert_eq!(call!(server.client(), "EXISTS", key(gpu)).int(), 0);
    }
    host.set_gpus("GPU-a 1000\nGPU-b 10\n");
    assert_eq!(waits.line("gpus"), format!("{} GPU-a PCI_BUS_ID", key("GPU-a")));
    host.set_gpus("GPU-a 1000\nGPU-b 1000\n");
    fs::write(&next, "GPU-a 1000\nGPU-b 10\n").expect("a file");
    let (status, run) = run(&["--no-wait"]).status();
    assert_eq!(status, 75, "{}", run.err());
    assert!(!run.path("gpus").exists());
}

/// The check of the GPU hangs for longer than the lease.
#[test]
fn a_grant_that_expired_during_the_gpu_check_is_not_used() {
    let server = server();
    let host = Host::with("GPU-a 9000\n");
    let hangs = host.path("hangs");
    fs::write(&hangs, "").expect("a file");
    let args = ["--min-free-mib", "1", "--lease", "4s"];
    let run = host.run(&server, &args, PRINT_TOKEN).with(|command| {
        command.env("STUB_GPU_HANGS", &hangs);
    });
    let run = run.start();
    let mut other = server.client();
    wait_until(TIMEOUT, "the first grant", || {
        !call!(other, "EXISTS", key("GPU-a")).eq(&0)
    });
    let next =
        call!(other, "GPULOCK.ACQUIRE", key("GPU-a"), "next", "EX", 600, "BLOCK", 60000);
    fs::remove_file(&hangs).expect("a file");
    server.wait_blocked(1);
    assert!(!run.path("gpus").exists());
    call!(other, "GPULOCK.RELEASE", key("GPU-a"), "next");
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
    run.signal(Signal::SIGTERM);
    assert_eq!(run.status(), 143);
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
