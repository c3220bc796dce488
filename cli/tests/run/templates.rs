//! `--set`: variables of the command that are made of the granted locks.

use gpulock_testkit::{call, servers};

use crate::gpu_host::{Host, key};
use crate::runner::gpulock_run;

/// Prints a variable.
const PRINT: &str = "echo \"$ASCEND_RT_VISIBLE_DEVICES\" >devices; sleep 600";

#[test]
fn a_template_is_filled_in_for_each_granted_lock() {
    let server = servers()[0].server().start();
    call!(server.client(), "GPULOCK.ACQUIRE", "npu:8", "other", "EX", 600);
    #[rustfmt::skip]
    let cases = [
        ("ASCEND_RT_VISIBLE_DEVICES={index}",           "0,2"),
        ("ASCEND_RT_VISIBLE_DEVICES={name}",            "9,7"),
        ("ASCEND_RT_VISIBLE_DEVICES=/dev/{key}",        "/dev/npu:9,/dev/npu:7"),
        ("ASCEND_RT_VISIBLE_DEVICES={{{name}}}",        "{9},{7}"),
    ];
    for (template, expected) in cases {
        let keys = ["--keys", "npu:9,npu:8,npu:7", "-n", "2", "--set", template];
        let run = gpulock_run(&server, &[&keys[..], &["--", "sh", "-c", PRINT]].concat());
        assert_eq!(run.start().line("devices"), expected, "{template}");
    }
}

#[test]
fn a_pool_has_one_value_for_each_gpu() {
    let server = servers()[0].server().start();
    let host = Host::with("GPU-a 8000\nGPU-b 8000\n");
    let template = "ASCEND_RT_VISIBLE_DEVICES={index}/{name}/{key}";
    let args = ["-n", "2", "--slots", "2", "--set", template];
    let run = host.run_in("p/4", &server, &args, PRINT).start();
    let expected = format!("0/GPU-a/{},1/GPU-b/{}", key("GPU-a"), key("GPU-b"));
    assert_eq!(run.line("devices"), expected);
}

#[test]
fn invalid_templates_are_refused_with_what_is_right() {
    let server = servers()[0].server().start();
    #[rustfmt::skip]
    let cases = [
        ("A={suffix}",      "expected {index}, {key} or {name}"),
        ("GPULOCK_KEYS=a",  "is set by gpulock itself"),
        ("A-B=x",           "is not the name of a variable"),
        ("A",               "expected NAME=TEMPLATE"),
    ];
    for (template, why) in cases {
        let args = ["--key", "k", "--set", template, "--", "true"];
        let (status, run) = gpulock_run(&server, &args).status();
        assert_eq!(status, 2, "{template}");
        assert!(run.err().contains(why), "{template}: {}", run.err());
    }
}
