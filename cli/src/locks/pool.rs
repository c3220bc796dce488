//! The GPUs of this host as candidate locks: which of them are usable, and how many locks a
//! run takes of each.

use anyhow::{Result, ensure};

use super::calls::{Groups, Lock, LockRequest};
use super::card::{Card, Part, Slots};
use super::pool_name::PoolName;
use crate::gpus::{Gpu, Gpus, Selection};
use crate::text::Text;

/// What is asked of a pool.
#[derive(Clone, Debug)]
pub(crate) struct PoolOptions {
    pub(super) name: PoolName,
    pub(super) part: Part,
    pub(super) selection: Selection,
    /// GPUs with less free memory are skipped.
    pub(super) min_free_mib: Option<u64>,
}

/// The GPUs of this host.
pub(crate) struct Pool {
    gpus: Box<dyn Gpus>,
    candidates: Vec<Candidate>,
    min_free_mib: Option<u64>,
    /// Messages about the environment's lists of GPUs.
    pub(super) warnings: Vec<String>,
    /// The indexes of GPUs that have failed.
    failed: Vec<u32>,
    /// The number of GPUs that are too small for the requested part, and the memory of the
    /// largest.
    too_small: usize,
    largest_mib: u64,
}

/// A GPU that may be granted.
struct Candidate {
    card: Card,
    /// It had too little free memory, or had failed, when its lock was granted.
    skipped: bool,
}

impl Pool {
    /// The GPUs of this host, which are those of a pool with this name.
    ///
    /// # Errors
    /// If the GPUs cannot be listed, or a part in memory is requested and no GPU reports its
    /// memory.
    pub(super) fn of(
        gpus: Box<dyn Gpus>,
        host: &str,
        options: &PoolOptions,
    ) -> Result<Self> {
        let PoolName { name, slots } = &options.name;
        let prefix = format!("{{{name}:{host}}}");
        let (devices, warnings) = gpus.allotted()?;
        let mut pool = Self {
            gpus,
            warnings,
            failed: devices.failed.clone(),
            candidates: Vec::new(),
            min_free_mib: options.min_free_mib,
            too_small: 0,
            largest_mib: 0,
        };
        for gpu in options.selection.apply(devices)? {
            let key = Text(format!("{prefix}:{}", gpu.id()).into_bytes());
            let slots = slots.map(|all| pool.slots(&gpu, all, options.part));
            match slots {
                Some(None) => pool.too_small += 1,
                None | Some(Some(_)) => pool.candidates.push(Candidate {
                    card: Card { key, gpu, slots: slots.flatten() },
                    skipped: false,
                }),
            }
        }
        pool.check_memory()?;
        Ok(pool)
    }

    fn slots(&mut self, gpu: &Gpu, all: u16, part: Part) -> Option<Slots> {
        let memory_mib = self.gpus.memory_mib(gpu).ok();
        self.largest_mib = self.largest_mib.max(memory_mib.unwrap_or_default());
        Slots::of(part, all, memory_mib)
    }

    fn check_memory(&self) -> Result<()> {
        let is_unknown = self.too_small > 0 && self.largest_mib == 0;
        ensure!(
            !is_unknown,
            "the driver does not report the memory of the GPUs, which --vram needs; use --slots"
        );
        Ok(())
    }

    /// The GPUs that may be granted, also those that are skipped.
    pub(super) fn cards(&self) -> impl Iterator<Item = &Card> {
        self.candidates.iter().map(|candidate| &candidate.card)
    }

    /// Whether the free memory of granted GPUs is checked.
    pub(super) const fn checks_memory(&self) -> bool {
        self.min_free_mib.is_some()
    }

    /// A GPU that has failed, and has a lower index than one that may be granted.
    pub(super) fn failed_before_others(&self) -> Option<u32> {
        let last = self.cards().map(|card| card.gpu.index).max()?;
        self.failed.iter().copied().find(|failed| *failed < last)
    }

    /// The number of GPUs that are too small, and the memory of the largest GPU.
    pub(super) const fn too_small(&self) -> (usize, u64) {
        (self.too_small, self.largest_mib)
    }

    /// Limits a request to the GPUs that are usable now. False: they are too few.
    pub(super) fn limit_to_usable(&mut self, request: &mut LockRequest) -> bool {
        let (gpus, min_free) = (&*self.gpus, self.min_free_mib);
        let is_usable = |gpu: &Gpu| why_unusable(gpus, gpu, min_free).is_none();
        for candidate in &mut self.candidates {
            candidate.skipped = candidate.skipped && !is_usable(&candidate.card.gpu);
        }
        let usable = self.candidates.iter().filter(|candidate| !candidate.skipped);
        let usable: Vec<&Card> = usable.map(|candidate| &candidate.card).collect();
        let wanted =
            request.groups.as_ref().map_or(request.count, |groups| groups.wanted);
        if usable.len() < wanted {
            return false;
        }
        (request.keys, request.count, request.groups) = requested(&usable, wanted);
        true
    }

