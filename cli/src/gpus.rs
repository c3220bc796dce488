//! The GPUs of this host, as the driver knows them through NVML. Which of them are free is
//! not asked here: that is what locks are for.

use anyhow::{Result, anyhow, ensure};
use nvml_wrapper::{Device, Nvml};

/// A GPU, or a part of one (MIG), that a command can have for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gpu {
    /// Its number on the PCI bus.
    pub(crate) index: u32,
    /// Which part of it.
    pub(crate) part: Option<u32>,
    /// What CUDA calls it: its UUID, or its number when it has none.
    pub(crate) device: String,
}

/// Where GPUs are known.
pub(crate) trait Gpus: Send {
    /// All that work, in the order of the PCI bus; in place of one that is divided its parts.
    ///
    /// # Errors
    /// When the driver does not answer.
    fn all(&self) -> Result<Vec<Gpu>>;

    /// How much of its memory is free.
    ///
    /// # Errors
    /// When the driver or the GPU does not answer.
    fn free_mib(&self, gpu: &Gpu) -> Result<u64>;
}

/// The GPUs that the NVIDIA driver of this host has.
///
/// # Errors
/// When there is no driver.
pub(crate) fn of_this_host() -> Result<impl Gpus> {
    Nvml::init().map_err(|error| {
        anyhow!("no NVIDIA driver on this host ({error}): name the locks with --keys")
    })
}

impl Gpu {
    /// Which one of its host: `0`, or `0:mig:1`.
    pub(crate) fn place(&self) -> String {
        match self.part {
            None => self.index.to_string(),
            Some(part) => format!("{}:mig:{part}", self.index),
        }
    }
}

impl Gpus for Nvml {
    fn all(&self) -> Result<Vec<Gpu>> {
        let mut all = Vec::new();
        for index in 0..self.device_count()? {
            // One that has failed is nobody's.
            let Ok(device) = self.device_by_index(index) else { continue };
            match is_divided(&device) {
                true => all.extend(parts(index, &device)),
                false => all.push(gpu(index, None, &device)),
            }
        }
        ensure!(
            !all.is_empty(),
            "the NVIDIA driver of this host knows no GPU that works"
        );
        Ok(all)
    }

    fn free_mib(&self, gpu: &Gpu) -> Result<u64> {
        let device = self.device_by_index(gpu.index)?;
        let part = gpu.part.map(|part| device.mig_device_by_index(part)).transpose()?;
        let memory = part.as_ref().unwrap_or(&device).memory_info()?;
        Ok(memory.free / (1 << 20))
    }
}

fn is_divided(device: &Device<'_>) -> bool {
    // An error: it cannot be divided at all.
    device.mig_mode().is_ok_and(|mode| mode.current != 0)
}

/// Not every number up to the highest is taken.
fn parts(index: u32, device: &Device<'_>) -> Vec<Gpu> {
    let numbers = 0..device.mig_device_count().unwrap_or_default();
    let part = |number| Some((number, device.mig_device_by_index(number).ok()?));
    numbers
        .filter_map(part)
        .map(|(number, device)| gpu(index, Some(number), &device))
        .collect()
}

fn gpu(index: u32, part: Option<u32>, device: &Device<'_>) -> Gpu {
    let device = device.uuid().unwrap_or_else(|_| index.to_string());
    Gpu { index, part, device }
}
