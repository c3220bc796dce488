//! The formats of reports: INFO, METRICS (whose text format is in `prometheus`), and the messages of
//! events. The counters for all of them are in `figures`.

pub(crate) mod event_message;
pub(crate) mod figures;
pub(crate) mod info;
pub(crate) mod metrics;
pub(crate) mod prometheus;
