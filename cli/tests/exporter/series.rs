//! Minimal parsing of Prometheus text. The tests in `prometheus` check its syntax.

/// The value of the series with this name and only this `instance` label.
pub(crate) fn value(text: &str, name: &str, instance: &str) -> Option<f64> {
    let series = format!("{name}{{instance=\"{instance}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&series))?;
    Some(line.parse().expect("a number"))
}

/// The names of all series.
pub(crate) fn names(text: &str) -> impl Iterator<Item = &str> {
    let series = text.lines().filter(|line| !line.starts_with('#'));
    series.map(|line| line.split(['{', ' ']).next().unwrap_or_default())
}