    /// Whether any GPU is skipped.
    pub(super) fn has_skipped(&self) -> bool {
        self.candidates.iter().any(|candidate| candidate.skipped)
    }

    /// Checks the GPUs of granted locks. Returns the reasons why some are unusable; they are
    /// skipped from now on.
    pub(super) fn skip_unusable(&mut self, locks: &[Lock]) -> Vec<String> {
        let mut reasons = Vec::new();
        let is_granted = |card: &Card| locks.iter().any(|lock| card.has(&lock.key));
        for candidate in &mut self.candidates {
            if !is_granted(&candidate.card) {
                continue;
            }
            let gpu = &candidate.card.gpu;
            if let Some(why) = why_unusable(&*self.gpus, gpu, self.min_free_mib) {
                candidate.skipped = true;
                reasons.push(format!("skipping {}: {why}", candidate.card.key));
            }
        }
        reasons
    }

    /// The keys of the GPUs of these locks under which runs use them that divide them
    /// differently.
    pub(super) fn foreign_keys(&self, locks: &[Lock]) -> Vec<Text> {
        let is_granted = |card: &&Card| locks.iter().any(|lock| card.has(&lock.key));
        self.cards().filter(is_granted).flat_map(Card::foreign_keys).collect()
    }

    /// Removes the granted slots that are not needed, and returns them. The server grants the
    /// same number of slots of each GPU, but a part in memory takes fewer of a larger GPU.
    pub(super) fn split_off_surplus(&self, locks: &mut Vec<Lock>) -> Vec<Lock> {
        let mut surplus = Vec::new();
        for card in self.cards() {
            let mut needed = card.wanted();
            let is_surplus = |lock: &mut Lock| {
                let is_surplus = card.has(&lock.key) && needed == 0;
                needed -= usize::from(card.has(&lock.key) && !is_surplus);
                is_surplus
            };
            surplus.extend(locks.extract_if(.., is_surplus));
        }
        surplus
    }
}

/// Why a GPU must not be used now; None if it may.
fn why_unusable(gpus: &dyn Gpus, gpu: &Gpu, min_free_mib: Option<u64>) -> Option<String> {
    let why = match min_free_mib {
        None => format!("{:#}", gpus.check(gpu).err()?),
        Some(enough) => match gpus.free_mib(gpu) {
            Ok(free) if free >= enough => return None,
            Ok(free) => format!("{free} MiB free, {enough} MiB required"),
            Err(error) => format!("{error:#}"),
        },
    };
    Some(why)
}

