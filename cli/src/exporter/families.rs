//! Prometheus text (0.0.4) of several servers, merged: a family's head may stand in it only
//! once, and each series says which server it is of.

use std::collections::BTreeMap;
use std::fmt::Display;

/// Families of series, each with its head once, in the order in which they were first met.
#[derive(Default)]
pub(crate) struct Families {
    families: Vec<Family>,
    places: BTreeMap<String, usize>,
}

#[derive(Default)]
struct Family {
    head: String,
    series: String,
}

impl Families {
    /// Adds a series of our own.
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

    /// Adds the text of a server. A head opens a family, and the series after it are of
    /// that family; a family that another server brought already keeps its head.
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
        let place = *self.places.entry(name.to_owned()).or_insert(next);
        if place == next {
            self.families.push(Family::default());
        }
        &mut self.families[place]
    }

    /// All of them.
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
    /// Adds a series, with one more label before its own.
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

/// The family that a line of the head names.
fn head_of(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "))?;
    rest.split(' ').next()
}

/// The label of a server's series. The path of a socket may hold anything.
pub(crate) fn label(instance: &str) -> String {
    let value = instance.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("instance=\"{value}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_share_heads_and_keep_their_series_apart() {
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
