//! The options that name the locks to acquire, and what the command learns about them.

use std::ffi::OsString;

use bytesize::ByteSize;
use clap::error::ErrorKind;

use super::card::Part;
use super::pool::{Pool, PoolOptions};
use super::pool_name::{PoolName, pool_name};
use super::targets::Targets;
use super::templates::{Template, template};
use super::variables::{Variables, VisibleAs};
use crate::gpus::Selection;
use crate::text::not_empty;

/// Which locks to acquire, and how many.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("locks").required(true))]
pub(crate) struct LockOptions {
    /// Lock to acquire
    #[arg(long, value_name = "KEY", group = "locks", value_parser = not_empty())]
    pub(crate) key: Option<OsString>,
    /// Comma-separated locks to choose from, in order of preference
    #[arg(long, value_name = "KEY,…", value_delimiter = ',', group = "locks",
          value_parser = not_empty())]
    pub(crate) keys: Vec<OsString>,
    /// Choose from the GPUs of this host; with /N, each GPU is divided into N slots
    #[arg(long, value_name = "NAME[/N]", group = "locks", value_parser = pool_name)]
    pool: Option<PoolName>,
    /// Number of locks, or GPUs of the pool, to acquire
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) count: u16,
    /// Number of slots to take of each GPU [default: the whole GPU]
    #[arg(long, value_name = "N", conflicts_with_all = ["key", "keys", "vram"], value_parser = clap::value_parser!(u16).range(1..))]
    slots: Option<u16>,
    /// Take the slots of each GPU that have this much memory, such as 20GiB
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["key", "keys"], value_parser = size)]
    vram: Option<ByteSize>,
    /// Choose only from these GPUs, by index or UUID
    #[arg(long, value_name = "GPU,…", conflicts_with_all = ["key", "keys"], value_delimiter = ',')]
    only: Vec<String>,
    /// Do not choose these GPUs, by index or UUID
    #[arg(long, value_name = "GPU,…", conflicts_with_all = ["key", "keys"], value_delimiter = ',')]
    exclude: Vec<String>,
    /// Skip GPUs with less free memory than this
    #[arg(long, value_name = "MIB", conflicts_with_all = ["key", "keys"])]
    min_free_mib: Option<u64>,
    /// How CUDA_VISIBLE_DEVICES or ROCR_VISIBLE_DEVICES names the GPUs
    #[arg(long, value_name = "NAMES", conflicts_with_all = ["key", "keys"], default_value = "uuid")]
    visible_as: VisibleAs,
    /// Set a variable of the command; {index}, {key} and {name} are replaced for each lock or GPU
    #[arg(long, value_name = "NAME=TEMPLATE", value_parser = template)]
    set: Vec<Template>,
}

impl LockOptions {
    /// The locks that the user has named, if there is no pool.
    pub(crate) fn named(&self) -> Targets {
        Targets::named(self.key.as_ref().map_or(&self.keys[..], std::slice::from_ref))
    }

    /// What is asked of the pool; None for locks that the user has named. Ends the process with
    /// a usage error if the options do not fit together.
    pub(crate) fn pool(&self) -> Option<PoolOptions> {
        let name = self.pool.clone()?;
        let part = match (self.slots, self.vram) {
            (Some(slots), _) => Part::Slots(slots),
            (None, Some(size)) => Part::Memory(size),
            (None, None) => Part::Whole,
        };
        match (name.slots, part) {
            (None, Part::Slots(_) | Part::Memory(_)) => exit(&format!(
                "--slots and --vram require a divided pool, such as --pool {}/8",
                name.name
            )),
            (Some(all), Part::Slots(slots)) if slots > all => exit(&format!(
                "invalid --slots {slots}: the pool divides each GPU into {all}"
            )),
            _ => {}
        }
        let selection =
            Selection { only: self.only.clone(), exclude: self.exclude.clone() };
        Some(PoolOptions { name, part, selection, min_free_mib: self.min_free_mib })
    }

    /// Ends the process with a usage error if these locks cannot be what the options ask for.
    pub(crate) fn check(&self, targets: &Targets) {
        let problem = match targets {
            Targets::Named(keys) => self.too_few(keys.len(), "lock"),
            Targets::Pool(pool) => self.problem_of(pool),
        };
        if let Some(problem) = problem {
            exit(&problem);
        }
    }

    /// Describes the locks that are granted to the command.
    pub(crate) fn variables(&self, targets: &Targets) -> Variables {
        Variables {
            candidates: targets.candidates(),
            visible_as: self.visible_as,
            templates: self.set.clone(),
        }
    }

    fn problem_of(&self, pool: &Pool) -> Option<String> {
        const MAX_KEYS: usize = 1024;
        let cards = pool.cards().count();
        let keys: usize = pool.cards().map(|card| card.keys().len()).sum();
        let instance = pool.cards().find(|card| card.gpu.instance.is_some());
        let needs_index = self.set.iter().any(Template::has_index);
        match (pool.too_small(), instance) {
            ((1.., largest), _) if cards == 0 => Some(format!(
                "invalid --vram {}: the largest GPU has {}",
                self.vram.unwrap_or_default(),
                ByteSize::mib(largest)
            )),
            (_, Some(card)) if self.visible_as == VisibleAs::Index => Some(format!(
                "invalid --visible-as index: {} is a MIG instance, which has no index; use uuid",
                card.gpu.device()
            )),
            (_, Some(card)) if needs_index => Some(format!(
                "invalid --set: {} is a MIG instance, which has no {{index}}; use {{name}}",
                card.gpu.device()
            )),
            _ if self.visible_as == VisibleAs::Index
                && let Some(failed) = pool.failed_before_others() =>
            {
                Some(format!(
                    "invalid --visible-as index: GPU {failed} does not respond, so CUDA counts \
                     the others differently; use uuid"
                ))
            }
            _ if keys > MAX_KEYS => Some(format!(
                "invalid --pool: {cards} GPUs have {keys} slots, at most {MAX_KEYS} are possible"
            )),
            ((1.., _), _) => self.too_few(cards, "large enough GPU"),
            _ => self.too_few(cards, "GPU"),
        }
    }

    fn too_few(&self, available: usize, what: &str) -> Option<String> {
        let plural = if available == 1 { "" } else { "s" };
        let count = self.count;
        (usize::from(count) > available).then(|| {
            format!(
                "invalid --count {count}: only {available} {what}{plural} to choose from"
            )
        })
    }
}

/// A size with its unit. A plain number is refused: it is as likely meant as GiB as it is as
/// bytes.
fn size(text: &str) -> Result<ByteSize, String> {
    let is_number = text.parse::<f64>().is_ok();
    let size = text.parse().ok().filter(|size| !is_number && *size > ByteSize(0));
    size.ok_or_else(|| {
        "expected a size with its unit, such as 20GiB or 512MiB".to_owned()
    })
}

/// Ends the process with a usage error.
fn exit(problem: &str) -> ! {
    clap::Error::raw(ErrorKind::ValueValidation, format!("{problem}\n")).exit()
}