/// The keys of these GPUs, and the number of locks and groups to ask for, to get `wanted` of
/// them.
pub(super) fn requested(
    cards: &[&Card],
    wanted: usize,
) -> (Vec<Text>, usize, Option<Groups>) {
    let keys = cards.iter().flat_map(|card| card.keys()).collect();
    if cards.iter().all(|card| card.slots.is_none()) {
        return (keys, wanted, None);
    }
    let count = cards.iter().map(|card| card.wanted()).max().unwrap_or_default();
    let sizes = cards.iter().map(|card| card.keys().len()).collect();
    (keys, count, Some(Groups { wanted, sizes }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use anyhow::Context;
    use bytesize::ByteSize;

    use super::super::pool_name::pool_name;
    use super::*;
    use crate::gpus::{Devices, Vendor};
    use crate::locks::turn::Turn;

    /// GPUs with this memory, which may fail.
    struct Stub {
        mib: Vec<u64>,
        has_failed: Arc<AtomicBool>,
    }

    impl Gpus for Stub {
        fn allotted(&self) -> Result<(Devices, Vec<String>)> {
            let gpu = |index| Gpu {
                vendor: Vendor::Nvidia,
                index,
                instance: None,
                uuid: Some(format!("GPU-{index}")),
            };
            let all = (0..).zip(&self.mib).map(|(index, _)| gpu(index));
            Ok((Devices::of(all.collect()), Vec::new()))
        }

        fn check(&self, _: &Gpu) -> Result<()> {
            ensure!(!self.has_failed.load(Ordering::Relaxed), "the GPU is lost");
            Ok(())
        }

        fn free_mib(&self, gpu: &Gpu) -> Result<u64> {
            ensure!(!self.has_failed.load(Ordering::Relaxed), "the GPU is lost");
            self.memory_mib(gpu)
        }

        fn memory_mib(&self, gpu: &Gpu) -> Result<u64> {
            let mib = self.mib.get(gpu.index as usize).copied();
            mib.filter(|mib| *mib > 0).context("not reported")
        }

        fn processes(&self, _: &Gpu) -> Result<Vec<u32>> {
            Ok(Vec::new())
        }
    }

    fn options(name: &str, part: Part) -> Result<PoolOptions> {
        let (name, selection) = (pool_name(name)?, Selection::default());
        Ok(PoolOptions { name, part, selection, min_free_mib: None })
    }

    fn pool(mib: &[u64], options: &PoolOptions) -> Result<(Pool, Arc<AtomicBool>)> {
        let has_failed = Arc::<AtomicBool>::default();
        let stub = Stub { mib: mib.to_vec(), has_failed: Arc::clone(&has_failed) };
        Ok((Pool::of(Box::new(stub), "h", options)?, has_failed))
    }

    #[test]
    fn memory_that_is_not_reported_is_not_too_small() -> Result<()> {
        let some = options("p/8", Part::Memory(ByteSize::gib(20)))?;
        let (few, _) = pool(&[0, 81_920], &some)?;
        assert_eq!(few.cards().count(), 1);
        let error = pool(&[0, 0], &some).map(|_| ()).expect_err("no memory is known");
        assert!(error.to_string().contains("does not report the memory"), "{error}");
        assert_eq!(pool(&[0], &options("p/8", Part::Slots(1))?)?.0.cards().count(), 1);
        Ok(())
    }

    fn request(pool: &Pool, wanted: usize) -> LockRequest {
        let (keys, count, groups) = requested(&pool.cards().collect::<Vec<_>>(), wanted);
        LockRequest {
            keys,
            count,
            groups,
            turn: Turn::default(),
            owner: "me".to_owned(),
            is_tied: true,
            lease: Duration::from_secs(9),
            grace: Duration::from_secs(9),
        }
    }

    fn shown(keys: &[Text]) -> String {
        keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    fn granted(keys: &[Text]) -> Vec<Lock> {
        keys.iter().map(|key| Lock { key: key.clone(), token: 1 }).collect()
    }

    #[test]
    fn a_gpu_that_does_not_respond_is_skipped_until_it_does() -> Result<()> {
        for min_free_mib in [None, Some(1)] {
            is_skipped_until_it_responds(min_free_mib)?;
        }
        Ok(())
    }

    fn is_skipped_until_it_responds(min_free_mib: Option<u64>) -> Result<()> {
        let options = PoolOptions { min_free_mib, ..options("p", Part::Whole)? };
        let (mut pool, has_failed) = pool(&[9], &options)?;
        let mut request = request(&pool, 1);
        assert!(pool.limit_to_usable(&mut request));
        assert_eq!(shown(&request.keys), "{p:h}:GPU-0");
        let granted = granted(&request.keys);
        has_failed.store(true, Ordering::Relaxed);
        let why = pool.skip_unusable(&granted);
        assert_eq!(why, ["skipping {p:h}:GPU-0: the GPU is lost"]);
        assert!(!pool.limit_to_usable(&mut request));
        has_failed.store(false, Ordering::Relaxed);
        assert!(pool.limit_to_usable(&mut request));
        assert_eq!(shown(&request.keys), "{p:h}:GPU-0");
        assert!(pool.skip_unusable(&granted).is_empty());
        Ok(())
    }

    #[test]
    fn a_skipped_gpu_is_skipped_with_all_its_slots() -> Result<()> {
        let options =
            PoolOptions { min_free_mib: Some(5), ..options("p/2", Part::Slots(1))? };
        let (mut pool, _) = pool(&[4, 9], &options)?;
        let mut request = request(&pool, 1);
        let all = "{p:h}:GPU-0:0 {p:h}:GPU-0:1 {p:h}:GPU-1:0 {p:h}:GPU-1:1";
        assert_eq!(shown(&request.keys), all);
        assert_eq!(request.groups.as_ref().map(|groups| groups.sizes.len()), Some(2));
        let locks = granted(&request.keys[1..2]);
        let why = pool.skip_unusable(&locks);
        assert_eq!(why, ["skipping {p:h}:GPU-0: 4 MiB free, 5 MiB required"]);
        assert!(pool.limit_to_usable(&mut request));
        assert_eq!(shown(&request.keys), "{p:h}:GPU-1:0 {p:h}:GPU-1:1");
        assert_eq!(
            request.groups.map(|groups| (groups.wanted, groups.sizes)),
            Some((1, vec![2]))
        );
        Ok(())
    }

    #[test]
    fn a_larger_gpu_keeps_only_the_slots_that_it_needs() -> Result<()> {
        let part = Part::Memory(ByteSize::mib(20));
        let (pool, _) = pool(&[10, 80, 24], &options("p/4", part)?)?;
        assert_eq!(pool.too_small(), (1, 80));
        let request = request(&pool, 2);
        assert_eq!(request.count, 4);
        let mut locks = granted(&request.keys);
        let surplus = pool.split_off_surplus(&mut locks);
        let keys = |locks: &[Lock]| {
            shown(&locks.iter().map(|lock| lock.key.clone()).collect::<Vec<_>>())
        };
        assert_eq!(keys(&surplus), "{p:h}:GPU-1:1 {p:h}:GPU-1:2 {p:h}:GPU-1:3");
        let kept =
            "{p:h}:GPU-1:0 {p:h}:GPU-2:0 {p:h}:GPU-2:1 {p:h}:GPU-2:2 {p:h}:GPU-2:3";
        assert_eq!(keys(&locks), kept);
        Ok(())
    }
}
