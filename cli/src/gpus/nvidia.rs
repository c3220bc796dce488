//! GPUs and MIG instances, as reported by the NVIDIA driver (NVML).

use anyhow::{Result, ensure};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::MemoryInfo;
use nvml_wrapper::{Device as NvmlDevice, Nvml};

use super::allotted::{self, variable};
use super::device::{Device, Devices};
use super::{Gpu, Gpus, Vendor};

const MIB: u64 = 1 << 20;

/// The GPUs of the NVIDIA driver.
///
/// # Errors
/// If there is no driver.
pub(crate) fn of_this_host() -> Result<impl Gpus> {
    Ok(Nvml::init()?)
}

impl Gpus for Nvml {
    fn allotted(&self) -> Result<(Devices, Vec<String>)> {
        let mut devices = devices(self)?;
        ensure!(
            !devices.all.is_empty(),
            "the NVIDIA driver reports no working GPU on this host"
        );
        let warnings = allotted::nvidia(&mut devices, &variable)?;
        Ok((devices, warnings))
    }

    fn check(&self, gpu: &Gpu) -> Result<()> {
        // A GPU that has failed may still have a handle. Not every GPU reports its memory.
        match with_device(self, gpu, |device| Ok(device.memory_info()))? {
            Err(error @ NvmlError::GpuLost) => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn free_mib(&self, gpu: &Gpu) -> Result<u64> {
        Ok(memory(self, gpu)?.free / MIB)
    }

    fn memory_mib(&self, gpu: &Gpu) -> Result<u64> {
        Ok(memory(self, gpu)?.total / MIB)
    }

    fn processes(&self, gpu: &Gpu) -> Result<Vec<u32>> {
        // Not those that only draw: a display server is on a GPU whatever runs there.
        let processes =
            with_device(self, gpu, |device| Ok(device.running_compute_processes()?))?;
        Ok(processes.into_iter().map(|process| process.pid).collect())
    }
}

fn devices(nvml: &Nvml) -> Result<Devices> {
    let (count, mut all, mut failed) = (nvml.device_count()?, Vec::new(), Vec::new());
    for index in 0..count {
        let Ok(device) = nvml.device_by_index(index) else {
            failed.push(index);
            continue;
        };
        match is_in_mig_mode(&device) {
            true => all.extend(instances(index, &device)),
            false => {
                let gpu = gpu(index, None, &device);
                all.push(Device { gpu, number: index, parent: None });
            }
        }
    }
    Ok(Devices { all, count, failed })
}

fn memory(nvml: &Nvml, gpu: &Gpu) -> Result<MemoryInfo> {
    with_device(nvml, gpu, |device| Ok(device.memory_info()?))
}

/// Looks up the device of a GPU or MIG instance: by its UUID, because indexes change when another
/// GPU fails, or an instance is removed.
fn with_device<T>(
    nvml: &Nvml,
    gpu: &Gpu,
    query: impl FnOnce(&NvmlDevice<'_>) -> Result<T>,
) -> Result<T> {
    if let Some(uuid) = &gpu.uuid {
        return query(&nvml.device_by_uuid(uuid.as_str())?);
    }
    let device = nvml.device_by_index(gpu.index)?;
    match gpu.instance {
        None => query(&device),
        Some(index) => query(&device.mig_device_by_index(index)?),
    }
}

fn is_in_mig_mode(device: &NvmlDevice<'_>) -> bool {
    // GPUs without MIG return an error.
    device.mig_mode().is_ok_and(|mode| mode.current != 0)
}

/// The indexes of instances may have gaps.
fn instances(index: u32, device: &NvmlDevice<'_>) -> Vec<Device> {
    let indexes = 0..device.mig_device_count().unwrap_or_default();
    let parent = device.uuid().ok();
    let instance = |number| {
        let instance = device.mig_device_by_index(number).ok()?;
        let gpu = gpu(index, Some(number), &instance);
        Some(Device { gpu, number: index, parent: parent.clone() })
    };
    indexes.filter_map(instance).collect()
}

fn gpu(index: u32, instance: Option<u32>, device: &NvmlDevice<'_>) -> Gpu {
    Gpu { vendor: Vendor::Nvidia, index, instance, uuid: device.uuid().ok() }
}
