//! The lists of devices in the environment, such as `CUDA_VISIBLE_DEVICES`, as CUDA and ROCm read
//! them: indices, UUIDs, and beginnings of UUIDs that only one device has. An entry that names no
//! device ends the list.

use std::collections::BTreeSet;

use anyhow::{Result, anyhow};

use super::device::{Device, Devices};
use super::names;
use crate::fit::shortened;
use crate::text::Text;

/// The value of a variable that names devices.
#[derive(Clone, Debug)]
pub(super) struct VisibleDevices {
    pub(super) variable: &'static str,
    pub(super) value: String,
    pub(super) on_repetition: OnRepetition,
}

/// What an entry does that names a device again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnRepetition {
    /// It ends the list, as with ROCm.
    End,
    /// No device is visible at all, as with CUDA.
    Clear,
}

/// Why an entry ends the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Invalid {
    Unknown(String),
    Ambiguous(String),
    Repeated(String),
}

impl VisibleDevices {
    /// The devices that the list names, in its order, and if an entry is invalid, a message
    /// about that.
    ///
    /// # Errors
    /// If it names none.
    pub(super) fn choose(&self, from: &Devices) -> Result<(Vec<Device>, Option<String>)> {
        let (chosen, invalid) = self.evaluate(from);
        let (variable, value) = (self.variable, shown(&self.value));
        if chosen.is_empty() {
            return Err(match (self.value.trim(), invalid) {
                ("", _) => anyhow!("{variable} is empty, which allows no GPU"),
                ("-1" | "NoDevFiles", _) | (_, None) => {
                    anyhow!("{variable}={value} allows no GPU")
                }
                (_, Some(why)) => {
                    anyhow!("{variable}={value} allows no GPU: {}", why.message(from))
                }
            });
        }
        let note = invalid.filter(|invalid| !invalid.is_end_mark()).map(|why| {
            let why = why.message(from);
            format!("{variable}={value}: {why}; this entry ends the list")
        });
        Ok((chosen, note))
    }

    fn evaluate(&self, from: &Devices) -> (Vec<Device>, Option<Invalid>) {
        let mut chosen: Vec<Device> = Vec::new();
        for entry in self.value.split(',').map(str::trim) {
            let named = match from.named(entry) {
                Ok(named) => named,
                Err(invalid) => return (chosen, Some(invalid)),
            };
            if named.iter().any(|device| chosen.contains(device)) {
                if self.on_repetition == OnRepetition::Clear {
                    chosen.clear();
                }
                return (chosen, Some(Invalid::Repeated(entry.to_owned())));
            }
            chosen.extend(named);
        }
        (chosen, None)
    }
}

impl Devices {
    /// The devices that an entry names: several for a GPU in MIG mode, none for a GPU that has
    /// failed.
    pub(super) fn named(&self, entry: &str) -> Result<Vec<Device>, Invalid> {
        if let Ok(number) = entry.parse::<u32>() {
            return match number < self.count {
                true => Ok(self.filtered(|device| device.number == number)),
                false => Err(Invalid::Unknown(entry.to_owned())),
            };
        }
        let uuids: BTreeSet<&str> = self.all.iter().flat_map(Device::uuids).collect();
        let is_exact = |uuid: &&&str| uuid.eq_ignore_ascii_case(entry);
        let begins = |uuid: &&&str| {
            uuid.get(..entry.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(entry))
        };
        let exact: Vec<&&str> = uuids.iter().filter(is_exact).collect();
        let matching = match exact.is_empty() && !entry.is_empty() {
            true => uuids.iter().filter(begins).collect(),
            false => exact,
        };
        match matching[..] {
            [] => Err(Invalid::Unknown(entry.to_owned())),
            [uuid] => {
                Ok(self.filtered(|device| device.uuids().any(|other| other == *uuid)))
            }
            _ => Err(Invalid::Ambiguous(entry.to_owned())),
        }
    }

    fn filtered(&self, is_named: impl Fn(&Device) -> bool) -> Vec<Device> {
        self.all.iter().filter(|device| is_named(device)).cloned().collect()
    }
}

impl Invalid {
    /// Whether the entry was probably written to end the list.
    fn is_end_mark(&self) -> bool {
        matches!(self, Self::Unknown(entry) if entry.is_empty() || entry == "-1")
    }

