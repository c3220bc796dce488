//! `NVIDIA_VISIBLE_DEVICES`, with which the NVIDIA container toolkit gives a container its GPUs.
//! Where it did so, the driver shows only these GPUs, numbered from 0. A privileged container
//! sees all GPUs of the host nevertheless; there the variable alone says which ones are meant.

use std::collections::BTreeSet;

use super::device::{Device, Devices};

/// The variable.
pub(super) const VARIABLE: &str = "NVIDIA_VISIBLE_DEVICES";

/// The devices that the value allows; None if it restricts nothing.
///
/// Numbers are those of the host. They are applied only if the driver shows more devices than
/// the value names: otherwise it shows the named ones with other numbers. Forms other than
/// numbers and UUIDs, such as CDI names, restrict nothing.
pub(super) fn allowed(value: &str, shown: &Devices) -> Option<Vec<Device>> {
    let entries: Vec<&str> = value.split(',').map(str::trim).collect();
    match entries[..] {
        // `void`: the devices are given by other means.
        ["" | "all" | "void"] => return None,
        ["none"] => return Some(Vec::new()),
        _ => {}
    }
    if !entries.iter().all(|entry| is_number(entry) || is_uuid(entry)) {
        return None;
    }
    // A repeated entry names no further device.
    let named_count = entries.iter().collect::<BTreeSet<_>>().len();
    if entries.iter().any(|entry| is_number(entry))
        && named_count >= number_shown(&entries, shown)
    {
        return None;
    }
    Some(entries.iter().flat_map(|entry| named(entry, shown)).collect())
}

/// The number of GPUs, or of MIG instances if the entries name any.
fn number_shown(entries: &[&str], shown: &Devices) -> usize {
    match entries.iter().any(|entry| entry.contains(':')) {
        true => shown.all.len(),
        false => shown.count as usize,
    }
}

/// `2`, or `2:0` for a MIG instance.
fn is_number(entry: &str) -> bool {
    parts(entry).is_some()
}

fn parts(entry: &str) -> Option<(u32, Option<u32>)> {
    Some(match entry.split_once(':') {
        None => (entry.parse().ok()?, None),
        Some((gpu, instance)) => (gpu.parse().ok()?, Some(instance.parse().ok()?)),
    })
}

/// Without the older names of MIG instances, which the driver no longer reports.
fn is_uuid(entry: &str) -> bool {
    let is_old = entry.starts_with("MIG-GPU-");
    (entry.starts_with("GPU-") || entry.starts_with("MIG-")) && !is_old
}

fn named(entry: &str, shown: &Devices) -> Vec<Device> {
    let Some((number, instance)) = parts(entry) else {
        return shown.named(entry).unwrap_or_default();
    };
    let is_named = |device: &&Device| {
        device.number == number && (instance.is_none() || device.gpu.instance == instance)
    };
    shown.all.iter().filter(is_named).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpus::device::tests::host;

    fn names(value: &str, shown: &Devices) -> Option<String> {
        let allowed = allowed(value, shown)?;
        let names: Vec<String> =
            allowed.iter().map(|device| device.gpu.device()).collect();
        Some(names.join(" "))
    }

    #[test]
    fn uuids_and_numbers_restrict_a_process_that_sees_all_gpus() {
        for (value, expected) in [
            ("GPU-a1", "GPU-a1"),
            ("GPU-b1,GPU-gone", "MIG-b1 MIG-b12"),
            ("MIG-b12", "MIG-b12"),
            ("0,3", "GPU-a1 3"),
            ("3,3,3,3", "3 3 3 3"),
            ("1:1", "MIG-b12"),
            ("none", ""),
            ("GPU-gone", ""),
        ] {
            assert_eq!(names(value, &host()), Some(expected.to_owned()), "{value}");
        }
    }

    #[test]
    fn other_forms_restrict_nothing() {
        for value in
            ["", "all", "void", "nvidia.com/gpu=0", "/var/run/x", "MIG-GPU-a/1/0"]
        {
            assert_eq!(names(value, &host()), None, "{value}");
        }
    }

    /// The driver shows only the two GPUs of the container, as 0 and 1.
    #[test]
    fn numbers_of_the_host_do_not_restrict_a_container() {
        let mut shown = host();
        shown.all.truncate(1);
        shown.count = 1;
        for value in ["2", "0", "0:1"] {
            assert_eq!(names(value, &shown), None, "{value}");
        }
        assert_eq!(names("GPU-a1", &shown).as_deref(), Some("GPU-a1"));
    }
}
