//! Shares of a GPU: `--pool NAME/N` with `--slots` and `--vram`.

use gpulock_testkit::{Server, call, servers, wait_until};

use crate::gpu_host::{Host, key};
use crate::relay::Relay;
use crate::runner::{TIMEOUT, waiting};

/// Prints the variables of a command with slots of a GPU.
const PRINT: &str = "echo \"$GPULOCK_KEYS $CUDA_VISIBLE_DEVICES $GPULOCK_SLOTS \
    $GPULOCK_VRAM_MIB\" >gpus; sleep 600";

fn server() -> Server {
    servers()[0].server().start()
}

/// The keys of these slots, separated by commas.
fn keys(gpu: &str, slots: std::ops::Range<u32>) -> String {
    let key = key(gpu);
    slots.map(|slot| format!("{key}:{slot}")).collect::<Vec<_>>().join(",")
}

#[test]
fn commands_share_a_gpu_by_slots() {
    let server = server();
    let host = Host::with("GPU-a 9000 16000\nGPU-b 9000 16000\n");
    let start = |args: &[&str]| host.run_in("p/4", &server, args, PRINT).start();
    let one = start(&["--slots", "3"]);
    assert_eq!(one.line("gpus"), format!("{} GPU-a 3 12000", keys("GPU-a", 0..3)));
    let two = start(&["--slots", "1"]);
    assert_eq!(two.line("gpus"), format!("{} GPU-a 1 4000", keys("GPU-a", 3..4)));
    let three = start(&["--slots", "2"]);
    assert_eq!(three.line("gpus"), format!("{} GPU-b 2 8000", keys("GPU-b", 0..2)));
    let (status, _) =
        host.run_in("p/4", &server, &["--slots", "3", "--no-wait"], PRINT).status();
    assert_eq!(status, 75, "two slots of GPU-b are free, none of GPU-a");
}

#[test]
fn a_whole_gpu_is_all_of_its_slots() {
    let server = server();
    let host = Host::with("GPU-a 9000\nGPU-b 9000\nGPU-c 9000\n");
    let start = |args: &[&str]| host.run_in("p/2", &server, args, PRINT).start();
    let shared = start(&["--slots", "1"]);
    shared.line("gpus");
    let whole = start(&["-n", "2"]);
    let both = format!("{},{}", keys("GPU-b", 0..2), keys("GPU-c", 0..2));
    assert_eq!(whole.line("gpus"), format!("{both} GPU-b,GPU-c 2 9000"));
    let next = start(&[]);
    wait_until(TIMEOUT, "the wait", || waiting(&server, &keys("GPU-a", 0..1)) == 1);
    assert!(!next.path("gpus").exists());
    drop(shared);
    assert_eq!(next.line("gpus"), format!("{} GPU-a 2 9000", keys("GPU-a", 0..2)));
}

#[test]
fn memory_is_rounded_up_to_slots_of_each_card() {
    let server = server();
    let host = Host::with("GPU-a 9 8000\nGPU-b 9 81920\nGPU-c 9 24576\n");
    let run = |args: &[&str]| host.run_in("p/8", &server, args, PRINT);
    let two = run(&["--vram", "20GiB", "-n", "2"]).start();
    let both = format!("{},{}", keys("GPU-b", 0..2), keys("GPU-c", 0..7));
    assert_eq!(two.line("gpus"), format!("{both} GPU-b,GPU-c 2 20480"));
    let rest = run(&["--slots", "6"]).start();
    let all = "the slots that GPU-b did not need are free";
    assert_eq!(
        rest.line("gpus"),
        format!("{} GPU-a 6 6000", keys("GPU-a", 0..6)),
        "{all}"
    );
    let large = run(&["--vram", "60GiB"]).start();
    assert_eq!(large.line("gpus"), format!("{} GPU-b 6 61440", keys("GPU-b", 2..8)));
}

#[test]
fn a_run_without_slots_does_not_inherit_them() {
    let server = server();
    let host = Host::with("GPU-a 8000\n");
    let run = host.run(&server, &[], PRINT).with(|command| {
        command.env("GPULOCK_SLOTS", "3").env("GPULOCK_VRAM_MIB", "3");
    });
    assert_eq!(run.start().line("gpus"), format!("{} GPU-a", key("GPU-a")));
}

#[test]
fn a_skipped_gpu_is_skipped_with_all_its_slots() {
    let server = server();
    let host = Host::with("GPU-a 10 8000\nGPU-b 4000 8000\n");
    let args = ["--slots", "1", "--min-free-mib", "1000"];
    let run = host.run_in("p/2", &server, &args, PRINT).start();
    assert_eq!(run.line("gpus"), format!("{} GPU-b 1 4000", keys("GPU-b", 0..1)));
    let why = format!("skipping {}: 10 MiB free, 1000 MiB required", key("GPU-a"));
    assert!(run.err().contains(&why), "{}", run.err());
}

/// The connection breaks, and the slots are tied to the new one.
#[test]
fn slots_survive_a_broken_connection() {
    let server = server();
    let host = Host::with("GPU-a 8000\n");
    let mut run =
        host.run_in("p/4", &server, &["--slots", "2"], "echo >gpus; sleep 3").start();
    run.line("gpus");
    server.client().line("CLIENT KILL TYPE normal SKIPME yes");
    assert_eq!(run.status(), 0, "{}", run.err());
}

