//! Looks into Prometheus text, as far as these tests need it. Whether the text is right
//! in all is for a real Prometheus to say.

/// The value of the series that begins with `name` and this `instance` label.
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
