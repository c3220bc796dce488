//! Which locks a run asks for: those that the command line names, or the GPUs of this host.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use anyhow::Result;

use crate::gpus::{self, Gpu, Gpus};
use crate::run::locks::Lock;
use crate::text::Text;

/// The locks asked for.
pub(crate) enum Wanted {
    /// By name.
    Named(Vec<Text>),
    /// Those of a pool.
    Pool(Pool),
}

/// The GPUs of this host.
pub(crate) struct Pool {
    gpus: Box<dyn Gpus>,
    all: Vec<Place>,
    min_free_mib: Option<u64>,
}

/// A GPU of a pool.
struct Place {
    key: Text,
    gpu: Gpu,
    /// Its memory was too full when nobody else held its lock.
    passed_over: bool,
}

impl Wanted {
    /// Locks by name.
    pub(crate) fn named(keys: &[OsString]) -> Self {
        Self::Named(keys.iter().map(|key| Text(key.as_bytes().to_vec())).collect())
    }

    /// The GPUs of this host, as a pool of this name; those with less free memory are
    /// passed over.
    ///
    /// # Errors
    /// When they cannot be found.
    pub(crate) fn pool(
        name: &str,
        host: &str,
        min_free_mib: Option<u64>,
    ) -> Result<Self> {
        Pool::of(Box::new(gpus::of_this_host()?), name, host, min_free_mib)
            .map(Self::Pool)
    }

    /// All of the keys.
    pub(crate) fn all(&self) -> Vec<Text> {
        match self {
            Self::Named(keys) => keys.clone(),
            Self::Pool(pool) => pool.all.iter().map(|place| place.key.clone()).collect(),
        }
    }

    /// The keys to ask for now: without GPUs that are still passed over.
    pub(crate) fn keys(&mut self) -> Vec<Text> {
        match self {
            Self::Named(keys) => keys.clone(),
            Self::Pool(pool) => pool.keys(),
        }
    }

    /// Whether none is passed over.
    pub(crate) fn are_all_asked_for(&self) -> bool {
        match self {
            Self::Named(_) => true,
            Self::Pool(pool) => pool.all.iter().all(|place| !place.passed_over),
        }
    }

    /// Why locks that were granted will not do; they are passed over from now on.
    pub(crate) fn refused(&mut self, locks: &[Lock]) -> Vec<String> {
        match self {
            Self::Named(_) => Vec::new(),
            Self::Pool(pool) => pool.refused(locks),
        }
    }

    /// What CUDA calls the GPUs, by key; nothing when the locks are of no pool.
    pub(crate) fn devices(&self) -> Vec<(Text, String)> {
        let device = |place: &Place| (place.key.clone(), place.gpu.device.clone());
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
        let place = |gpu: Gpu| {
            let key = format!("{{{name}:{host}}}:gpu:{}", gpu.place());
            Place { key: Text(key.into_bytes()), gpu, passed_over: false }
        };
        let all = gpus.all()?.into_iter().map(place).collect();
        Ok(Self { gpus, all, min_free_mib })
    }

    fn keys(&mut self) -> Vec<Text> {
        let (gpus, enough) = (&self.gpus, self.min_free_mib.unwrap_or_default());
        let has_enough = |gpu: &Gpu| gpus.free_mib(gpu).is_ok_and(|free| free >= enough);
        for place in &mut self.all {
            place.passed_over = place.passed_over && !has_enough(&place.gpu);
        }
        let asked = self.all.iter().filter(|place| !place.passed_over);
        asked.map(|place| place.key.clone()).collect()
    }

    fn refused(&mut self, locks: &[Lock]) -> Vec<String> {
        let mut refused = Vec::new();
        let Some(enough) = self.min_free_mib else { return refused };
        let gpus = &self.gpus;
        let is_granted = |place: &Place| locks.iter().any(|lock| lock.key == place.key);
        for place in self.all.iter_mut().filter(|place| is_granted(place)) {
            let free = match gpus.free_mib(&place.gpu) {
                Ok(free) if free >= enough => continue,
                Ok(free) => format!("only {free} MiB are free of the {enough} asked for"),
                Err(error) => format!("{error:#}"),
            };
            place.passed_over = true;
            refused.push(format!("{} is passed over: {free}", place.key));
        }
        refused
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use anyhow::ensure;

    use super::*;

    /// One GPU that may fail.
    struct Failing(&'static AtomicBool);

    impl Gpus for Failing {
        fn all(&self) -> Result<Vec<Gpu>> {
            Ok(vec![Gpu { index: 0, part: None, device: "GPU-a".to_owned() }])
        }

        fn free_mib(&self, _: &Gpu) -> Result<u64> {
            ensure!(!self.0.load(Ordering::Relaxed), "the GPU is lost");
            Ok(1000)
        }
    }

    #[test]
    fn a_gpu_that_does_not_answer_is_passed_over_until_it_does() -> Result<()> {
        static FAILED: AtomicBool = AtomicBool::new(true);
        let pool = Pool::of(Box::new(Failing(&FAILED)), "p", "host", Some(1000))?;
        let mut wanted = Wanted::Pool(pool);
        let key = Text(b"{p:host}:gpu:0".to_vec());
        assert_eq!(wanted.keys(), std::slice::from_ref(&key));
        let granted = [Lock { key: key.clone(), token: 1 }];
        let why = wanted.refused(&granted);
        assert_eq!(why, ["{p:host}:gpu:0 is passed over: the GPU is lost"]);
        assert!(wanted.keys().is_empty());
        FAILED.store(false, Ordering::Relaxed);
        assert_eq!(wanted.keys(), [key]);
        assert!(wanted.refused(&granted).is_empty());
        Ok(())
    }
}
