//! The figures in the Prometheus text format, version 0.0.4: of the server, of locks with their own
//! counters, and of all other locks together.
//!
//! The server serves no other client while a text is written, copied to the reply and sent, and
//! first touches of fresh memory cost more than all of that. So a text is limited to less than
//! a megabyte, and a walk returns all locks in portions.

use std::time::Duration;

use gpulock_core::state::arena::Id;
use gpulock_core::state::counters::Counters;
use gpulock_core::state::histogram::Histogram;
use gpulock_core::state::lock::Bytes;
use gpulock_core::{LockManager, Name};

use crate::manager::with_manager;
use crate::redis::cpu_time::CpuLimit;
use crate::report::figures::Figures;
use crate::report::prometheus::{
    HistogramNames, Labels, write_head, write_histogram, write_sample,
};

/// The maximum number of locks that are looked at for one reply.
const LOCKS_MAX: usize = 1024;

/// The approximate maximum length of the text about locks in one reply, in bytes.
const TEXT_MAX: usize = 768 * 1024;

/// The maximum CPU time for checks of what the caller may read. A check usually takes less than a
/// microsecond, but as long as the user's rules make it.
const CHECKS_MAX: Duration = Duration::from_millis(1);

/// The number of locks whose names are copied at a time.
const BATCH: usize = 64;

/// The usual length of a line without its labels, in bytes.
const LINE: usize = 48;

/// The number of lines of a lock without histograms: its counters, and two current numbers.
const LINES_MIN: usize = Counters::NAMES.len().saturating_add(2);

/// An upper bound of the length of all comments, in bytes.
const COMMENTS_MAX: usize = 16 * 1024;

/// The end of a text that shows not all locks, although it is not a portion.
const MORE: &[u8] = b"# Locks without room here count as untracked. \
    GPULOCK.METRICS CURSOR 0 returns all locks in portions.\n";

/// A histogram of some figures.
type Which = for<'a> fn(&'a Figures<'_>) -> &'a Histogram;

/// The histograms: name, description, and which one it is.
const HISTOGRAMS: [(&str, &str, Which); 2] = [
    ("wait", " Duration of waits that ended with a grant.", |figures| figures.wait_ms()),
    ("hold", " Duration of holds that ended.", |figures| figures.hold_ms()),
];

/// Where a lock is in the order of last use, and in that of a walk.
#[derive(Clone, Copy)]
struct Place {
    id: Id,
    /// See [`Table::tracked_below`](gpulock_core::state::table::Table::tracked_below).
    number: u64,
}

/// A tracked lock.
struct Tracked {
    place: Place,
    db: u32,
    key: Bytes,
}

/// A part of a walk over all tracked locks.
pub(crate) struct Portion {
    /// The text. That of the first portion includes the figures of the server and of the untracked
    /// locks.
    pub(crate) text: Vec<u8>,
    /// The cursor of the next portion; 0: this was the last one.
    pub(crate) next: u64,
}

