//! The rows of the table: locks extrapolated from the last snapshot to now, filtered and sorted.
//! The slots of a GPU are one row, which can be expanded.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::cards::{self, Entry};
use crate::clock;
use crate::replies::Listed;
use crate::text::Text;

/// A lock or a GPU in the table.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) kind: Kind,
    pub(crate) key: Text,
    pub(crate) owner: Option<Text>,
    pub(crate) token: Option<u64>,
    pub(crate) held_ms: Option<u64>,
    pub(crate) lease_ms: Option<i64>,
    /// The remaining lease as a fraction of the longest value seen: 0 to 1.
    pub(crate) lease_share: Option<f64>,
    pub(crate) waiting: u64,
}

/// What a row shows.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Lock,
    /// A slot below its GPU.
    Slot(u16),
    /// A GPU with its slots.
    Card {
        slots: Vec<Row>,
        is_expanded: bool,
    },
}

/// Identifies a row. A GPU has a lock of the same name if a pool is also used without slots.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum RowId {
    Lock(Text),
    Card(Text),
}

/// The sort order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sorting {
    #[default]
    Waiting,
    Held,
    Lease,
    Key,
}

/// The longest remaining lease seen of each hold. The server does not report the full length of
/// a lease; a snapshot soon after a renewal comes close to it.
#[derive(Debug, Default)]
pub(crate) struct Leases(HashMap<(Text, Option<Text>, Option<u64>), i64>);

impl Row {
    /// A lock at this time after the snapshot.
    pub(crate) fn new(lock: &Listed, leases: &Leases, since: Duration) -> Self {
        let since = clock::millis(since);
        let lease_ms = lock.lease_ms.map(|left| match u64::try_from(left) {
            Ok(left) => i64::try_from(left.saturating_sub(since)).unwrap_or(i64::MAX),
            Err(_) => left,
        });
        Self {
            kind: Kind::Lock,
            key: lock.key.clone(),
            owner: lock.owner.clone(),
            token: lock.token,
            held_ms: lock.held_ms.map(|held| held.saturating_add(since)),
            lease_ms,
            lease_share: leases.share(lock, lease_ms),
            waiting: lock.waiting,
        }
    }

    /// A GPU with these slots: the longest hold, the shortest lease, and each waiter once, since
    /// a client that waits for any slot waits for each of them.
    fn card(key: Text, slots: Vec<Self>) -> Self {
        let mut owners: Vec<&Text> = slots.iter().filter_map(Self::owner).collect();
        owners.sort();
        owners.dedup();
        let owner = match &owners[..] {
            [] => None,
            [only] => Some((*only).clone()),
            several => Some(Text(format!("{} holders", several.len()).into_bytes())),
        };
        let shortest = slots.iter().filter(|slot| slot.lease_ms.is_some());
        let shortest = shortest.min_by_key(|slot| slot.lease_ms);
        Self {
            key,
            owner,
            token: None,
            held_ms: slots.iter().filter_map(|slot| slot.held_ms).max(),
            lease_ms: shortest.and_then(|slot| slot.lease_ms),
            lease_share: shortest.and_then(|slot| slot.lease_share),
            waiting: slots.iter().map(|slot| slot.waiting).max().unwrap_or_default(),
            kind: Kind::Card { slots, is_expanded: false },
        }
    }

    const fn owner(&self) -> Option<&Text> {
        self.owner.as_ref()
    }

    /// Its identity.
    pub(crate) fn id(&self) -> RowId {
        match self.kind {
            Kind::Lock | Kind::Slot(_) => RowId::Lock(self.key.clone()),
            Kind::Card { .. } => RowId::Card(self.key.clone()),
        }
    }

    /// The slots of a GPU.
    pub(crate) fn slots(&self) -> &[Self] {
        match &self.kind {
            Kind::Lock | Kind::Slot(_) => &[],
            Kind::Card { slots, .. } => slots,
        }
    }

    /// Whether the lock is held, or any slot of the GPU.
    pub(crate) const fn is_held(&self) -> bool {
        self.lease_ms.is_some()
    }

    /// Whether its key or owner, or that of one of its slots, contains this text, ignoring case.
    pub(crate) fn matches(&self, text: &str) -> bool {
        if text.is_empty() {
            return true;
        }
        let text = text.to_lowercase();
        let contains = |field: &Text| field.to_string().to_lowercase().contains(&text);
        let matches =
            |row: &Self| contains(&row.key) || row.owner().is_some_and(contains);
        matches(self) || self.slots().iter().any(matches)
    }
}

