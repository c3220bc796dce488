//! The GPUs that the user selects (`--only`, `--exclude`).

use anyhow::Result;

use super::device::Devices;
use super::visible_devices::Invalid;
use super::{Gpu, names};
use crate::exit::Failure;

/// GPUs by index, UUID, or beginning of a UUID that only one GPU has. A GPU in MIG mode is all its
/// instances.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    /// If it is not empty, only these GPUs.
    pub(crate) only: Vec<String>,
    /// All GPUs but these.
    pub(crate) exclude: Vec<String>,
}

impl Selection {
    /// The selected GPUs, in their order.
    ///
    /// # Errors
    /// A usage error if an entry names no GPU, or more than one, or if no GPU is left.
    pub(crate) fn apply(&self, devices: Devices) -> Result<Vec<Gpu>> {
        let only = named(&self.only, "--only", &devices)?;
        let exclude = named(&self.exclude, "--exclude", &devices)?;
        let is_selected = |gpu: &Gpu| {
            (self.only.is_empty() || only.contains(gpu)) && !exclude.contains(gpu)
        };
        let selected: Vec<Gpu> =
            devices.into_gpus().into_iter().filter(is_selected).collect();
        if selected.is_empty() {
            let why = "--only and --exclude leave no GPU to choose from".to_owned();
            return Err(Failure::usage(why).into());
        }
        Ok(selected)
    }
}

/// The GPUs that the entries of an option name.
fn named(
    entries: &[String],
    option: &str,
    devices: &Devices,
) -> Result<Vec<Gpu>, Failure> {
    let mut all = Vec::new();
    for entry in entries {
        let problem = match devices.named(entry) {
            Ok(named) if !named.is_empty() => {
                all.extend(named.into_iter().map(|device| device.gpu));
                continue;
            }
            Err(Invalid::Ambiguous(_)) => "it names more than one of",
            _ => "expected one of",
        };
        let names = names(devices.all.iter().map(|device| &device.gpu));
        return Err(Failure::usage(format!(
            "invalid {option} {entry:?}: {problem} {names}"
        )));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpus::device::tests::host;

    fn selected(only: &[&str], exclude: &[&str]) -> Result<String, String> {
        let owned =
            |entries: &[&str]| entries.iter().map(|&entry| entry.to_owned()).collect();
        let selection = Selection { only: owned(only), exclude: owned(exclude) };
        let gpus = selection.apply(host()).map_err(|error| error.to_string())?;
        Ok(gpus.iter().map(Gpu::device).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn gpus_are_selected_by_index_uuid_or_prefix_in_their_own_order() {
        assert_eq!(selected(&[], &[]), Ok("GPU-a1 MIG-b1 MIG-b12 3".to_owned()));
        assert_eq!(selected(&["3", "GPU-a1"], &[]), Ok("GPU-a1 3".to_owned()));
        assert_eq!(selected(&["gpu-A"], &[]), Ok("GPU-a1".to_owned()));
        assert_eq!(selected(&["1"], &["MIG-b12"]), Ok("MIG-b1".to_owned()));
        assert_eq!(selected(&[], &["1", "3"]), Ok("GPU-a1".to_owned()));
        assert_eq!(selected(&[], &["GPU-b1"]), Ok("GPU-a1 3".to_owned()));
    }

    #[test]
    fn an_entry_must_name_one_gpu() {
        assert_eq!(selected(&["MIG-b1"], &[]), Ok("MIG-b1".to_owned()));
        let all = "0 (GPU-a1), 1 (MIG-b1), 1 (MIG-b12), 3";
        for ambiguous in ["MIG-", "GPU-"] {
            let expected = format!(
                "invalid --exclude {ambiguous:?}: it names more than one of {all}"
            );
            assert_eq!(selected(&[], &[ambiguous]), Err(expected));
        }
        // The GPU 2 has failed.
        for unknown in ["2", "4", "GPU-x", "", "-1", "a1"] {
            let expected = format!("invalid --only {unknown:?}: expected one of {all}");
            assert_eq!(selected(&[unknown], &[]), Err(expected));
        }
        let none = "--only and --exclude leave no GPU to choose from";
        assert_eq!(selected(&["0"], &["GPU-a1"]), Err(none.to_owned()));
    }
}
