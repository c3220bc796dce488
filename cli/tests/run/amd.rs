//! AMD GPUs. The tests create the files of the kernel's driver in a folder.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use gpulock_testkit::{Server, servers, wait_until};
use tempfile::TempDir;

use crate::runner::{Builder, TIMEOUT, gpulock_run};

/// Prints the GPUs of a command.
const PRINT_GPUS: &str =
    "echo $ROCR_VISIBLE_DEVICES$HIP_VISIBLE_DEVICES$CUDA_VISIBLE_DEVICES";

const GIB: u64 = 1 << 30;

/// A host with AMD GPUs.
struct Host {
    root: TempDir,
}

/// A node of the kernel's topology.
#[derive(Clone, Copy)]
struct Node {
    number: u32,
    /// The bus, device and function. 0: a CPU.
    location: u64,
    unique_id: u64,
    used: u64,
}

const CPU: Node = Node { number: 0, location: 0, unique_id: 0, used: 0 };

const A: Node = Node { number: 1, location: 0x0300, unique_id: 0x1a2b, used: 0 };

const B: Node = Node { number: 2, location: 0xc308, unique_id: u64::MAX, used: 10 * GIB };

/// A process that is killed when the test ends.
struct Sleep(Child);

impl Sleep {
    fn start() -> Self {
        Self(Command::new("sleep").arg("600").spawn().expect("sleep starts"))
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl Host {
    fn with(nodes: &[Node]) -> Self {
        let host = Self { root: tempfile::tempdir().expect("a folder") };
        // The stub of the NVIDIA driver: none.
        host.write("libnvidia-ml.so.1", "");
        nodes.iter().for_each(|node| host.add(node));
        host
    }

    fn add(&self, node: &Node) {
        let Node { number, location, unique_id, used } = *node;
        let folder = format!("sys/class/kfd/kfd/topology/nodes/{number}");
        let (simd, render, gpu_id) = match location {
            0 => (0, 0, 0),
            _ => (208, 127 + number, 5000 + number),
        };
        self.write(&format!("{folder}/gpu_id"), &format!("{gpu_id}\n"));
        let properties = format!(
            "cpu_cores_count 0\nsimd_count {simd}\nlocation_id {location}\ndomain 0\n\
             drm_render_minor {render}\nunique_id {unique_id}\n"
        );
        self.write(&format!("{folder}/properties"), &properties);
        if location == 0 {
            return;
        }
        // Memory on the GPU, and the GPU's own.
        for (bank, heap, size) in [(0, 1, 16 * GIB), (1, 4, 65536)] {
            let properties = format!("heap_type {heap}\nsize_in_bytes {size}\nflags 0\n");
            self.write(&format!("{folder}/mem_banks/{bank}/properties"), &properties);
        }
        let (bus, device, function) = (location >> 8, location >> 3 & 31, location & 7);
        let pci = format!("sys/bus/pci/devices/0000:{bus:02x}:{device:02x}.{function}");
        self.write(&format!("{pci}/mem_info_vram_total"), &format!("{}\n", 16 * GIB));
        self.write(&format!("{pci}/mem_info_vram_used"), &format!("{used}\n"));
        self.write(&format!("dev/dri/renderD{render}"), "");
    }

    fn path(&self, file: &str) -> PathBuf {
        self.root.path().join(file)
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.path(file);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("a folder");
        fs::write(path, text).expect("a file");
    }

    fn run(&self, server: &Server, args: &[&str], script: &str) -> Builder {
        let args = [&["--pool", "p"], args, &["--", "sh", "-c", script]].concat();
        gpulock_run(server, &args).with(|command| {
            command.env("LD_LIBRARY_PATH", self.root.path());
            command.env("GPULOCK_DEVICE_ROOT", self.root.path());
            for variable in
                ["ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"]
            {
                command.env_remove(variable);
            }
        })
    }

    /// The GPUs of a run that asks for this number, or its error.
    #[track_caller]
    fn granted(&self, server: &Server, count: u32, set: &[(&str, &str)]) -> String {
        let args = ["-n", &count.to_string(), "--no-wait"];
        let run = self.run(server, &args, PRINT_GPUS);
        let (status, run) = run
            .with(|command| {
                command.envs(set.iter().copied());
            })
            .status();
        if status == 0 { run.out() } else { run.err() }.trim_end().to_owned()
    }
}

#[test]
fn gpus_are_found_and_named_by_rocm_uuids() {
    let server = servers()[0].server().start();
    let host = Host::with(&[CPU, A, B]);
    let both = "GPU-0000000000001a2b,GPU-ffffffffffffffff";
    assert_eq!(host.granted(&server, 2, &[]), both);
    let (status, _) = host.run(&server, &["-n", "3"], PRINT_GPUS).status();
    assert_eq!(status, 2);
}

#[test]
fn gpus_without_a_uuid_of_their_own_are_named_by_number() {
    let server = servers()[0].server().start();
    let old = Node { unique_id: 0, ..A };
    let twin = Node { number: 3, location: 0xc400, ..B };
    let host = Host::with(&[CPU, old, B, twin]);
    assert_eq!(host.granted(&server, 3, &[]), "0,1,2");
}

#[test]
fn gpus_are_preferred_in_pci_bus_order() {
    let server = servers()[0].server().start();
    let host = Host::with(&[CPU, Node { location: 0xe000, ..A }, B]);
    assert_eq!(host.granted(&server, 1, &[]), "GPU-ffffffffffffffff");
}

#[test]
fn only_gpus_that_can_be_opened_are_used() {
    let server = servers()[0].server().start();
    let host = Host::with(&[CPU, A, B]);
    fs::remove_file(host.path("dev/dri/renderD128")).expect("a device");
    assert_eq!(host.granted(&server, 1, &[]), "GPU-ffffffffffffffff");
    fs::remove_file(host.path("dev/dri/renderD129")).expect("a device");
    let error = host.granted(&server, 1, &[]);
    assert!(error.contains("no GPU that this user may use"), "{error}");
}

#[test]
fn only_allotted_gpus_are_used() {
    let server = servers()[0].server().start();
    let host = Host::with(&[CPU, A, B]);
    for set in [
        &[("ROCR_VISIBLE_DEVICES", "1")][..],
        &[("ROCR_VISIBLE_DEVICES", "GPU-FFFF")],
        &[("ROCR_VISIBLE_DEVICES", "1,0"), ("HIP_VISIBLE_DEVICES", "0")],
        &[("CUDA_VISIBLE_DEVICES", "1")],
    ] {
        assert_eq!(host.granted(&server, 1, set), "GPU-ffffffffffffffff", "{set:?}");
        let error = host.granted(&server, 2, set);
        assert!(error.contains("only 1 GPU to choose"), "{set:?}: {error}");
    }
    let error = host.granted(&server, 1, &[("ROCR_VISIBLE_DEVICES", "")]);
    assert!(error.contains("ROCR_VISIBLE_DEVICES is empty"), "{error}");
}

#[test]
fn a_gpu_with_too_little_memory_is_skipped() {
    let server = servers()[0].server().start();
    let host = Host::with(&[CPU, Node { used: 7 * GIB, ..A }, B]);
    let run = host.run(&server, &["--min-free-mib", "9216"], PRINT_GPUS);
    let (_, run) = run.status();
    assert_eq!(run.out().trim_end(), "GPU-0000000000001a2b", "{}", run.err());
    let run = host.run(&server, &["--min-free-mib", "9217"], PRINT_GPUS).start();
    wait_until(TIMEOUT, "a GPU to be skipped", || run.err().contains("9216 MiB free"));
    host.add(&Node { used: 0, ..B });
    assert_eq!(run.line("out"), "GPU-ffffffffffffffff");
}

/// All processes that have opened the driver are listed; those that use a GPU have memory on it.
#[test]
fn a_process_without_the_lock_is_reported() {
    let server = servers()[0].server().start();
    let host = Host::with(&[CPU, A]);
    let namespace = host.path("proc/self/ns");
    fs::create_dir_all(&namespace).expect("a folder");
    symlink("pid:[4026531836]", namespace.join("pid")).expect("a link");
    let (user, other) = (Sleep::start(), Sleep::start());
    for (process, bytes) in [(&user, 4096), (&other, 0)] {
        let file = format!("sys/class/kfd/kfd/proc/{}/vram_5001", process.0.id());
        host.write(&file, &format!("{bytes}\n"));
    }
    let run = host.run(&server, &[], "sleep 600").start();
    let report = format!(
        "gpulock: GPU-0000000000001a2b is used by process {} (sleep), which does not hold its \
         lock\n",
        user.0.id()
    );
    wait_until(TIMEOUT, "a report", || run.err().contains("hold its lock"));
    assert_eq!(run.err(), report);
}

#[test]
fn without_gpus_the_error_suggests_a_fix() {
    let server = servers()[0].server().start();
    let host = Host::with(&[]);
    let error = host.granted(&server, 1, &[]);
    assert!(error.contains("--keys") && error.contains("AMD: "), "{error}");
    let host = Host::with(&[CPU]);
    let error = host.granted(&server, 1, &[]);
    assert!(error.contains("no GPU that this user may use"), "{error}");
}
