//! The candidate locks of a run: named on the command line, or the GPUs of this host.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use anyhow::Result;

use super::calls::Lock;
use crate::gpus::{self, Gpu, Gpus};
use crate::text::Text;

/// The candidate locks.
pub(crate) enum Targets {
    /// Named by their keys.
    Named(Vec<Text>),
    /// The GPUs of a pool.
    Pool(Pool),
}

/// The GPUs of this host.
pub(crate) struct Pool {
    gpus: Box<dyn Gpus>,
    all: Vec<PoolGpu>,
    min_free_mib: Option<u64>,
}

/// A GPU of a pool.
struct PoolGpu {
    key: Text,
    gpu: Gpu,
    /// It had too little free memory when its lock was granted.
    skipped: bool,
}

impl Targets {
    /// Locks named by their keys.
    pub(crate) fn named(keys: &[OsString]) -> Self {
        Self::Named(keys.iter().map(|key| Text(key.as_bytes().to_vec())).collect())
    }

    /// The GPUs of this host, as a pool with this name. GPUs with less free memory than
    /// `min_free_mib` are skipped.
    ///
    /// # Errors
    /// If the GPUs cannot be listed.
    pub(crate) fn pool(
        name: &str,
        host: &str,
        min_free_mib: Option<u64>,
    ) -> Result<Self> {
        Pool::of(gpus::of_this_host()?, name, host, min_free_mib).map(Self::Pool)
    }

    /// All keys, including those of skipped GPUs.
    pub(crate) fn all_keys(&self) -> Vec<Text> {
        match self {
            Self::Named(keys) => keys.clone(),
            Self::Pool(pool) => pool.all.iter().map(|gpu| gpu.key.clone()).collect(),
        }
    }

    /// The keys to request now, without those of GPUs that still have too little memory.
    pub(crate) fn usable_keys(&mut self) -> Vec<Text> {
        match self {
            Self::Named(keys) => keys.clone(),
            Self::Pool(pool) => pool.usable_keys(),
        }
    }

    /// Whether any GPU is skipped.
    pub(crate) fn has_skipped(&self) -> bool {
        match self {
            Self::Named(_) => false,
            Self::Pool(pool) => pool.all.iter().any(|gpu| gpu.skipped),
        }
    }

    /// Checks granted locks. Returns the reasons why some are unusable; their GPUs are skipped
    /// from now on.
    pub(crate) fn skip_unusable(&mut self, locks: &[Lock]) -> Vec<String> {
        match self {
            Self::Named(_) => Vec::new(),
            Self::Pool(pool) => pool.skip_unusable(locks),
        }
    }

    /// The CUDA device names by key; empty if the locks are not a pool's.
    pub(crate) fn devices(&self) -> Vec<(Text, String)> {
        let device = |gpu: &PoolGpu| (gpu.key.clone(), gpu.gpu.device());
        match self {
            Self::Named(_) => Vec::new(),
            Self::Pool(pool) => pool.all.iter().map(device).collect(),
        }
    }
}

impl Pool {
    fn of(
        gpus: Box<dyn Gpus>,
        name: &str,
        host: &str,
        min_free_mib: Option<u64>,
    ) -> Result<Self> {
        let pool_gpu = |gpu: Gpu| {
            let key = format!("{{{name}:{host}}}:gpu:{}", gpu.id());
            PoolGpu { key: Text(key.into_bytes()), gpu, skipped: false }
        };
        let all = gpus.all()?.into_iter().map(pool_gpu).collect();
        Ok(Self { gpus, all, min_free_mib })
    }

    fn usable_keys(&mut self) -> Vec<Text> {
        let (gpus, enough) = (&self.gpus, self.min_free_mib.unwrap_or_default());
        let has_enough = |gpu: &Gpu| gpus.free_mib(gpu).is_ok_and(|free| free >= enough);
        for gpu in &mut self.all {
            gpu.skipped = gpu.skipped && !has_enough(&gpu.gpu);
        }
        let usable = self.all.iter().filter(|gpu| !gpu.skipped);
        usable.map(|gpu| gpu.key.clone()).collect()
    }

    fn skip_unusable(&mut self, locks: &[Lock]) -> Vec<String> {
        let mut reasons = Vec::new();
        let Some(enough) = self.min_free_mib else { return reasons };
        let gpus = &self.gpus;
        let is_granted = |gpu: &PoolGpu| locks.iter().any(|lock| lock.key == gpu.key);
        for gpu in self.all.iter_mut().filter(|gpu| is_granted(gpu)) {
            let why = match gpus.free_mib(&gpu.gpu) {
                Ok(free) if free >= enough => continue,
                Ok(free) => format!("{free} MiB free, {enough} MiB required"),
                Err(error) => format!("{error:#}"),
            };
            gpu.skipped = true;
            reasons.push(format!("skipping {}: {why}", gpu.key));
        }
        reasons
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use anyhow::ensure;

    use super::*;
    use crate::gpus::Vendor;

    /// A single GPU that may fail.
    struct Failing(&'static AtomicBool);

    impl Gpus for Failing {
        fn all(&self) -> Result<Vec<Gpu>> {
            let (vendor, uuid) = (Vendor::Nvidia, Some("GPU-a".to_owned()));
            Ok(vec![Gpu { vendor, index: 0, instance: None, uuid }])
        }

        fn free_mib(&self, _: &Gpu) -> Result<u64> {
            ensure!(!self.0.load(Ordering::Relaxed), "the GPU is lost");
            Ok(1000)
        }

        fn memory_mib(&self, _: &Gpu) -> Result<u64> {
            Ok(1000)
        }

        fn processes(&self, _: &Gpu) -> Result<Vec<u32>> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn a_gpu_that_does_not_respond_is_skipped_until_it_does() -> Result<()> {
        static FAILED: AtomicBool = AtomicBool::new(true);
        let pool = Pool::of(Box::new(Failing(&FAILED)), "p", "host", Some(1000))?;
        let mut targets = Targets::Pool(pool);
        let key = Text(b"{p:host}:gpu:0".to_vec());
        assert_eq!(targets.usable_keys(), std::slice::from_ref(&key));
        let granted = [Lock { key: key.clone(), token: 1 }];
        let why = targets.skip_unusable(&granted);
        assert_eq!(why, ["skipping {p:host}:gpu:0: the GPU is lost"]);
        assert!(targets.usable_keys().is_empty());
        FAILED.store(false, Ordering::Relaxed);
        assert_eq!(targets.usable_keys(), [key]);
        assert!(targets.skip_unusable(&granted).is_empty());
        Ok(())
    }
}
