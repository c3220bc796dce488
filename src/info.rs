//! What `INFO gpulock` says: the figures of the server, a field each.

use crate::server::info::Section;
use crate::server::state::with_keeper;
use crate::stats::{Figures, bound_name};

/// Writes the fields of the section.
pub(crate) fn write(section: &mut Section) {
    let figures = with_keeper(|keeper| Figures::of_server(keeper));
    for number in figures.numbers() {
        section.number(number.name, number.value);
    }
    for (name, histogram) in figures.histograms() {
        let bounds: Vec<_> =
            histogram.cumulative().map(|(bound, n)| (bound_name(bound), n)).collect();
        let totals = [("count", histogram.count()), ("sum", histogram.sum())];
        let buckets = bounds.iter().map(|(bound, count)| (bound.as_str(), *count));
        section.numbers(name, totals.into_iter().chain(buckets));
    }
}
