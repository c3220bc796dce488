//! The slots of a GPU in lists of locks: `gpulock run --pool NAME/N` has one lock for each slot,
//! and a user looks for the GPU. The slots are recognized by their keys, such as
//! `{gpus:78843640f115}:GPU-5a1c:3`.

use std::collections::HashMap;

use crate::gpus::Gpu;
use crate::locks::SLOTS;
use crate::replies::Listed;
use crate::text::Text;

/// A lock, or a GPU with the locks of its slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry<T> {
    Lock(T),
    /// The key without the slot, and the slots by number.
    Card(Text, Vec<(u16, T)>),
}

/// The key of the GPU and the number of the slot, if this is the key of a slot.
pub(crate) fn slot(key: &Text) -> Option<(Text, u16)> {
    let key = str::from_utf8(&key.0).ok()?;
    let (tag, rest) = key.strip_prefix('{')?.split_once("}:")?;
    let (gpu, number) = rest.rsplit_once(':')?;
    let slot: u16 = number.parse().ok().filter(|slot| slot < SLOTS.end())?;
    // As `gpulock run` writes it: not 07, nor +7.
    let is_exact = slot.to_string() == number;
    let is_slot = is_exact && tag.contains(':') && Gpu::is_id(gpu);
    is_slot.then(|| {
        let card = key.len() - number.len() - 1;
        (Text(key.as_bytes().get(..card).unwrap_or_default().to_vec()), slot)
    })
}

/// Puts the slots of each GPU together, at the place of the first of them.
pub(crate) fn by_card<T>(
    locks: impl IntoIterator<Item = T>,
    key: impl Fn(&T) -> &Text,
) -> Vec<Entry<T>> {
    let mut entries: Vec<Entry<T>> = Vec::new();
    let mut places = HashMap::new();
    for lock in locks {
        let Some((card, number)) = slot(key(&lock)) else {
            entries.push(Entry::Lock(lock));
            continue;
        };
        let place = *places.entry(card.clone()).or_insert_with(|| {
            entries.push(Entry::Card(card, Vec::new()));
            entries.len() - 1
        });
        if let Some(Entry::Card(_, slots)) = entries.get_mut(place) {
            slots.push((number, lock));
        }
    }
    for entry in &mut entries {
        if let Entry::Card(_, slots) = entry {
            slots.sort_by_key(|(number, _)| *number);
        }
    }
    entries
}

/// The locks with a single one for each GPU: its key has the number of slots that are held, its
/// owner the holders with the number of their slots.
pub(crate) fn merged(locks: Vec<Listed>) -> Vec<Listed> {
    let entries = by_card(locks, |lock| &lock.key);
    let merge = |entry| match entry {
        Entry::Lock(lock) => lock,
        Entry::Card(key, slots) => {
            let slots: Vec<&Listed> = slots.iter().map(|(_, slot)| slot).collect();
            merge(&key, &slots)
        }
    };
    entries.into_iter().map(merge).collect()
}

/// A client that waits for any slot waits for each of them, and is counted once.
fn merge(key: &Text, slots: &[&Listed]) -> Listed {
    let held = slots.iter().filter(|slot| slot.is_held());
    let mut tokens = held.clone().map(|slot| slot.token);
    let only = tokens.next().filter(|_| tokens.next().is_none()).flatten();
    let shown = [&*key.0, format!(" ({})", count(held.count())).as_bytes()].concat();
    Listed {
        key: Text(shown),
        owner: holders(slots),
        token: only,
        lease_ms: slots.iter().filter_map(|slot| slot.lease_ms).min(),
        held_ms: slots.iter().filter_map(|slot| slot.held_ms).max(),
        waiting: slots.iter().map(|slot| slot.waiting).max().unwrap_or_default(),
        revoked_ms: slots.iter().filter_map(|slot| slot.revoked_ms).min(),
    }
}

/// A number of slots.
pub(crate) fn count(slots: usize) -> String {
    let plural = if slots == 1 { "" } else { "s" };
    format!("{slots} slot{plural}")
}

