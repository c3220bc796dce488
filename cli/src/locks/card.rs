//! A GPU of a pool, and its keys: one for the whole GPU, or one for each of its slots.

use bytesize::ByteSize;

use super::pool_name::SLOTS;
use crate::gpus::Gpu;
use crate::text::Text;

/// A GPU or MIG instance of a pool.
#[derive(Clone, Debug)]
pub(super) struct Card {
    /// The key of the whole GPU; those of its slots begin with it.
    pub(super) key: Text,
    pub(super) gpu: Gpu,
    /// None: the pool does not divide its GPUs.
    pub(super) slots: Option<Slots>,
}

/// The slots of a GPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slots {
    pub(super) all: u16,
    /// The number of slots that a run takes.
    pub(super) wanted: u16,
    /// The memory of the GPU, if it is known.
    pub(super) memory_mib: Option<u64>,
}

/// What a run takes of each GPU that it is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    Slots(u16),
    Memory(ByteSize),
}

impl Card {
    /// The keys, lowest slot first.
    pub(super) fn keys(&self) -> Vec<Text> {
        match self.slots {
            None => vec![self.key.clone()],
            Some(slots) => (0..slots.all).map(|slot| self.slot(slot)).collect(),
        }
    }

    /// The keys, each with the GPU.
    pub(super) fn keys_with_gpu(&self) -> Vec<(Text, Gpu)> {
        self.keys().into_iter().map(|key| (key, self.gpu.clone())).collect()
    }

    /// Keys of the same GPU that a run uses if it divides the GPU differently: they do not
    /// exclude this card's keys.
    pub(super) fn foreign_keys(&self) -> Vec<Text> {
        let own = self.slots.map_or(0, |slots| slots.all);
        let whole = self.slots.map(|_| self.key.clone());
        whole.into_iter().chain((own..*SLOTS.end()).map(|slot| self.slot(slot))).collect()
    }

    fn slot(&self, number: u16) -> Text {
        Text([&*self.key.0, format!(":{number}").as_bytes()].concat())
    }

    /// Whether this is one of its keys.
    pub(super) fn has(&self, key: &Text) -> bool {
        let Some(rest) = key.0.strip_prefix(&*self.key.0) else { return false };
        match self.slots {
            None => rest.is_empty(),
            Some(_) => rest.starts_with(b":"),
        }
    }

    /// The number of its locks that a run needs.
    pub(super) fn wanted(&self) -> usize {
        self.slots.map_or(1, |slots| usize::from(slots.wanted))
    }
}

impl Slots {
    /// The slots that this part of a GPU takes; None if it needs more than all of them, or the
    /// memory of the GPU is unknown.
    pub(super) fn of(part: Part, all: u16, memory_mib: Option<u64>) -> Option<Self> {
        let wanted = match part {
            Part::Whole => all,
            Part::Slots(wanted) => wanted,
            Part::Memory(size) => slots_for(size, all, memory_mib?)?,
        };
        (wanted <= all).then_some(Self { all, wanted, memory_mib })
    }

    /// The memory of this number of slots.
    pub(super) fn mib(&self, slots: usize) -> Option<u64> {
        let share = self.memory_mib?.saturating_mul(u64::try_from(slots).ok()?);
        Some(share / u64::from(self.all))
    }
}

/// The number of slots with at least this much memory.
fn slots_for(size: ByteSize, all: u16, memory_mib: u64) -> Option<u16> {
    let memory = u128::from(memory_mib) << 20;
    let slots = (u128::from(size.0) * u128::from(all)).checked_div(memory)?;
    let is_rounded = slots * memory < u128::from(size.0) * u128::from(all);
    u16::try_from(slots + u128::from(is_rounded)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpus::Vendor;

    #[test]
    fn memory_is_rounded_up_to_slots() {
        #[rustfmt::skip]
        let cases = [
            // Slots, MiB of the card, requested, slots taken.
            (8, 81_920, ByteSize::gib(20),           Some(2)),
            (8, 81_920, ByteSize(20 * (1 << 30) + 1), Some(3)),
            (8, 81_920, ByteSize(1),                 Some(1)),
            (8, 81_920, ByteSize::gib(80),           Some(8)),
            (8, 81_559, ByteSize::gib(80),           None),
            (8, 0,      ByteSize(1),                 None),
            (3, 100,    ByteSize::mib(67),           Some(3)),
            (2, 100,    ByteSize(u64::MAX),          None),
        ];
        for (all, memory, size, expected) in cases {
            let slots = Slots::of(Part::Memory(size), all, Some(memory));
            assert_eq!(slots.map(|slots| slots.wanted), expected, "{size:?} of {memory}");
        }
        assert!(Slots::of(Part::Memory(ByteSize(1)), 8, None).is_none());
    }

    #[test]
    fn the_slots_of_similar_cards_differ() {
        let card = |key: &str, slots| Card {
            key: Text(key.into()),
            gpu: Gpu { vendor: Vendor::Nvidia, index: 1, instance: None, uuid: None },
            slots: Slots::of(Part::Whole, slots, None),
        };
        let one = card("{p:h}:gpu:1", 2);
        let keys: Vec<String> = one.keys().iter().map(ToString::to_string).collect();
        assert_eq!(keys, ["{p:h}:gpu:1:0", "{p:h}:gpu:1:1"]);
        for key in card("{p:h}:gpu:11", 12).keys() {
            assert!(!one.has(&key), "{key}");
        }
        assert!(one.keys().iter().all(|key| one.has(key)));
    }
}
