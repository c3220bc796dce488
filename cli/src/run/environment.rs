//! The environment variables that describe the locks to the command.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use crate::locks::Lock;
use crate::text::Text;

/// The variable that contains the owner.
pub(crate) const OWNER: &str = "GPULOCK_OWNER";

/// Names and values.
pub(crate) type Environment = Vec<(&'static str, OsString)>;

/// The variables for these locks. `devices` maps the keys of a pool to CUDA device names.
pub(crate) fn of(owner: &str, locks: &[Lock], devices: &[(Text, String)]) -> Environment {
    let keys: Vec<&[u8]> = locks.iter().map(|lock| &*lock.key.0).collect();
    let tokens: Vec<String> = locks.iter().map(|lock| lock.token.to_string()).collect();
    let mut all: Environment = vec![
        (OWNER, owner.into()),
        ("GPULOCK_KEYS", OsString::from_vec(keys.join(&b','))),
        ("GPULOCK_TOKENS", tokens.join(",").into()),
    ];
    if !devices.is_empty() {
        // GPUs without a UUID are named by index: make CUDA count in NVML's order.
        all.push(("CUDA_DEVICE_ORDER", "PCI_BUS_ID".into()));
        all.push(("CUDA_VISIBLE_DEVICES", visible(locks, devices).into()));
    }
    all
}

fn visible(locks: &[Lock], devices: &[(Text, String)]) -> String {
    let device = |lock: &Lock| {
        devices.iter().find(|(key, _)| *key == lock.key).map(|(_, device)| &**device)
    };
    locks.iter().filter_map(device).collect::<Vec<_>>().join(",")
}