    fn message(&self, devices: &Devices) -> String {
        let names = names(devices.all.iter().map(|device| &device.gpu));
        match self {
            Self::Unknown(entry) => format!("\"{}\" is none of {names}", shown(entry)),
            Self::Ambiguous(entry) => {
                format!("\"{}\" is more than one of {names}", shown(entry))
            }
            Self::Repeated(entry) => format!("\"{}\" repeats a GPU", shown(entry)),
        }
    }
}

/// A value in a message: escaped, and not too long.
pub(super) fn shown(value: &str) -> String {
    const MAX: usize = 200;
    shortened(&Text(value.into()).to_string(), MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpus::device::tests::host;

    fn chosen(value: &str) -> Result<String, String> {
        let list = VisibleDevices {
            variable: "CUDA_VISIBLE_DEVICES",
            value: value.to_owned(),
            on_repetition: OnRepetition::Clear,
        };
        let (chosen, note) = list.choose(&host()).map_err(|error| error.to_string())?;
        let mut names: Vec<String> =
            chosen.iter().map(|device| device.gpu.device()).collect();
        names.extend(note);
        Ok(names.join(" "))
    }

    #[test]
    fn entries_are_indices_uuids_or_beginnings_of_uuids() {
        for (value, expected) in [
            ("0", "GPU-a1"),
            (" 3 , GPU-a1", "3 GPU-a1"),
            ("GPU-a", "GPU-a1"),
            ("gpu-A1", "GPU-a1"),
            ("1", "MIG-b1 MIG-b12"),
            ("GPU-b", "MIG-b1 MIG-b12"),
            ("MIG-b1", "MIG-b1"),
            ("MIG-b12,0", "MIG-b12 GPU-a1"),
            ("2,3", "3"),
        ] {
            assert_eq!(chosen(value), Ok(expected.to_owned()), "{value}");
        }
    }

    #[test]
    fn an_invalid_entry_ends_the_list() {
        let all = "0 (GPU-a1), 1 (MIG-b1), 1 (MIG-b12), 3";
        assert_eq!(chosen("0,-1,3"), Ok("GPU-a1".to_owned()));
        assert_eq!(chosen("0,"), Ok("GPU-a1".to_owned()));
        let note = format!(
            "3 CUDA_VISIBLE_DEVICES=3,9,0: \"9\" is none of {all}; this entry ends the list"
        );
        assert_eq!(chosen("3,9,0"), Ok(note));
        let note = format!(
            "3 CUDA_VISIBLE_DEVICES=3,MIG-: \"MIG-\" is more than one of {all}; this entry ends \
             the list"
        );
        assert_eq!(chosen("3,MIG-"), Ok(note));
    }

    #[test]
    fn a_list_without_a_gpu_is_an_error() {
        let all = "0 (GPU-a1), 1 (MIG-b1), 1 (MIG-b12), 3";
        for (value, error) in [
            ("", " is empty, which allows no GPU".to_owned()),
            ("-1", "=-1 allows no GPU".to_owned()),
            ("2", "=2 allows no GPU".to_owned()),
            ("4,0", format!("=4,0 allows no GPU: \"4\" is none of {all}")),
            ("GPU-x", format!("=GPU-x allows no GPU: \"GPU-x\" is none of {all}")),
            ("GPU-", format!("=GPU- allows no GPU: \"GPU-\" is more than one of {all}")),
            (
                "\x1b[1m\n",
                r#"=\u{1b}[1m\n allows no GPU: "\u{1b}[1m" is none of "#.to_owned() + all,
            ),
            ("0,GPU-a", "=0,GPU-a allows no GPU: \"GPU-a\" repeats a GPU".to_owned()),
        ] {
            assert_eq!(chosen(value), Err(format!("CUDA_VISIBLE_DEVICES{error}")));
        }
    }

    #[test]
    fn with_rocm_a_repetition_only_ends_the_list() -> Result<()> {
        let list = VisibleDevices {
            variable: "ROCR_VISIBLE_DEVICES",
            value: "3,3,0".to_owned(),
            on_repetition: OnRepetition::End,
        };
        let (chosen, _) = list.choose(&host())?;
        assert_eq!(chosen.iter().map(|one| one.number).collect::<Vec<_>>(), [3]);
        Ok(())
    }
}
