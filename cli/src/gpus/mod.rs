//! The GPUs of this host: what `gpulock` knows about a GPU, and where it learns it.
//!
//! # Layout
//! - [`nvidia`]: GPUs and MIG instances, as reported by the NVIDIA driver
//! - [`amd`]: GPUs, as shown by the kernel's AMD driver
//! - [`allotted`]: which of them this process may use, as the environment says
//!   ([`visible_devices`], [`container`]); [`device`]: the names that the environment has for
//!   them
//! - [`selection`]: the GPUs that the user selects
//! - [`host`]: what identifies this host, and whether this process is in a container

mod allotted;
mod amd;
mod container;
mod device;
mod host;
mod nvidia;
mod selection;
mod visible_devices;

use anyhow::{Result, bail};

pub(crate) use self::device::Devices;
pub(crate) use self::host::{host_id, sees_all_processes};
pub(crate) use self::selection::Selection;

/// The maker of a GPU, which decides which variables name a program's GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vendor {
    Nvidia,
    Amd,
}

/// A GPU or MIG instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gpu {
    pub(crate) vendor: Vendor,
    /// The index of the GPU, as its driver counts: in PCI bus order, over all GPUs of the vendor
    /// that this process can see.
    pub(crate) index: u32,
    /// The index of the MIG instance.
    pub(crate) instance: Option<u32>,
    /// The UUID of the GPU or MIG instance, if it has one.
    pub(crate) uuid: Option<String>,
}

/// A source of GPUs.
pub(crate) trait Gpus: Send {
    /// The working GPUs that this process may use, in PCI bus order; for a GPU in MIG mode its
    /// instances. With messages about the environment: entries in its lists of devices that name
    /// no GPU.
    ///
    /// # Errors
    /// If the driver returns an error, or there is no working GPU that may be used.
    fn allotted(&self) -> Result<(Devices, Vec<String>)>;

    /// Those GPUs, without the messages.
    ///
    /// # Errors
    /// As with `allotted`.
    fn all(&self) -> Result<Vec<Gpu>> {
        let (devices, _) = self.allotted()?;
        Ok(devices.into_gpus())
    }

    /// Checks that a GPU is still there: it may fail, and a MIG instance can be removed.
    ///
    /// # Errors
    /// If it is not there.
    fn check(&self, gpu: &Gpu) -> Result<()>;

    /// The free memory of a GPU.
    ///
    /// # Errors
    /// If the driver or the GPU returns an error.
    fn free_mib(&self, gpu: &Gpu) -> Result<u64>;

    /// The memory of a GPU, used or not.
    ///
    /// # Errors
    /// If the driver or the GPU returns an error.
    fn memory_mib(&self, gpu: &Gpu) -> Result<u64>;

    /// The processes that use a GPU, with the numbers that they have in the driver's process
    /// namespace.
    ///
    /// # Errors
    /// If the driver or the GPU returns an error.
    fn processes(&self, gpu: &Gpu) -> Result<Vec<u32>>;
}

/// The GPUs of this host: those of the NVIDIA driver, or else those of the AMD driver.
///
/// # Errors
/// If there is no driver.
pub(crate) fn of_this_host() -> Result<Box<dyn Gpus>> {
    let no_nvidia = match nvidia::of_this_host() {
        Ok(nvidia) => return Ok(Box::new(nvidia)),
        Err(error) => error,
    };
    match amd::of_this_host() {
        Ok(amd) => Ok(Box::new(amd)),
        Err(no_amd) => bail!(
            "no GPU driver on this host, name the locks with --keys: \
             NVIDIA: {no_nvidia}; AMD: {no_amd:#}"
        ),
    }
}

/// The names of GPUs, for messages: `0 (GPU-5a1c), 1`.
fn names<'a>(gpus: impl IntoIterator<Item = &'a Gpu>) -> String {
    let name = |gpu: &Gpu| match &gpu.uuid {
        Some(uuid) => format!("{} ({uuid})", gpu.index),
        None => gpu.index.to_string(),
    };
    gpus.into_iter().map(name).collect::<Vec<_>>().join(", ")
}

impl Gpu {
    /// What the GPU is called in its key: the UUID, or for a GPU without one `gpu:0` or
    /// `gpu:0:mig:1`.
    pub(crate) fn id(&self) -> String {
        match (&self.uuid, self.instance) {
            (Some(uuid), _) => uuid.clone(),
            (None, None) => format!("gpu:{}", self.index),
            (None, Some(instance)) => format!("gpu:{}:mig:{instance}", self.index),
        }
    }

    /// Whether this is what a GPU can be called in its key.
    pub(crate) fn is_id(name: &str) -> bool {
        let is_number = |text: &str| text.parse::<u32>().is_ok();
        match name.split(':').collect::<Vec<_>>()[..] {
            [uuid] => uuid.starts_with("GPU-") || uuid.starts_with("MIG-"),
            ["gpu", index] => is_number(index),
            ["gpu", index, "mig", instance] => is_number(index) && is_number(instance),
            _ => false,
        }
    }

    /// Whether a key of any pool is a lock of the GPU, or of a slot of it.
    pub(crate) fn has_key(&self, key: &[u8]) -> bool {
        let name = key.rsplit(|byte| *byte == b'}').next().unwrap_or_default();
        let rest = name
            .strip_prefix(b":")
            .and_then(|name| name.strip_prefix(self.id().as_bytes()));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b":"))
    }

    /// The CUDA device name: the UUID, or the index of a GPU without one.
    pub(crate) fn device(&self) -> String {
        self.uuid.clone().unwrap_or_else(|| self.index.to_string())
    }
}
