//! `--gpus`: the processes on the GPUs of this host. The driver's library is the stub of the
//! tests of `gpulock run`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use gpulock_testkit::{servers, wait_until};
use tempfile::TempDir;

use crate::TIMEOUT;
use crate::exporter::{Exporter, command, url};
use crate::tools::Process;

/// The process namespace of a host, as opposed to a container.
const OF_HOST: &str = "pid:[4026531836]";

fn stub(namespace: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/run/nvml.c");
    let library = folder.path().join("libnvidia-ml.so.1");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(library).arg(source);
    assert!(compiler.status().expect("a C compiler").success());
    fs::create_dir_all(folder.path().join("proc/self/ns")).expect("a folder");
    symlink(namespace, folder.path().join("proc/self/ns/pid")).expect("a link");
    folder
}

fn set_gpus(stub: &TempDir, gpus: &str) {
    fs::write(stub.path().join("new"), gpus).expect("a file");
    fs::rename(stub.path().join("new"), stub.path().join("gpus")).expect("a file");
}

fn with_gpus(stub: &TempDir) -> Command {
    let mut command = command();
    command.args(["--listen", "127.0.0.1:0", "--gpus"]);
    command.env("LD_LIBRARY_PATH", stub.path());
    command.env("STUB_GPUS", stub.path().join("gpus"));
    command.env("GPULOCK_DEVICE_ROOT", stub.path());
    command.env_remove("CUDA_VISIBLE_DEVICES").env_remove("NVIDIA_VISIBLE_DEVICES");
    command
}

fn sleeping(keys: Option<&str>) -> Process {
    let mut command = Command::new("sleep");
    command.arg("600").env_remove("GPULOCK_KEYS");
    command.envs(keys.map(|keys| ("GPULOCK_KEYS", keys)));
    Process::start(&mut command)
}

fn wait_series(exporter: &Exporter, expected: &[(&str, &str, u32)]) {
    let series = |(gpu, lock, count): &(&str, &str, u32)| {
        format!("gpulock_gpu_processes{{gpu=\"{gpu}\",lock=\"{lock}\"}} {count}")
    };
    wait_until(TIMEOUT, format!("{expected:?}"), || {
        let text = exporter.metrics();
        expected.iter().map(series).all(|series| text.lines().any(|line| line == series))
    });
}

#[test]
fn processes_are_counted_by_whether_they_hold_the_lock() {
    let server = servers()[0].start();
    let stub = stub(OF_HOST);
    let holder = sleeping(Some("{p:0123}:GPU-b,{p:0123}:GPU-a"));
    let (slot, other) = (sleeping(Some("{q:0}:gpu:1:3")), sleeping(Some("{p:0}:GPU-ab")));
    let none = sleeping(None);
    let [holder, slot, other, none] =
        [&holder, &slot, &other, &none].map(|one| one.0.id());
    set_gpus(&stub, &format!("GPU-a 9 9 {holder} {none} {other}\n- 9 9 {slot}\n"));
    let exporter = Exporter::start(with_gpus(&stub).args(["--server", &url(&server)]));
    wait_series(
        &exporter,
        &[
            ("GPU-a", "held", 1),
            ("GPU-a", "none", 2),
            ("GPU-a", "unknown", 0),
            ("gpu:1", "held", 1),
            ("gpu:1", "none", 0),
        ],
    );
    set_gpus(&stub, &format!("GPU-a 9 9 {none}\n"));
    wait_series(&exporter, &[("GPU-a", "held", 0), ("GPU-a", "none", 1)]);
    assert!(!exporter.metrics().contains("gpu=\"gpu:1\""));
}

#[test]
fn without_gpus_or_in_a_container_the_error_names_the_reason() {
    let stub = stub("pid:[4026532835]");
    set_gpus(&stub, "GPU-a 9\n");
    let output = with_gpus(&stub).output().expect("it ends");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("--pid=host"), "{error}");
    set_gpus(&stub, "");
    fs::remove_file(stub.path().join("proc/self/ns/pid")).expect("a link");
    symlink(OF_HOST, stub.path().join("proc/self/ns/pid")).expect("a link");
    let output = with_gpus(&stub).output().expect("it ends");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("no working GPU"), "{error}");
}