/// Puts the slots of each GPU into one row.
pub(crate) fn by_card(rows: Vec<Row>) -> Vec<Row> {
    let slot = |(number, row)| Row { kind: Kind::Slot(number), ..row };
    let row = |entry| match entry {
        Entry::Lock(row) => row,
        Entry::Card(key, slots) => Row::card(key, slots.into_iter().map(slot).collect()),
    };
    cards::by_card(rows, |row| &row.key).into_iter().map(row).collect()
}

/// Adds the slots of the expanded GPUs, each below its GPU.
pub(crate) fn expanded(rows: Vec<Row>, cards: &HashSet<Text>) -> Vec<Row> {
    let mut all = Vec::with_capacity(rows.len());
    for mut row in rows {
        let mut below = Vec::new();
        if let Kind::Card { slots, is_expanded } = &mut row.kind
            && cards.contains(&row.key)
        {
            *is_expanded = true;
            below.clone_from(slots);
        }
        all.push(row);
        all.append(&mut below);
    }
    all
}

impl Sorting {
    /// The next order; the first follows the last.
    pub(crate) const fn next(self) -> Self {
        match self {
            Self::Waiting => Self::Held,
            Self::Held => Self::Lease,
            Self::Lease => Self::Key,
            Self::Key => Self::Waiting,
        }
    }

    /// Its name on the screen.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "most waiting first",
            Self::Held => "longest held first",
            Self::Lease => "shortest lease first",
            Self::Key => "by key",
        }
    }

    /// Sorts the rows. Equal ones are in key order; unknown values come last.
    pub(crate) fn sort(self, rows: &mut [Row]) {
        let held = |row: &Row| Reverse(row.held_ms);
        let lease = |row: &Row| row.lease_ms.and_then(|left| u64::try_from(left).ok());
        rows.sort_by(|a, b| a.key.cmp(&b.key));
        match self {
            Self::Waiting => rows.sort_by_key(|row| (Reverse(row.waiting), held(row))),
            Self::Held => rows.sort_by_key(held),
            Self::Lease => {
                rows.sort_by_key(|row| (lease(row).is_none(), lease(row)));
            }
            Self::Key => {}
        }
    }
}

impl Leases {
    /// Updates the leases from a snapshot, and forgets holds that have ended.
    pub(crate) fn update(&mut self, locks: &[Listed]) {
        let before = std::mem::take(&mut self.0);
        let longest = |lock: &Listed| {
            let hold = hold_id(lock);
            let left = lock.lease_ms.filter(|left| *left > 0)?;
            let longest = before.get(&hold).copied().unwrap_or_default().max(left);
            Some((hold, longest))
        };
        self.0 = locks.iter().filter_map(longest).collect();
    }

    fn share(&self, lock: &Listed, left: Option<i64>) -> Option<f64> {
        let longest = *self.0.get(&hold_id(lock))?;
        let left = left.filter(|left| *left >= 0)?;
        Some((left as f64 / longest as f64).clamp(0.0, 1.0))
    }
}

