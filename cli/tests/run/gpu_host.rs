//! A host with GPUs. The driver's library is replaced with a stub; all else is as on a machine
//! with GPUs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use gpulock_testkit::Server;
use tempfile::TempDir;

use crate::runner::{Builder, build, gpulock_run};

/// A host with GPUs, which are listed in a file.
pub(crate) struct Host {
    folder: TempDir,
}

impl Host {
    /// These GPUs.
    pub(crate) fn with(gpus: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let library = folder.path().join("libnvidia-ml.so.1");
        build("nvml.c", &["-shared", "-fPIC"], &library);
        let host = Self { folder };
        host.set_gpus(gpus);
        // As outside of containers, even if the tests run in one.
        host.set_process_namespace("pid:[4026531836]");
        host
    }

    /// Replaces the GPUs atomically.
    pub(crate) fn set_gpus(&self, gpus: &str) {
        let new = self.folder.path().join("new");
        fs::write(&new, gpus).expect("a file");
        fs::rename(new, self.gpus()).expect("a file");
    }

    /// Sets the namespace of the processes whose numbers the driver reports.
    pub(crate) fn set_process_namespace(&self, name: &str) {
        let folder = self.path("proc/self/ns");
        fs::create_dir_all(&folder).expect("a folder");
        let _none = fs::remove_file(folder.join("pid"));
        symlink(name, folder.join("pid")).expect("a link");
    }

    /// The file that lists the GPUs.
    pub(crate) fn gpus(&self) -> PathBuf {
        self.folder.path().join("gpus")
    }

    /// A file beside the list.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A run of a script with GPUs of the pool `p`.
    pub(crate) fn run(&self, server: &Server, args: &[&str], script: &str) -> Builder {
        self.run_in("p", server, args, script)
    }

    /// A run of a script with GPUs of a pool.
    pub(crate) fn run_in(
        &self,
        pool: &str,
        server: &Server,
        args: &[&str],
        script: &str,
    ) -> Builder {
        let args = [&["--pool", pool], args, &["--", "sh", "-c", script]].concat();
        gpulock_run(server, &args).with(|command| {
            command.env("LD_LIBRARY_PATH", self.folder.path());
            command.env("STUB_GPUS", self.gpus());
            command.env("GPULOCK_DEVICE_ROOT", self.folder.path());
            // The tests may run where GPUs were allotted.
            for variable in ["CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"] {
                command.env_remove(variable);
            }
        })
    }
}

/// The key of a GPU of the pool `p`.
pub(crate) fn key(gpu: &str) -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot id");
    format!("{{p:{}}}:{gpu}", id.replace('-', "").get(..12).expect("twelve digits"))
}
