//! The groups of a waiter with GROUPS: what each group lacks, and which groups are being collected.
//! How they are chosen is in `rules/groups`.

use std::collections::BTreeSet;
use std::ops::Range;

use smallvec::SmallVec;

use crate::request::Groups;

/// The groups of a waiter. Their locks are consecutive in its list of locks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockGroups {
    /// The number of groups that it wants.
    pub wanted: usize,
    /// The number of locks that it wants of each of them.
    pub count: usize,
    /// The groups, the preferred one first.
    pub groups: SmallVec<[LockGroup; 4]>,
    /// What its owner holds may have changed since it was counted.
    pub(crate) must_recount: bool,
    /// The most locks that a group lacks of those that are being collected. Whenever it changes, the
    /// groups are chosen anew.
    most_lacking: usize,
}

/// A group of locks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockGroup {
    /// Where its locks are in the waiter's list.
    pub locks: Range<usize>,
    /// The number of its locks that are free for the waiter.
    pub free: usize,
    /// The number of its locks that the UNIQUE owner of the waiter holds.
    pub held: usize,
    /// Whether its locks are reserved for the waiter.
    pub collected: Collected,
}

/// Whether the locks of a group are reserved for a waiter as they become free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Collected {
    /// They are not.
    #[default]
    No,
    /// All are, because some are lacking.
    Lacking,
    /// As many as the waiter wants are, and no more.
    Complete,
}

impl LockGroups {
    /// The groups of a call for `count` locks of each group. Nothing is counted yet.
    pub(crate) fn new(groups: &Groups, count: usize) -> Self {
        let group =
            |locks| LockGroup { locks, free: 0, held: 0, collected: Collected::No };
        let wanted = groups.wanted;
        let groups = groups.ranges().map(group).collect();
        Self { wanted, count, groups, must_recount: true, most_lacking: 0 }
    }

    /// The same groups, with nothing counted yet.
    pub(crate) fn reset(&mut self) {
        for group in &mut self.groups {
            (group.free, group.held, group.collected) = (0, 0, Collected::No);
        }
        (self.must_recount, self.most_lacking) = (true, 0);
    }

    /// The number of the group of a lock, by its place in the waiter's list.
    pub(crate) fn group_of(&self, place: usize) -> usize {
        self.groups.partition_point(|group| group.locks.end <= place)
    }

    /// Whether two calls ask for the same groups.
    pub(crate) fn asks_for_same(&self, other: &Self) -> bool {
        let locks = |group: &LockGroup| group.locks.clone();
        (self.wanted, self.count) == (other.wanted, other.count)
            && self.groups.iter().map(locks).eq(other.groups.iter().map(locks))
    }

    /// Whether all groups that are being collected are complete.
    pub(crate) fn are_complete(&self) -> bool {
        let complete =
            self.groups.iter().filter(|it| it.collected == Collected::Complete);
        complete.count() >= self.wanted
    }

    /// Whether what a group has may change which groups are collected, and which of its locks.
    pub(crate) fn must_choose(&self, group: usize) -> bool {
        let Some(group) = self.groups.get(group) else { return false };
        group.collected != Collected::No
            || group.lacks(self.count).is_some_and(|lacks| lacks < self.most_lacking)
    }

    /// The groups to collect were chosen anew.
    pub(crate) fn chosen(&mut self) {
        let collected = self.groups.iter().filter(|it| it.collected != Collected::No);
        let lacks = collected.filter_map(|it| it.lacks(self.count));
        self.most_lacking = lacks.max().unwrap_or(0);
    }

    /// The groups to collect: those that lack the fewest locks. Among equals those that are being
    /// collected come first, then those of which the owner holds a lock, then the first named.
    pub(crate) fn to_collect(&self) -> BTreeSet<usize> {
        let rank = |(number, group): (usize, &LockGroup)| {
            let is_new = group.collected == Collected::No;
            Some((group.lacks(self.count)?, is_new, group.held == 0, number))
        };
        let mut ranked: Vec<_> =
            self.groups.iter().enumerate().filter_map(rank).collect();
        ranked.sort_unstable();
        ranked.truncate(self.wanted);
        ranked.into_iter().map(|(_, _, _, number)| number).collect()
    }
}

impl LockGroup {
    /// The number of locks that must still become free; none if the group is too small.
    pub(crate) fn lacks(&self, count: usize) -> Option<usize> {
        let has = self.held.saturating_add(self.free);
        (self.locks.len() >= count).then(|| count.saturating_sub(has))
    }
}
