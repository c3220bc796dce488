//! GPUs and MIG instances, as reported by the NVIDIA driver (NVML).

use anyhow::{Result, anyhow, ensure};
use nvml_wrapper::struct_wrappers::device::MemoryInfo;
use nvml_wrapper::{Device, Nvml};

use super::{Gpu, Gpus, Vendor};

const MIB: u64 = 1 << 20;

/// The GPUs of the NVIDIA driver.
///
/// # Errors
/// If there is no driver.
pub(crate) fn of_this_host() -> Result<impl Gpus> {
    Nvml::init().map_err(|error| {
        anyhow!("no NVIDIA driver on this host, name the locks with --keys: {error}")
    })
}

impl Gpus for Nvml {
    fn all(&self) -> Result<Vec<Gpu>> {
        let mut all = Vec::new();
        for index in 0..self.device_count()? {
            // Skip a GPU that has failed.
            let Ok(device) = self.device_by_index(index) else { continue };
            match is_in_mig_mode(&device) {
                true => all.extend(instances(index, &device)),
                false => all.push(gpu(index, None, &device)),
            }
        }
        ensure!(!all.is_empty(), "the NVIDIA driver reports no working GPU on this host");
        Ok(all)
    }

    fn free_mib(&self, gpu: &Gpu) -> Result<u64> {
        Ok(memory(self, gpu)?.free / MIB)
    }

    fn memory_mib(&self, gpu: &Gpu) -> Result<u64> {
        Ok(memory(self, gpu)?.total / MIB)
    }

    fn processes(&self, gpu: &Gpu) -> Result<Vec<u32>> {
        with_device(self, gpu, |device| {
            let mut all = device.running_compute_processes()?;
            all.extend(device.running_graphics_processes()?);
            Ok(all.into_iter().map(|process| process.pid).collect())
        })
    }
}

fn memory(nvml: &Nvml, gpu: &Gpu) -> Result<MemoryInfo> {
    with_device(nvml, gpu, |device| Ok(device.memory_info()?))
}

/// Looks up the device of a GPU or MIG instance.
fn with_device<T>(
    nvml: &Nvml,
    gpu: &Gpu,
    query: impl FnOnce(&Device<'_>) -> Result<T>,
) -> Result<T> {
    let device = nvml.device_by_index(gpu.index)?;
    match gpu.instance {
        None => query(&device),
        Some(index) => query(&device.mig_device_by_index(index)?),
    }
}

fn is_in_mig_mode(device: &Device<'_>) -> bool {
    // GPUs without MIG return an error.
    device.mig_mode().is_ok_and(|mode| mode.current != 0)
}

/// The indexes of instances may have gaps.
fn instances(index: u32, device: &Device<'_>) -> Vec<Gpu> {
    let indexes = 0..device.mig_device_count().unwrap_or_default();
    let instance = |number| Some((number, device.mig_device_by_index(number).ok()?));
    indexes
        .filter_map(instance)
        .map(|(number, device)| gpu(index, Some(number), &device))
        .collect()
}

fn gpu(index: u32, instance: Option<u32>, device: &Device<'_>) -> Gpu {
    Gpu { vendor: Vendor::Nvidia, index, instance, uuid: device.uuid().ok() }
}
