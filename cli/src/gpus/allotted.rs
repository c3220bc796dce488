//! The GPUs that were allotted to this process: a user, SLURM, Docker or Kubernetes says in
//! variables which of a host's GPUs it may use.

use std::env;

use anyhow::{Result, ensure};

use super::container;
use super::device::Devices;
use super::visible_devices::{OnRepetition, VisibleDevices, shown};

/// The value of an environment variable.
pub(super) type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The value of a variable in the environment of this process.
pub(super) fn variable(name: &str) -> Option<String> {
    env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

/// Keeps the GPUs that `NVIDIA_VISIBLE_DEVICES` and `CUDA_VISIBLE_DEVICES` both allow. Returns
/// messages about invalid entries.
///
/// # Errors
/// If they allow none.
pub(super) fn nvidia(
    devices: &mut Devices,
    variables: Variables<'_>,
) -> Result<Vec<String>> {
    const CUDA: &str = "CUDA_VISIBLE_DEVICES";
    let cuda = list(CUDA, OnRepetition::Clear, variables);
    let chosen = cuda.as_ref().map(|list| list.choose(devices)).transpose()?;
    if let Some(value) = variables(container::VARIABLE)
        && let Some(allowed) = container::allowed(&value, devices)
    {
        let variable = container::VARIABLE;
        let value = shown(&value);
        ensure!(!allowed.is_empty(), "{variable}={value} allows no GPU of this host");
        devices.keep(&allowed);
    }
    let Some((chosen, note)) = chosen else { return Ok(Vec::new()) };
    devices.keep(&chosen);
    ensure!(
        !devices.all.is_empty(),
        "{} and {CUDA} have no GPU in common",
        container::VARIABLE
    );
    Ok(note.into_iter().collect())
}

/// Keeps the GPUs that `ROCR_VISIBLE_DEVICES` allows, and of these, those that the variable of
/// HIP allows, which counts what the former left. Returns messages about invalid entries.
///
/// # Errors
/// If they allow none.
pub(super) fn amd(
    devices: &mut Devices,
    variables: Variables<'_>,
) -> Result<Vec<String>> {
    let rocr = list("ROCR_VISIBLE_DEVICES", OnRepetition::End, variables);
    let hip = list("HIP_VISIBLE_DEVICES", OnRepetition::End, variables);
    // HIP reads it if its own variable is not set.
    let hip = hip.or_else(|| list("CUDA_VISIBLE_DEVICES", OnRepetition::End, variables));
    let mut visible = devices.clone();
    let mut notes = Vec::new();
    for list in [rocr, hip].into_iter().flatten() {
        let (chosen, note) = list.choose(&visible)?;
        notes.extend(note);
        visible = Devices::renumbered(chosen);
    }
    devices.keep(&visible.all);
    Ok(notes)
}

fn list(
    variable: &'static str,
    on_repetition: OnRepetition,
    variables: Variables<'_>,
) -> Option<VisibleDevices> {
    let value = variables(variable)?;
    Some(VisibleDevices { variable, value, on_repetition })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpus::device::tests::host;

    type Allotted = fn(&mut Devices, Variables<'_>) -> Result<Vec<String>>;

    fn left(allotted: Allotted, set: &[(&str, &str)]) -> Result<String, String> {
        let mut devices = host();
        let value = |name: &str| {
            set.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned())
        };
        allotted(&mut devices, &value).map_err(|error| error.to_string())?;
        let names: Vec<String> =
            devices.all.iter().map(|device| device.gpu.device()).collect();
        Ok(names.join(" "))
    }

    #[test]
    fn the_order_of_preference_stays() {
        let set = [("CUDA_VISIBLE_DEVICES", "3,0")];
        assert_eq!(left(nvidia, &set), Ok("GPU-a1 3".to_owned()));
        assert_eq!(left(nvidia, &[]), Ok("GPU-a1 MIG-b1 MIG-b12 3".to_owned()));
    }

    #[test]
    fn both_variables_of_nvidia_restrict() {
        let set = |container| {
            [("CUDA_VISIBLE_DEVICES", "3,0"), ("NVIDIA_VISIBLE_DEVICES", container)]
        };
        assert_eq!(left(nvidia, &set("GPU-a1,MIG-b1")), Ok("GPU-a1".to_owned()));
        assert_eq!(left(nvidia, &set("all")), Ok("GPU-a1 3".to_owned()));
        let error =
            "NVIDIA_VISIBLE_DEVICES and CUDA_VISIBLE_DEVICES have no GPU in common";
        assert_eq!(left(nvidia, &set("MIG-b1")), Err(error.to_owned()));
        let error = "NVIDIA_VISIBLE_DEVICES=none allows no GPU of this host";
        assert_eq!(left(nvidia, &set("none")), Err(error.to_owned()));
    }

    #[test]
    fn hip_counts_what_rocr_left() {
        let set = |hip| [("ROCR_VISIBLE_DEVICES", "3,0"), (hip, "1")];
        assert_eq!(left(amd, &set("HIP_VISIBLE_DEVICES")), Ok("GPU-a1".to_owned()));
        assert_eq!(left(amd, &set("CUDA_VISIBLE_DEVICES")), Ok("GPU-a1".to_owned()));
        assert_eq!(left(amd, &set("NVIDIA_VISIBLE_DEVICES")), Ok("GPU-a1 3".to_owned()));
    }
}
