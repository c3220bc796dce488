//! The GPUs of this host, as reported by the NVIDIA driver (NVML).

use anyhow::{Result, anyhow, ensure};
use nvml_wrapper::{Device, Nvml};

/// A GPU or MIG instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gpu {
    /// The index of the GPU, in PCI bus order.
    pub(crate) index: u32,
    /// The index of the MIG instance.
    pub(crate) instance: Option<u32>,
    /// The CUDA device name: the UUID, or the index of a GPU without one.
    pub(crate) device: String,
}

/// A source of GPUs.
pub(crate) trait Gpus: Send {
    /// All working GPUs in PCI bus order; for a GPU in MIG mode its instances.
    ///
    /// # Errors
    /// If the driver returns an error, or there is no working GPU.
    fn all(&self) -> Result<Vec<Gpu>>;

    /// The free memory of a GPU.
    ///
    /// # Errors
    /// If the driver or the GPU returns an error.
    fn free_mib(&self, gpu: &Gpu) -> Result<u64>;
}

/// The GPUs of the NVIDIA driver.
///
/// # Errors
/// If there is no driver.
pub(crate) fn of_this_host() -> Result<impl Gpus> {
    Nvml::init().map_err(|error| {
        anyhow!("no NVIDIA driver on this host, name the locks with --keys: {error}")
    })
}

impl Gpu {
    /// The suffix of the lock's key: `0`, or `0:mig:1`.
    pub(crate) fn id(&self) -> String {
        match self.instance {
            None => self.index.to_string(),
            Some(instance) => format!("{}:mig:{instance}", self.index),
        }
    }
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
        let device = self.device_by_index(gpu.index)?;
        let instance = gpu.instance.map(|index| device.mig_device_by_index(index));
        let instance = instance.transpose()?;
        let memory = instance.as_ref().unwrap_or(&device).memory_info()?;
        Ok(memory.free / (1 << 20))
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
    let device = device.uuid().unwrap_or_else(|_| index.to_string());
    Gpu { index, instance, device }
}
