//! The environment variables that describe the granted locks to the command, besides their keys
//! and tokens: the visible GPUs, the granted slots, and the variables of `--set`.

use std::ffi::OsString;

use super::calls::Lock;
use super::card::Card;
use super::templates::{Item, Template};
use crate::gpus::{Gpu, Vendor};
use crate::text::Text;

/// The locks that can be granted.
#[derive(Clone, Debug)]
pub(super) enum Candidates {
    /// In the order in which the user named them.
    Named(Vec<Text>),
    /// The GPUs of a pool.
    Cards(Vec<Card>),
}

/// How the command names GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum VisibleAs {
    Index,
    Uuid,
}

/// Describes any of the candidate locks to the command.
#[derive(Clone, Debug)]
pub(crate) struct Variables {
    pub(super) candidates: Candidates,
    pub(super) visible_as: VisibleAs,
    pub(super) templates: Vec<Template>,
}

/// A variable with its value; None: the command does not inherit the variable.
pub(crate) type Variable = (String, Option<OsString>);

/// A granted GPU, and the number of its locks.
type Granted<'a> = (&'a Card, usize);

impl Variables {
    /// The variables for these locks.
    pub(crate) fn of(&self, locks: &[Lock]) -> Vec<Variable> {
        let (granted, items) = match &self.candidates {
            Candidates::Named(keys) => (Vec::new(), named(keys, locks)),
            Candidates::Cards(cards) => {
                let granted = granted(cards, locks);
                let items = granted.iter().map(|(card, _)| item(card)).collect();
                (granted, items)
            }
        };
        let mut variables = shares(&granted);
        variables.extend(self.visible(&granted));
        for template in &self.templates {
            variables.push((template.name.clone(), Some(template.value(&items))));
        }
        variables
    }

    /// The variables that make only the granted GPUs visible.
    fn visible(&self, granted: &[Granted<'_>]) -> Vec<Variable> {
        let of = |vendor| {
            let gpus = granted.iter().map(|(card, _)| &card.gpu);
            let names = gpus.filter(|gpu| gpu.vendor == vendor).map(|gpu| self.name(gpu));
            Some(names.collect::<Vec<_>>().join(",")).filter(|names| !names.is_empty())
        };
        let mut variables = Vec::new();
        if let Some(names) = of(Vendor::Amd) {
            // These would select among the visible GPUs once more.
            for name in
                ["CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "HIP_VISIBLE_DEVICES"]
            {
                variables.push((name.to_owned(), None));
            }
            variables.push(set("ROCR_VISIBLE_DEVICES", names));
        }
        if let Some(names) = of(Vendor::Nvidia) {
            // An index counts in NVML's order.
            variables.push(set("CUDA_DEVICE_ORDER", "PCI_BUS_ID"));
            variables.push(set("CUDA_VISIBLE_DEVICES", names));
        }
        variables
    }

    fn name(&self, gpu: &Gpu) -> String {
        match self.visible_as {
            VisibleAs::Index => gpu.index.to_string(),
            VisibleAs::Uuid => gpu.device(),
        }
    }
}

/// The GPUs of these locks, in the order of the locks.
fn granted<'a>(cards: &'a [Card], locks: &[Lock]) -> Vec<Granted<'a>> {
    let mut granted: Vec<Granted<'a>> = Vec::new();
    for lock in locks {
        if let Some((_, slots)) = granted.iter_mut().find(|(card, _)| card.has(&lock.key))
        {
            *slots += 1;
        } else if let Some(card) = cards.iter().find(|card| card.has(&lock.key)) {
            granted.push((card, 1));
        }
    }
    granted
}

/// The number of slots of each GPU, and their memory: the smallest, if GPUs differ.
fn shares(granted: &[Granted<'_>]) -> Vec<Variable> {
    let slots = granted.iter().filter_map(|(card, slots)| Some((card.slots?, *slots)));
    let taken = slots.clone().map(|(_, taken)| taken).min();
    let mib = slots.filter_map(|(slots, taken)| slots.mib(taken)).min();
    let value = |number: String| OsString::from(number);
    vec![
        ("GPULOCK_SLOTS".to_owned(), taken.map(|taken| value(taken.to_string()))),
        ("GPULOCK_VRAM_MIB".to_owned(), mib.map(|mib| value(mib.to_string()))),
    ]
}

/// The locks as the user named them: the index is the position, from 0.
fn named(keys: &[Text], locks: &[Lock]) -> Vec<Item> {
    let item = |lock: &Lock| Item {
        index: keys.iter().position(|key| *key == lock.key).unwrap_or_default(),
        key: lock.key.0.clone(),
        name: lock.key.0.rsplit(|byte| *byte == b':').next().unwrap_or_default().to_vec(),
    };
    locks.iter().map(item).collect()
}

fn item(card: &Card) -> Item {
    Item {
        index: usize::try_from(card.gpu.index).unwrap_or(usize::MAX),
        key: card.key.0.clone(),
        name: card.gpu.device().into_bytes(),
    }
}

fn set(name: &str, value: impl Into<OsString>) -> Variable {
    (name.to_owned(), Some(value.into()))
}
