//! `--set NAME=TEMPLATE`: variables for the command, made of the locks that were granted.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use anyhow::{Context, Result, bail, ensure};

/// A variable of the command, and what its value is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    pub(super) name: String,
    parts: Vec<Part>,
}

/// A part of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Index,
    Key,
    Name,
}

/// A lock, or a GPU, as templates see it.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) index: usize,
    pub(super) key: Vec<u8>,
    pub(super) name: Vec<u8>,
}

/// Parses `NAME=TEMPLATE`.
///
/// # Errors
/// If the name is not a variable's, or belongs to `gpulock`, or the template is invalid.
pub(super) fn template(text: &str) -> Result<Template> {
    let (name, value) = text.split_once('=').context("expected NAME=TEMPLATE")?;
    let starts =
        name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    let is_valid =
        |character: char| character.is_ascii_alphanumeric() || character == '_';
    ensure!(
        starts && name.chars().all(is_valid),
        "{name:?} is not the name of a variable"
    );
    ensure!(!name.starts_with("GPULOCK_"), "{name} is set by gpulock itself");
    Ok(Template { name: name.to_owned(), parts: parts(value)? })
}

impl Template {
    /// The values for these items, separated by commas.
    pub(super) fn value(&self, items: &[Item]) -> OsString {
        let values: Vec<Vec<u8>> = items.iter().map(|item| self.one(item)).collect();
        OsString::from_vec(values.join(&b','))
    }

    /// Whether the value contains an index.
    pub(super) fn has_index(&self) -> bool {
        self.parts.contains(&Part::Index)
    }

    fn one(&self, item: &Item) -> Vec<u8> {
        let mut value = Vec::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => value.extend_from_slice(text.as_bytes()),
                Part::Index => value.extend_from_slice(item.index.to_string().as_bytes()),
                Part::Key => value.extend_from_slice(&item.key),
                Part::Name => value.extend_from_slice(&item.name),
            }
        }
        value
    }
}

/// Splits a template at its placeholders. `{{` and `}}` are braces.
fn parts(template: &str) -> Result<Vec<Part>> {
    let (mut parts, mut text, mut rest) = (Vec::new(), String::new(), template);
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(at);
        text.push_str(before);
        if let Some(after) = from.strip_prefix("{{") {
            text.push('{');
            rest = after;
        } else if let Some(after) = from.strip_prefix("}}") {
            text.push('}');
            rest = after;
        } else if let Some((name, after)) =
            from.strip_prefix('{').and_then(|inside| inside.split_once('}'))
        {
            parts.push(Part::Text(std::mem::take(&mut text)));
            parts.push(placeholder(name)?);
            rest = after;
        } else {
            bail!("a single brace in {template:?}; write {{{{ or }}}} for a brace");
        }
    }
    text.push_str(rest);
    parts.push(Part::Text(text));
    parts.retain(|part| *part != Part::Text(String::new()));
    Ok(parts)
}

fn placeholder(name: &str) -> Result<Part> {
    Ok(match name {
        "index" => Part::Index,
        "key" => Part::Key,
        "name" => Part::Name,
        _ => bail!(
            "unknown placeholder {{{name}}}; expected {{index}}, {{key}} or {{name}}"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Result<OsString> {
        let item = |index, key: &[u8], name: &[u8]| Item {
            index,
            key: key.to_vec(),
            name: name.to_vec(),
        };
        let items = [item(3, b"{n}:npu:7", b"7"), item(0, b"x", b"x")];
        Ok(template(text)?.value(&items))
    }

    #[test]
    fn placeholders_are_replaced_for_each_lock() -> Result<()> {
        #[rustfmt::skip]
        let cases = [
            ("A={index}",             "3,0"),
            ("_a1=npu{name}",         "npu7,npux"),
            ("A={key}={index}",       "{n}:npu:7=3,x=0"),
            ("A={{{index}}}",         "{3},{0}"),
            ("A=",                    ","),
            ("A=all",                 "all,all"),
        ];
        for (text, expected) in cases {
            assert_eq!(value(text)?, expected, "{text}");
        }
        Ok(())
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_is_right() {
        #[rustfmt::skip]
        let cases = [
            ("A",                 "NAME=TEMPLATE"),
            ("=x",                "not the name of a variable"),
            ("1A=x",              "not the name of a variable"),
            ("A B=x",             "not the name of a variable"),
            ("GPULOCK_KEYS=x",    "set by gpulock itself"),
            ("A={idx}",           "{index}, {key} or {name}"),
            ("A={}",              "{index}, {key} or {name}"),
            ("A={index",          "write {{ or }}"),
            ("A=index}",          "write {{ or }}"),
        ];
        for (text, why) in cases {
            let error = template(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