/// The holders, in the order of their slots; with the number of slots if they are several.
fn holders(slots: &[&Listed]) -> Option<Text> {
    let mut holders: Vec<(&Text, usize)> = Vec::new();
    for owner in slots.iter().filter_map(|slot| slot.owner.as_ref()) {
        match holders.iter_mut().find(|(holder, _)| *holder == owner) {
            Some((_, slots)) => *slots += 1,
            None => holders.push((owner, 1)),
        }
    }
    match &holders[..] {
        [] => None,
        [(only, _)] => Some((*only).clone()),
        several => {
            let holder = |(owner, slots): &(&Text, usize)| {
                [&*owner.0, format!(" ({slots})").as_bytes()].concat()
            };
            let holders: Vec<Vec<u8>> = several.iter().map(holder).collect();
            Some(Text(holders.join(&b", "[..])))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(
        key: &str,
        owner: Option<&str>,
        lease: Option<i64>,
        waiting: u64,
    ) -> Listed {
        Listed {
            key: Text(key.into()),
            owner: owner.map(|owner| Text(owner.into())),
            token: owner.map(|_| 7),
            lease_ms: lease,
            held_ms: lease.and_then(|lease| u64::try_from(lease).ok()),
            waiting,
            revoked_ms: None,
        }
    }

    #[test]
    fn the_keys_of_slots_are_recognized() {
        #[rustfmt::skip]
        let cases = [
            ("{gpus:h}:GPU-5a1c:0",         Some(("{gpus:h}:GPU-5a1c", 0))),
            ("{gpus:h}:MIG-77aa:63",        Some(("{gpus:h}:MIG-77aa", 63))),
            ("{a:b:h}:gpu:1:2",             Some(("{a:b:h}:gpu:1", 2))),
            ("{gpus:h}:gpu:1:mig:0:2",      Some(("{gpus:h}:gpu:1:mig:0", 2))),
            ("{gpus:h}:GPU-5a1c",           None),
            ("{gpus:h}:gpu:1",              None),
            ("{gpus:h}:gpu:1:mig:0",        None),
            ("{gpus:h}:GPU-5a1c:64",        None),
            ("{gpus:h}:GPU-5a1c:07",        None),
            ("{gpus:h}:GPU-5a1c:+7",        None),
            ("{node7}:gpu:1:2",             None),
            ("{gpus:h}:cpu:1:2",            None),
            ("GPU-5a1c:2",                  None),
            ("{",                           None),
            ("",                            None),
        ];
        for (key, expected) in cases {
            let expected = expected.map(|(card, number)| (Text(card.into()), number));
            assert_eq!(slot(&Text(key.into())), expected, "{key}");
        }
        assert_eq!(slot(&Text(b"{p:h}:GPU-\xff:1".to_vec())), None);
    }

    #[test]
    fn a_card_is_at_the_place_of_its_first_slot() {
        let keys = ["a", "{p:h}:GPU-b:1", "c", "{p:h}:GPU-b:0", "{p:h}:GPU-d:0"];
        let keys = keys.map(|key| Text(key.into()));
        let shown: Vec<String> = by_card(&keys, |key| key)
            .iter()
            .map(|entry| match entry {
                Entry::Lock(key) => key.to_string(),
                Entry::Card(key, slots) => {
                    let numbers: Vec<u16> = slots.iter().map(|(slot, _)| *slot).collect();
                    format!("{key} {numbers:?}")
                }
            })
            .collect();
        assert_eq!(shown, ["a", "{p:h}:GPU-b [0, 1]", "c", "{p:h}:GPU-d [0]"]);
    }

    #[test]
    fn a_card_shows_its_holders_and_each_waiter_once() {
        let merged = merged(vec![
            listed("{p:h}:GPU-b:0", Some("asr"), Some(500), 2),
            listed("{p:h}:GPU-b:1", Some("tts"), Some(300), 3),
            listed("{p:h}:GPU-b:2", Some("asr"), Some(400), 2),
            listed("{p:h}:GPU-b:3", None, None, 3),
            listed("{p:h}:GPU-c:5", Some("llm"), Some(-1), 0),
            listed("{p:h}:GPU-d:0", None, None, 1),
        ]);
        let row = |lock: &Listed| {
            let owner = lock.owner.as_ref().map(ToString::to_string);
            (
                lock.key.to_string(),
                owner,
                lock.token,
                lock.lease_ms,
                lock.held_ms,
                lock.waiting,
            )
        };
        let owner = |owner: &str| Some(owner.to_owned());
        let key = |key: &str| key.to_owned();
        #[rustfmt::skip]
        let expected = [
            (key("{p:h}:GPU-b (3 slots)"), owner("asr (2), tts (1)"), None, Some(300), Some(500), 3),
            (key("{p:h}:GPU-c (1 slot)"), owner("llm"), Some(7), Some(-1), None, 0),
            (key("{p:h}:GPU-d (0 slots)"), None, None, None, None, 1),
        ];
        assert_eq!(merged.iter().map(row).collect::<Vec<_>>(), expected);
    }
}
