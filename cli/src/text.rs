//! Keys and owners may contain any bytes. They are escaped so that a terminal, a table and
//! JSON can show them, and so that different ones look different.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;

use clap::builder::{OsStringValueParser, TypedValueParser};
use serde::{Serialize, Serializer};

/// Bytes chosen by a client.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Text(pub(crate) Vec<u8>);

impl fmt::Display for Text {
    /// UTF-8 is unchanged, except for backslashes and for characters that are invisible or
    /// change how others look (control, direction, combining). These and invalid UTF-8 are
    /// escaped as in Rust (`\\`, `\xff`, `\n`, `\u{202e}`).
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = String::new();
        for part in self.0.utf8_chunks() {
            for character in part.valid().chars() {
                match character {
                    '"' | '\'' => shown.push(character),
                    _ => shown.extend(character.escape_debug()),
                }
            }
            for byte in part.invalid() {
                shown.push_str(&format!("\\x{byte:02x}"));
            }
        }
        out.pad(&shown)
    }
}

/// Parses a command line argument, byte for byte.
pub(crate) fn argument() -> impl TypedValueParser<Value = Text> {
    OsStringValueParser::new().map(|argument| Text(argument.into_vec()))
}

/// Parses a key or an owner, byte for byte. An empty one usually comes from a variable of a script
/// that is not set.
pub(crate) fn name() -> impl TypedValueParser<Value = Text> {
    not_empty().map(|name| Text(name.into_vec()))
}

/// Parses an argument that must not be empty.
pub(crate) fn not_empty() -> impl TypedValueParser<Value = OsString> {
    OsStringValueParser::new().try_map(|argument| match argument.is_empty() {
        true => Err("must not be empty"),
        false => Ok(argument),
    })
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_and_invalid_bytes_are_escaped() {
        let shown = Text(b"gpu:0 \xc3\xa9\x1b[2J\n\\x\xff".to_vec()).to_string();
        assert_eq!(shown, "gpu:0 \u{e9}\\u{1b}[2J\\n\\\\x\\xff");
    }

    #[test]
    fn texts_that_look_alike_are_distinguished() {
        #[rustfmt::skip]
        let cases = [
            ("gpu\u{202e}0:upg", r"gpu\u{202e}0:upg"),
            ("gpu\u{200b}:0",    r"gpu\u{200b}:0"),
            ("e\u{301}",         r"e\u{301}"),
            ("a\u{a0}b",         r"a\u{a0}b"),
            ("a\0\t",            r"a\0\t"),
            (r#"it's "x" 東京"#, r#"it's "x" 東京"#),
        ];
        for (bytes, shown) in cases {
            assert_eq!(Text(bytes.into()).to_string(), shown);
        }
    }
}