fn hold_id(lock: &Listed) -> (Text, Option<Text>, Option<u64>) {
    (lock.key.clone(), lock.owner.clone(), lock.token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(key: &str, held: Option<u64>, lease: Option<i64>, waiting: u64) -> Listed {
        Listed {
            key: Text(key.into()),
            owner: Some(Text(b"Train-7f3a".to_vec())),
            token: Some(7),
            lease_ms: lease,
            held_ms: held,
            waiting,
            revoked_ms: None,
        }
    }

    fn sorted(sorting: Sorting) -> Vec<String> {
        let locks = [
            lock("b", Some(10), Some(900), 0),
            lock("a", Some(10), Some(-1), 0),
            lock("adopted", None, Some(500), 3),
            lock("free", None, None, 3),
            lock("old", Some(99), Some(700), 1),
        ];
        let leases = Leases::default();
        let row = |lock| Row::new(lock, &leases, Duration::ZERO);
        let mut rows: Vec<Row> = locks.iter().map(row).collect();
        sorting.sort(&mut rows);
        rows.iter().map(|row| row.key.to_string()).collect()
    }

    #[test]
    fn each_order_sorts_as_named() {
        assert_eq!(sorted(Sorting::Waiting), ["adopted", "free", "old", "a", "b"]);
        assert_eq!(sorted(Sorting::Held), ["old", "a", "b", "adopted", "free"]);
        assert_eq!(sorted(Sorting::Lease), ["adopted", "old", "b", "a", "free"]);
        assert_eq!(sorted(Sorting::Key), ["a", "adopted", "b", "free", "old"]);
    }

    #[test]
    fn the_slots_of_a_gpu_are_one_row_until_it_is_expanded() {
        let leases = Leases::default();
        let slot = |number, owner: &str, held, lease, waiting| {
            let key = format!("{{p:h}}:GPU-a:{number}");
            let lock = lock(&key, Some(held), Some(lease), waiting);
            let owner = Some(Text(owner.into()));
            Row::new(&Listed { owner, ..lock }, &leases, Duration::ZERO)
        };
        let other = Row::new(&lock("b", Some(1), None, 0), &leases, Duration::ZERO);
        let rows = by_card(vec![
            slot(2, "tts", 10, 900, 1),
            other,
            slot(0, "asr", 20, 700, 2),
            slot(1, "asr", 15, 800, 2),
        ]);
        let keys = |rows: &[Row]| {
            rows.iter().map(|row| row.key.to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(keys(&rows), "{p:h}:GPU-a b");
        let card = &rows[0];
        assert_eq!(card.owner().unwrap().to_string(), "2 holders");
        assert_eq!((card.held_ms, card.lease_ms, card.waiting), (Some(20), Some(700), 2));
        for text in ["gpu-a", "GPU-a:2", "tts"] {
            assert!(card.matches(text), "{text}");
        }
        assert!(!card.matches("llm"));
        let all = expanded(rows, &HashSet::from([Text(b"{p:h}:GPU-a".to_vec())]));
        let slots = "{p:h}:GPU-a:0 {p:h}:GPU-a:1 {p:h}:GPU-a:2";
        assert_eq!(keys(&all), format!("{{p:h}}:GPU-a {slots} b"));
    }

    #[test]
    fn next_cycles_through_all_orders() {
        let mut sorting = Sorting::default();
        let mut names = Vec::new();
        for _ in 0..4 {
            names.push(sorting.name());
            sorting = sorting.next();
        }
        names.dedup();
        assert_eq!(names.len(), 4);
        assert_eq!(sorting, Sorting::default());
    }

    #[test]
    fn a_row_is_extrapolated_from_the_snapshot() {
        let leases = Leases::default();
        let later = |lock: &Listed| Row::new(lock, &leases, Duration::from_millis(400));
        let row = later(&lock("k", Some(100), Some(1_000), 0));
        assert_eq!((row.held_ms, row.lease_ms), (Some(500), Some(600)));
        let row = later(&lock("k", None, Some(300), 0));
        assert_eq!((row.held_ms, row.lease_ms), (None, Some(0)));
        let row = later(&lock("k", None, Some(-1), 0));
        assert_eq!((row.held_ms, row.lease_ms), (None, Some(-1)));
    }

    #[test]
    fn a_lease_is_shown_relative_to_the_longest_value_seen() {
        let mut leases = Leases::default();
        let share = |leases: &Leases, left, token| {
            let lock = Listed { token: Some(token), ..lock("k", None, Some(left), 0) };
            Row::new(&lock, leases, Duration::ZERO).lease_share
        };
        leases.update(&[lock("k", None, Some(500), 0)]);
        assert_eq!(share(&leases, 500, 7), Some(1.0));
        // Renewed: the full lease is longer than first seen.
        leases.update(&[lock("k", None, Some(1_000), 0)]);
        leases.update(&[lock("k", None, Some(250), 0)]);
        assert_eq!(share(&leases, 250, 7), Some(0.25));
        assert_eq!(share(&leases, 250, 8), None, "another hold");
        assert_eq!(share(&leases, -1, 7), None, "no TTL");
    }

    #[test]
    fn the_filter_matches_key_and_owner_ignoring_case() {
        let leases = Leases::default();
        let row =
            Row::new(&lock("{node7}:GPU:0", None, None, 0), &leases, Duration::ZERO);
        for text in ["", "gpu:0", "NODE7", "train", "7F3A"] {
            assert!(row.matches(text), "{text}");
        }
        assert!(!row.matches("gpu:1"));
    }
}