/// Their keys do not exclude each other.
#[test]
fn runs_that_divide_a_gpu_differently_do_not_use_it_together() {
    let server = server();
    let host = Host::with("GPU-a 8000\n");
    let start = |pool: &str, args: &[&str]| {
        let run = host.run_in(pool, &server, args, PRINT).start();
        run.line("gpus");
        run
    };
    let refused = |pool: &str| {
        let (status, run) = host.run_in(pool, &server, &[], PRINT).status();
        assert_eq!(status, 1, "{pool}: {}", run.err());
        assert!(run.err().contains("into the same number of slots"), "{}", run.err());
        assert!(!run.path("gpus").exists(), "{pool}");
    };
    let whole = start("p", &[]);
    ["p/8", "p/2"].into_iter().for_each(refused);
    drop(whole);
    let server = &server;
    let are_held = |keys: i64| move || server.client().line("DBSIZE") == keys;
    wait_until(TIMEOUT, "the release", are_held(0));
    // Only slots 2 to 4 of 8 are in use.
    let first = start("p/8", &["--slots", "2"]);
    let last = start("p/8", &["--slots", "3"]);
    drop(first);
    wait_until(TIMEOUT, "the release", are_held(3));
    ["p", "p/2"].into_iter().for_each(refused);
    drop(last);
}

/// The connection breaks after the grant, before the check.
#[test]
fn a_failed_check_for_other_divisions_is_repeated() {
    let server = server();
    let relay = Relay::to(server.port());
    let host = Host::with("GPU-a 8000\n");
    call!(server.client(), "GPULOCK.ACQUIRE", key("GPU-a"), "other", "EX", 600);
    relay.silence_before("GPULOCK.INSPECT");
    let run = host.run_in("p/2", &server, &[], PRINT).with(|command| {
        command.env("GPULOCK_URL", format!("redis://127.0.0.1:{}", relay.port()));
    });
    let mut run = run.start();
    relay.wait_silent();
    relay.cut();
    relay.pass();
    assert_eq!(run.status(), 1, "{}", run.err());
    assert!(run.err().contains("into the same number of slots"), "{}", run.err());
    assert!(!run.path("gpus").exists());
}

#[test]
fn progress_counts_the_slots_of_all_requested_gpus() {
    let server = server();
    let host = Host::with("GPU-a 8000\nGPU-b 8000\nGPU-c 8000\n");
    let whole = host.run_in("p/4", &server, &["-n", "2"], PRINT).start();
    whole.line("gpus");
    let next = host.run_in("p/4", &server, &["-n", "2"], PRINT).start();
    wait_until(TIMEOUT, "the progress line", || {
        next.err().contains("for 8 of 12 locks: ")
    });
}

#[test]
fn what_no_gpu_can_give_is_refused_with_what_is_there() {
    let server = server();
    let host = Host::with("GPU-a 8000\nGPU-b 16384\n");
    #[rustfmt::skip]
    let cases: [(&str, &[&str], &str); 8] = [
        ("p/8", &["--vram", "40GiB"],            "the largest GPU has 16.0 GiB"),
        ("p/8", &["--vram", "10GiB", "-n", "2"], "only 1 large enough GPU to choose from"),
        ("p/8", &["--vram", "20"],               "with its unit, such as 20GiB"),
        ("p/8", &["--vram", "0GiB"],             "with its unit, such as 20GiB"),
        ("p/8", &["--slots", "9"],               "the pool divides each GPU into 8"),
        ("p/8", &["-n", "3"],                    "only 2 GPUs to choose from"),
        ("p",   &["--slots", "1"],               "such as --pool p/8"),
        ("p",   &["--vram", "1GiB"],             "such as --pool p/8"),
    ];
    for (pool, args, why) in cases {
        let (status, run) = host.run_in(pool, &server, args, PRINT).status();
        assert_eq!(status, 2, "{args:?}: {}", run.err());
        assert!(run.err().contains(why), "{args:?}: {}", run.err());
    }
}

#[test]
fn as_many_slots_as_one_call_can_name_are_granted() {
    let server = server();
    // A UUID has 40 characters, and the longest pool name 48.
    let gpus = |count| -> String {
        (0..count).map(|gpu| format!("GPU-{gpu:036} 8000\n")).collect()
    };
    let pool = format!("{}/64", "p".repeat(48));
    let host = Host::with(&gpus(16));
    let run = host.run_in(&pool, &server, &["-n", "16"], "echo $GPULOCK_KEYS >gpus");
    let (status, run) = run.status();
    assert_eq!(status, 0, "{}", run.err());
    assert_eq!(run.line("gpus").split(',').count(), 1024);

    host.set_gpus(&gpus(17));
    let (status, run) = host.run_in(&pool, &server, &[], PRINT).status();
    assert_eq!(status, 2);
    let why = "17 GPUs have 1088 slots, at most 1024";
    assert!(run.err().contains(why), "{}", run.err());
    let args = ["--exclude", "16", "-n", "16"];
    let (status, _) = host.run_in(&pool, &server, &args, "true").status();
    assert_eq!(status, 0);
}