/// The whole text in one reply: the locks that were used most recently have their own series, and
/// all others, also those that the caller may not read, count as untracked. So the locks and the
/// untracked ones add up to the server.
pub(crate) fn whole(may_read: impl Fn(Name<'_>) -> bool) -> Vec<u8> {
    let most_recent = |manager: &LockManager, last: Option<Place>| {
        let table = manager.table();
        let first = match last {
            None => table.tracked().next(),
            Some(last) => table.tracked_after(last.id),
        };
        let places = table.tracked_from(first).map(|id| Place { id, number: 0 });
        batch(manager, places)
    };
    let (chosen, last) = choose(LOCKS_MAX, most_recent, may_read);
    with_manager(|manager| {
        let (locks, omitted) = series(manager, &chosen);
        let mut rest = Figures::of_server(manager);
        locks.iter().for_each(|lock| rest.subtract(&lock.figures));
        rest.leave_out_internal_errors();
        let mut text = text(Some((Figures::of_server(manager), rest)), &locks);
        let after_last = || manager.table().tracked_after(last?.id);
        if omitted.is_some() || after_last().is_some() {
            text.extend_from_slice(MORE);
        }
        text
    })
}

/// The next portion of a walk: up to `count` locks. The first portion is at cursor 0.
pub(crate) fn portion(
    cursor: u64,
    count: usize,
    may_read: impl Fn(Name<'_>) -> bool,
) -> Portion {
    let start = if cursor == 0 { u64::MAX } else { cursor };
    let below = |manager: &LockManager, last: Option<Place>| {
        let numbered =
            manager.table().tracked_below(last.map_or(start, |last| last.number));
        batch(manager, numbered.map(|(number, id)| Place { id, number }))
    };
    let (chosen, last) = choose(count, below, may_read);
    with_manager(|manager| {
        let (locks, omitted) = series(manager, &chosen);
        let all = || (Figures::of_server(manager), Figures::of_untracked(manager));
        let text = text((cursor == 0).then(all), &locks);
        // A lock for which the text has no room is the first one of the next portion.
        let next = match omitted {
            Some(omitted) => omitted.number.saturating_add(1),
            None => last.map_or(0, |last| last.number),
        };
        let has_more = manager.table().tracked_below(next).next().is_some();
        Portion { text, next: if has_more { next } else { 0 } }
    })
}

/// The next [`BATCH`] of some locks.
fn batch(manager: &LockManager, places: impl Iterator<Item = Place>) -> Vec<Tracked> {
    let named = |place: Place| {
        let lock = manager.table().get(place.id)?;
        Some(Tracked { place, db: lock.db, key: lock.key.clone() })
    };
    places.take(BATCH).filter_map(named).collect()
}

/// Chooses up to `count` locks that the caller may read, and not many more than the text has room
/// for. `following` returns the locks after a place, or the first ones. Also returns the place of
/// the last lock looked at.
fn choose(
    count: usize,
    following: impl Fn(&LockManager, Option<Place>) -> Vec<Tracked>,
    may_read: impl Fn(Name<'_>) -> bool,
) -> (Vec<Tracked>, Option<Place>) {
    let limit = CpuLimit::start(CHECKS_MAX);
    let mut chosen = Vec::new();
    let (mut looked_at, mut text_min) = (0usize, 0usize);
    let mut last = None;
    loop {
        let batch = with_manager(|manager| following(manager, last));
        if batch.is_empty() {
            return (chosen, last);
        }
        for lock in batch {
            last = Some(lock.place);
            looked_at = looked_at.saturating_add(1);
            if may_read(Name { db: lock.db, key: &lock.key }) {
                let line = lock.key.len().saturating_add(LINE);
                text_min = text_min.saturating_add(LINES_MIN.saturating_mul(line));
                chosen.push(lock);
            }
            let is_full = chosen.len() >= count || text_min > TEXT_MAX;
            if is_full || looked_at >= LOCKS_MAX || limit.is_reached() {
                return (chosen, last);
            }
        }
    }
}

/// The figures of the server, of a lock, or of the remaining locks, and the labels of their series.
struct Series<'a> {
    labels: Labels,
    is_lock: bool,
    figures: Figures<'a>,
}

impl<'a> Series<'a> {
    fn without_labels(figures: Figures<'a>) -> Self {
        Self { labels: Labels::none(), is_lock: false, figures }
    }

    fn of_lock(lock: &Tracked, figures: Figures<'a>) -> Self {
        Self { labels: Labels::of_lock(lock.db, &lock.key), is_lock: true, figures }
    }

    /// The histogram, if it is shown. That of a lock is shown only when it has values: clients wait
    /// for few locks.
    fn histogram(&self, which: Which) -> Option<&Histogram> {
        let histogram = which(&self.figures);
        (!self.is_lock || histogram.count() > 0).then_some(histogram)
    }

    /// The approximate length of its text without comments.
    fn text_len(&self) -> usize {
        let histograms =
            HISTOGRAMS.iter().filter_map(|(_, _, which)| self.histogram(*which));
        let lines = histograms
            .map(|histogram| histogram.cumulative().count().saturating_add(2))
            .fold(self.figures.values().count(), usize::saturating_add);
        lines.saturating_mul(self.labels.len().saturating_add(LINE))
    }
}

/// The series of the chosen locks, in their order, and the first one for which there is no room.
fn series<'a>(
    manager: &'a LockManager,
    chosen: &[Tracked],
) -> (Vec<Series<'a>>, Option<Place>) {
    let mut locks = Vec::with_capacity(chosen.len());
    let mut room = TEXT_MAX;
    for lock in chosen {
        let figures = manager.table().get(lock.place.id).and_then(Figures::of);
        let Some(figures) = figures else { continue };
        let series = Series::of_lock(lock, figures);
        let Some(left) = room.checked_sub(series.text_len()) else {
            return (locks, Some(lock.place));
        };
        room = left;
        locks.push(series);
    }
    (locks, None)
}

/// The text with the figures of the server and of the remaining locks, if given, and of these
/// locks.
fn text(all: Option<(Figures<'_>, Figures<'_>)>, locks: &[Series<'_>]) -> Vec<u8> {
    let all = all.map(|(server, rest)| [server, rest].map(Series::without_labels));
    let sizes = all.iter().flatten().chain(locks).map(Series::text_len);
    let mut out = Vec::with_capacity(sizes.fold(COMMENTS_MAX, usize::saturating_add));
    if let Some([server, _]) = &all {
        write_families(&mut out, "gpulock_", std::slice::from_ref(server));
    }
    write_families(&mut out, "gpulock_lock_", locks);
    if let Some([_, rest]) = &all {
        write_families(&mut out, "gpulock_untracked_", std::slice::from_ref(rest));
    }
    out
}

/// Writes each figure as a metric family with one sample, or histogram, for each of `series`.
fn write_families(out: &mut Vec<u8>, prefix: &str, series: &[Series<'_>]) {
    let Some(first) = series.first() else { return };
    let numbers = first.figures.numbers();
    let values: Vec<u64> =
        series.iter().flat_map(|series| series.figures.values()).collect();
    for (position, number) in numbers.iter().enumerate() {
        let (kind, suffix) =
            if number.is_gauge { ("gauge", "") } else { ("counter", "_total") };
        let family = [prefix, number.name, suffix].concat();
        write_head(out, &family, number.help, kind);
        let values = values.iter().skip(position).step_by(numbers.len());
        for (series, value) in series.iter().zip(values) {
            write_sample(out, &family, &series.labels, *value);
        }
    }
    for (name, help, which) in HISTOGRAMS {
        let family = [prefix, name, "_seconds"].concat();
        let mut shown = series
            .iter()
            .filter_map(|series| Some((series, series.histogram(which)?)))
            .peekable();
        if shown.peek().is_some() {
            write_head(out, &family, help, "histogram");
            write_histograms(out, &family, shown);
        }
    }
}

/// Writes histograms of one family.
fn write_histograms<'a>(
    out: &mut Vec<u8>,
    family: &str,
    histograms: impl Iterator<Item = (&'a Series<'a>, &'a Histogram)>,
) {
    let mut names = HistogramNames::new(family);
    for (series, histogram) in histograms {
        write_histogram(out, &mut names, &series.labels, histogram);
    }
}
