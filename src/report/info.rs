//! `INFO gpulock`: the counters of the server, one field each.

use crate::manager::with_manager;
use crate::redis::info_section::{InfoWriter, Section};
use crate::report::figures::{Figures, bound_name};

/// The section.
pub(crate) struct Info;

impl InfoWriter for Info {
    fn write(section: &mut Section) {
        let figures = with_manager(|manager| Figures::of_server(manager).into_owned());
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
}
