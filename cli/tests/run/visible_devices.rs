//! The GPUs that were allotted to a run from outside. It chooses among these only.

use gpulock_testkit::{Server, servers};

use crate::gpu_host::Host;
use crate::runner::Runner;

/// Prints the GPUs of a command.
const PRINT_GPUS: &str = "echo $CUDA_VISIBLE_DEVICES";

const FOUR: &str = "GPU-a1 9000\nGPU-a2 9000\nGPU-c 9000\n- 9000\n";

/// A run of `PRINT_GPUS` with as many GPUs as possible, with these variables.
fn run(server: &Server, host: &Host, count: &str, set: &[(&str, &str)]) -> (i32, Runner) {
    let args = ["-n", count, "--no-wait"];
    let run = host.run(server, &args, PRINT_GPUS).with(|command| {
        command.envs(set.iter().copied());
    });
    run.status()
}

#[test]
fn only_allotted_gpus_are_used() {
    let server = servers()[0].server().start();
    let host = Host::with(FOUR);
    let cuda = |value| vec![("CUDA_VISIBLE_DEVICES", value)];
    let container = |value| vec![("NVIDIA_VISIBLE_DEVICES", value)];
    for (set, expected) in [
        (cuda("2,3"), "GPU-c,3"),
        (cuda("GPU-c"), "GPU-c"),
        (cuda("GPU-c,GPU-a1"), "GPU-a1,GPU-c"),
        (cuda("GPU-a1,GPU-a,GPU-c"), "GPU-a1"),
        (container("GPU-a2,GPU-c"), "GPU-a2,GPU-c"),
        (container("3,1"), "GPU-a2,3"),
        (container("2,2,2,2"), "GPU-c"),
        ([cuda("1,2"), container("GPU-c")].concat(), "GPU-c"),
    ] {
        let count = expected.split(',').count();
        let (status, all) = run(&server, &host, &count.to_string(), &set);
        assert_eq!((status, all.out().trim_end()), (0, expected), "{set:?}");
        let (status, more) = run(&server, &host, &(count + 1).to_string(), &set);
        assert_eq!(status, 2, "{set:?}: {}", more.out());
    }
}

#[test]
fn the_instances_of_an_allotted_gpu_are_allotted() {
    let server = servers()[0].server().start();
    let host = Host::with("GPU-a 9000\n MIG-x 4000\n MIG-y 4000\nGPU-b 9000\n");
    for (value, expected) in [("MIG-y", "MIG-y"), ("0", "MIG-x"), ("GPU-a", "MIG-x")] {
        let set = [("CUDA_VISIBLE_DEVICES", value)];
        let (_, one) = run(&server, &host, "1", &set);
        assert_eq!(one.out().trim_end(), expected, "{value}");
    }
}

/// The driver shows only the container's GPUs, and numbers them from 0.
#[test]
fn numbers_of_the_host_do_not_restrict_a_container() {
    let server = servers()[0].server().start();
    let host = Host::with("GPU-c 9000\nGPU-d 9000\n");
    let set = [("NVIDIA_VISIBLE_DEVICES", "2,3")];
    let (_, all) = run(&server, &host, "2", &set);
    assert_eq!(all.out().trim_end(), "GPU-c,GPU-d");
}

#[test]
fn an_allotment_without_a_gpu_is_an_error_that_names_it() {
    let server = servers()[0].server().start();
    let host = Host::with(FOUR);
    for (variable, value, expected) in [
        ("CUDA_VISIBLE_DEVICES", "-1", "CUDA_VISIBLE_DEVICES=-1 allows no GPU\n"),
        (
            "CUDA_VISIBLE_DEVICES",
            "",
            "CUDA_VISIBLE_DEVICES is empty, which allows no GPU\n",
        ),
        (
            "CUDA_VISIBLE_DEVICES",
            "GPU-x,0",
            "=GPU-x,0 allows no GPU: \"GPU-x\" is none of 0 ",
        ),
        ("CUDA_VISIBLE_DEVICES", "4", "=4 allows no GPU: \"4\" is none of 0 (GPU-a1), "),
        ("NVIDIA_VISIBLE_DEVICES", "none", "=none allows no GPU of this host\n"),
        ("NVIDIA_VISIBLE_DEVICES", "GPU-x", "=GPU-x allows no GPU of this host\n"),
    ] {
        let (status, run) = run(&server, &host, "1", &[(variable, value)]);
        assert_eq!(status, 1, "{variable}={value}: {}", run.out());
        assert!(run.err().contains(expected), "{variable}={value}: {}", run.err());
    }
}

#[test]
fn an_entry_that_is_ignored_is_reported() {
    let server = servers()[0].server().start();
    let host = Host::with(FOUR);
    let set = [("CUDA_VISIBLE_DEVICES", "0,GPU-x,1")];
    let (status, run) = run(&server, &host, "1", &set);
    assert_eq!((status, run.out().trim_end()), (0, "GPU-a1"));
    assert!(run.err().contains("\"GPU-x\" is none of 0 (GPU-a1)"), "{}", run.err());
}

#[test]
fn the_user_selects_among_the_allotted_gpus() {
    let server = servers()[0].server().start();
    let host = Host::with(FOUR);
    let selected = |args: &[&str]| {
        let run = host.run(&server, &[args, &["--no-wait"]].concat(), PRINT_GPUS);
        let run = run.with(|command| {
            command.env("CUDA_VISIBLE_DEVICES", "1,2,3");
        });
        let (status, run) = run.status();
        let text = if status == 0 { run.out() } else { run.err() };
        (status, text.trim_end().to_owned())
    };
    for (args, expected) in [
        (["-n2", "--only", "2,3"], "GPU-c,3"),
        (["-n1", "--only", "GPU-c"], "GPU-c"),
        (["-n2", "--exclude", "GPU-c"], "GPU-a2,3"),
        (["-n1", "--exclude", "1,3"], "GPU-c"),
    ] {
        assert_eq!(selected(&args), (0, expected.to_owned()), "{args:?}");
    }
    let (status, error) = selected(&["--only", "GPU-a1"]);
    assert_eq!(status, 2, "{error}");
    let expected = "invalid --only \"GPU-a1\": expected one of 1 (GPU-a2), 2 (GPU-c), 3";
    assert!(error.contains(expected), "{error}");
}
