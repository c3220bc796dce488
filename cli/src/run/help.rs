//! What `gpulock run --help` and the manual page contain besides the options.

use crate::manual::sections::{SERVER, Sections};

/// The sections of `gpulock run`.
pub(crate) const SECTIONS: Sections = Sections {
    exit_statuses: &[
        ("0-125", "that of the command"),
        ("128+n", "signal n killed the command, or ended the wait"),
        ("1", "an error, such as an error reply of the server or a missing driver"),
        ("2", "invalid command line"),
        ("69", "the server was unreachable, was not trusted, or had too many clients"),
        ("75", "not acquired in time (--status-busy replaces it), or lost early"),
        ("76", "the locks were lost while the command ran; the command is dead"),
        ("126", "the command cannot be executed"),
        ("127", "the command does not exist"),
    ],
    environment: &[
        SERVER,
        &[
            ("GPULOCK_KEYS", "set for the command: the keys of its locks, with commas"),
            ("GPULOCK_TOKENS", "set for the command: their fencing tokens"),
            ("GPULOCK_OWNER", "set for the command: the owner of the locks"),
            ("GPULOCK_LOST", "set for --on-lost: why the locks were lost"),
            ("GPULOCK_SLOTS", "set with a divided pool: its slots of each GPU"),
            ("GPULOCK_VRAM_MIB", "set with a divided pool: their memory in MiB"),
            ("CUDA_VISIBLE_DEVICES", "set for the command with --pool: its GPUs"),
            ("ROCR_VISIBLE_DEVICES", "the same for GPUs by AMD"),
            ("CUDA_DEVICE_ORDER", "set for the command with --pool: PCI_BUS_ID"),
        ],
    ],
    examples: &[
        (
            "Run a job on a free GPU of this host",
            "gpulock run --pool gpus -- python train.py",
        ),
        (
            "Choose two of three locks, and wait for at most ten minutes",
            "gpulock run --keys gpu:0,gpu:1,gpu:2 -n 2 --wait 10m -- ./train.sh",
        ),
        (
            "Exit with status 75 if the lock is not free",
            "gpulock run --key nightly --no-wait -- make bench",
        ),
        (
            "Record what happens to the run, for a program",
            "gpulock run --pool gpus --events events.jsonl -- python train.py",
        ),
    ],
};
