//! Merges the Prometheus text (0.0.4) of several servers, each in portions: the series of a metric
//! family must be together, its HELP and TYPE lines may appear only once, and each series gets a
//! label with its server.

use std::collections::BTreeMap;
use std::fmt::Display;

/// Metric families in the order of their first appearance.
#[derive(Default)]
pub(crate) struct Families {
    families: Vec<Family>,
    indexes: BTreeMap<String, usize>,
}

#[derive(Default)]
struct Family {
    /// The HELP and TYPE lines.
    head: String,
    series: String,
}

impl Families {
    /// Adds a series of the exporter itself.
    pub(crate) fn gauge(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        value: &dyn Display,
    ) {
        let family = self.named(name);
        if family.head.is_empty() {
            family.head = format!("# HELP {name} {help}\n# TYPE {name} gauge\n");
        }
        family.add(&format!("{name} {value}"), label);
    }

    /// Adds a text of a server. The series after the HELP and TYPE lines belong to their family; a
    /// family that another text has added keeps its lines.
    pub(crate) fn merge(&mut self, text: &str, label: &str) {
        let mut lines = text.lines().peekable();
        while let Some(name) = lines.peek().and_then(|line| head_of(line)) {
            let mut head = String::new();
            while let Some(line) = lines.next_if(|line| head_of(line) == Some(name)) {
                head.push_str(line);
                head.push('\n');
            }
            let family = self.named(name);
            if family.head.is_empty() {
                family.head = head;
            }
            while let Some(series) = lines.next_if(|line| head_of(line).is_none()) {
                family.add(series, label);
            }
        }
    }

    fn named(&mut self, name: &str) -> &mut Family {
        let next = self.families.len();
        let index = *self.indexes.entry(name.to_owned()).or_insert(next);
        if index == next {
            self.families.push(Family::default());
        }
        &mut self.families[index]
    }

    /// The merged text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for family in &self.families {
            text.push_str(&family.head);
            text.push_str(&family.series);
        }
        text
    }
}

impl Family {
    /// Adds a series, with an additional label before its own.
    fn add(&mut self, series: &str, label: &str) {
        let name = series.find([' ', '{']).unwrap_or(series.len());
        let (name, rest) = series.split_at(name);
        let parts = match rest.strip_prefix('{') {
            Some(rest) => [name, "{", label, ",", rest, "\n"],
            None => [name, "{", label, "}", rest, "\n"],
        };
        self.series.extend(parts);
    }
}

/// The family that a HELP or TYPE line names.
fn head_of(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "))?;
    rest.split(' ').next()
}

/// The label of a server's series. A socket path may contain any character.
pub(crate) fn label(instance: &str) -> String {
    let value = instance.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("instance=\"{value}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_share_families_and_keep_their_own_series() {
        let text = "# HELP a One.\n# TYPE a counter\na 1\n\
                    # HELP b Two.\n# TYPE b gauge\nb{key=\"x y{\"} 2\nb{key=\"# TYPE\"} 3\n";
        let mut families = Families::default();
        families.merge(text, &label("one:1"));
        families.merge(text, &label("/a \"b\\\n"));
        families.gauge("up", "Up.", &label("one:1"), &1);
        assert_eq!(
            families.text(),
            "# HELP a One.\n# TYPE a counter\n\
             a{instance=\"one:1\"} 1\n\
             a{instance=\"/a \\\"b\\\\\\n\"} 1\n\
             # HELP b Two.\n# TYPE b gauge\n\
             b{instance=\"one:1\",key=\"x y{\"} 2\n\
             b{instance=\"one:1\",key=\"# TYPE\"} 3\n\
             b{instance=\"/a \\\"b\\\\\\n\",key=\"x y{\"} 2\n\
             b{instance=\"/a \\\"b\\\\\\n\",key=\"# TYPE\"} 3\n\
             # HELP up Up.\n# TYPE up gauge\nup{instance=\"one:1\"} 1\n"
        );
    }
}
