//! The GPUs that the user selects (`--only`, `--exclude`).

use anyhow::{Result, bail, ensure};

use super::{Gpu, names};

/// GPUs by index, UUID, or beginning of a UUID that only one GPU has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    /// If it is not empty, only these GPUs.
    pub(crate) only: Vec<String>,
    /// All GPUs but these.
    pub(crate) exclude: Vec<String>,
}

impl Selection {
    /// The selected GPUs, in their order.
    ///
    /// # Errors
    /// If an entry names no GPU, or more than one, or if no GPU is left.
    pub(crate) fn apply(&self, gpus: Vec<Gpu>) -> Result<Vec<Gpu>> {
        let only = named(&self.only, "--only", &gpus)?;
        let exclude = named(&self.exclude, "--exclude", &gpus)?;
        let is_selected = |gpu: &Gpu| {
            (self.only.is_empty() || only.contains(gpu)) && !exclude.contains(gpu)
        };
        let selected: Vec<Gpu> = gpus.into_iter().filter(is_selected).collect();
        ensure!(!selected.is_empty(), "--only and --exclude leave no GPU to choose from");
        Ok(selected)
    }
}

/// The GPUs that the entries of an option name.
fn named(entries: &[String], option: &str, gpus: &[Gpu]) -> Result<Vec<Gpu>> {
    let mut all = Vec::new();
    for entry in entries {
        let named = matching(entry, gpus);
        ensure!(
            !named.is_empty(),
            "invalid {option} {entry:?}: expected one of {}",
            names(gpus)
        );
        // The index of a GPU in MIG mode names all its instances.
        if named.len() > 1 && entry.parse::<u32>().is_err() {
            let named: Vec<Gpu> = named.into_iter().cloned().collect();
            bail!("invalid {option} {entry:?}: it names {}", names(&named));
        }
        all.extend(named.into_iter().cloned());
    }
    Ok(all)
}

fn matching<'a>(entry: &str, gpus: &'a [Gpu]) -> Vec<&'a Gpu> {
    if let Ok(index) = entry.parse::<u32>() {
        return gpus.iter().filter(|gpu| gpu.index == index).collect();
    }
    let has_uuid = |uuid: &str| gpus.iter().find(|gpu| gpu.uuid.as_deref() == Some(uuid));
    if let Some(exact) = has_uuid(entry) {
        return vec![exact];
    }
    let begins =
        |gpu: &&Gpu| gpu.uuid.as_ref().is_some_and(|uuid| uuid.starts_with(entry));
    gpus.iter().filter(|_| !entry.is_empty()).filter(begins).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpus::Vendor;

    fn gpu(index: u32, instance: Option<u32>, uuid: Option<&str>) -> Gpu {
        Gpu { vendor: Vendor::Nvidia, index, instance, uuid: uuid.map(str::to_owned) }
    }

    fn host() -> Vec<Gpu> {
        vec![
            gpu(0, None, Some("GPU-a1")),
            gpu(1, Some(0), Some("MIG-b1")),
            gpu(1, Some(1), Some("MIG-b12")),
            gpu(2, None, None),
        ]
    }

    fn selected(only: &[&str], exclude: &[&str]) -> Result<String, String> {
        let owned =
            |entries: &[&str]| entries.iter().map(|&entry| entry.to_owned()).collect();
        let selection = Selection { only: owned(only), exclude: owned(exclude) };
        let gpus = selection.apply(host()).map_err(|error| error.to_string())?;
        Ok(gpus.iter().map(Gpu::device).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn gpus_are_selected_by_index_uuid_or_prefix_in_their_own_order() {
        assert_eq!(selected(&[], &[]), Ok("GPU-a1 MIG-b1 MIG-b12 2".to_owned()));
        assert_eq!(selected(&["2", "GPU-a1"], &[]), Ok("GPU-a1 2".to_owned()));
        assert_eq!(selected(&["GPU-"], &[]), Ok("GPU-a1".to_owned()));
        assert_eq!(selected(&["1"], &["MIG-b12"]), Ok("MIG-b1".to_owned()));
        assert_eq!(selected(&[], &["1", "2"]), Ok("GPU-a1".to_owned()));
    }

    #[test]
    fn an_entry_must_name_one_gpu() {
        assert_eq!(selected(&["MIG-b1"], &[]), Ok("MIG-b1".to_owned()));
        let ambiguous = "invalid --exclude \"MIG-\": it names 1 (MIG-b1), 1 (MIG-b12)";
        assert_eq!(selected(&[], &["MIG-"]), Err(ambiguous.to_owned()));
        let all = "0 (GPU-a1), 1 (MIG-b1), 1 (MIG-b12), 2";
        for unknown in ["3", "GPU-x", "", "-1", "a1"] {
            let expected = format!("invalid --only {unknown:?}: expected one of {all}");
            assert_eq!(selected(&[unknown], &[]), Err(expected));
        }
        let none = "--only and --exclude leave no GPU to choose from";
        assert_eq!(selected(&["0"], &["GPU-a1"]), Err(none.to_owned()));
    }
}
