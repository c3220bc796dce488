//! The GPUs of this host: what `gpulock` knows about a GPU, and where it learns it.
//!
//! # Layout
//! - [`nvidia`]: GPUs and MIG instances, as reported by the NVIDIA driver

mod nvidia;

use anyhow::Result;

pub(crate) use self::nvidia::of_this_host;

/// A GPU or MIG instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gpu {
    /// The index of the GPU, in PCI bus order.
    pub(crate) index: u32,
    /// The index of the MIG instance.
    pub(crate) instance: Option<u32>,
    /// The UUID of the GPU or MIG instance, if it has one.
    pub(crate) uuid: Option<String>,
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

impl Gpu {
    /// The suffix of the lock's key: `0`, or `0:mig:1`.
    pub(crate) fn id(&self) -> String {
        match self.instance {
            None => self.index.to_string(),
            Some(instance) => format!("{}:mig:{instance}", self.index),
        }
    }

    /// The CUDA device name: the UUID, or the index of a GPU without one.
    pub(crate) fn device(&self) -> String {
        self.uuid.clone().unwrap_or_else(|| self.index.to_string())
    }
}
