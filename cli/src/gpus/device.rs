//! The GPUs that a driver shows, with the numbers and names that variables have for them.

use super::Gpu;

/// The GPUs and MIG instances that a driver shows.
#[derive(Clone, Debug)]
pub(crate) struct Devices {
    /// In order of preference.
    pub(super) all: Vec<Device>,
    /// The number of GPUs, including those that have failed.
    pub(super) count: u32,
    /// The numbers of those that have failed.
    pub(crate) failed: Vec<u32>,
}

/// A GPU or MIG instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub(super) gpu: Gpu,
    /// The number of the GPU in a list of devices.
    pub(super) number: u32,
    /// The UUID of the GPU that the MIG instance is a part of.
    pub(super) parent: Option<String>,
}

impl Device {
    /// The UUIDs that it can be named by: of the GPU, and of the instance.
    pub(super) fn uuids(&self) -> impl Iterator<Item = &str> {
        [&self.parent, &self.gpu.uuid].into_iter().flatten().map(String::as_str)
    }
}

impl Devices {
    /// These devices, numbered in this order.
    pub(super) fn renumbered(devices: Vec<Device>) -> Self {
        let numbered = |(device, number)| Device { number, ..device };
        let all: Vec<Device> = devices.into_iter().zip(0..).map(numbered).collect();
        let count = u32::try_from(all.len()).unwrap_or(u32::MAX);
        Self { all, count, failed: Vec::new() }
    }

    /// GPUs that all work, numbered by their indexes.
    pub(crate) fn of(gpus: Vec<Gpu>) -> Self {
        let device = |gpu: Gpu| Device { number: gpu.index, gpu, parent: None };
        let count = u32::try_from(gpus.len()).unwrap_or(u32::MAX);
        Self { all: gpus.into_iter().map(device).collect(), count, failed: Vec::new() }
    }

    /// The GPUs, without the names that variables have for them.
    pub(crate) fn into_gpus(self) -> Vec<Gpu> {
        self.all.into_iter().map(|device| device.gpu).collect()
    }

    /// Keeps the devices of these GPUs, in their order.
    pub(super) fn keep(&mut self, chosen: &[Device]) {
        let is_chosen = |device: &Device| chosen.iter().any(|one| one.gpu == device.gpu);
        self.all.retain(is_chosen);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::gpus::Vendor;

    /// A host with a GPU, one in MIG mode, one that has failed, and one without a UUID.
    pub(in crate::gpus) fn host() -> Devices {
        let device =
            |number, instance, uuid: Option<&str>, parent: Option<&str>| Device {
                gpu: Gpu {
                    vendor: Vendor::Nvidia,
                    index: number,
                    instance,
                    uuid: uuid.map(str::to_owned),
                },
                number,
                parent: parent.map(str::to_owned),
            };
        Devices {
            all: vec![
                device(0, None, Some("GPU-a1"), None),
                device(1, Some(0), Some("MIG-b1"), Some("GPU-b1")),
                device(1, Some(1), Some("MIG-b12"), Some("GPU-b1")),
                device(3, None, None, None),
            ],
            count: 4,
            failed: vec![2],
        }
    }
}
