//! The replies of a server: every type of RESP2 and RESP3, their parser, and short accessors
//! for tests (`reply.int()`, `reply == "OK"`).

use std::collections::BTreeMap;
use std::fmt;

/// One reply, or one push, of a server.
///
/// RESP2 has two nulls, [`Value::Null`] and [`Value::NullArray`], and clients see the
/// difference. [`Value::is_null`] accepts both.
#[derive(Clone, PartialEq)]
pub enum Value {
    /// `:1`
    Int(i64),
    /// `$3 abc`
    Bulk(Vec<u8>),
    /// `+OK`
    Simple(String),
    /// `-ERR …` or RESP3's `!…`, without the leading sign.
    Error(String),
    /// `$-1`, and RESP3's `_`.
    Null,
    /// `*-1`: the other null of RESP2.
    NullArray,
    /// `*2 …`
    Array(Vec<Value>),
    /// `%2 …`, in the order sent.
    Map(Vec<(Value, Value)>),
    /// `~2 …`
    Set(Vec<Value>),
    /// `>2 …`: not a reply to a command.
    Push(Vec<Value>),
    /// `,1.5`
    Double(f64),
    /// `#t`
    Bool(bool),
    /// `=7 txt:abc`, without the format.
    Verbatim(Vec<u8>),
    /// `(123…`
    BigNumber(String),
}

impl Value {
    /// The integer. Panics on another type.
    #[track_caller]
    pub fn int(&self) -> i64 {
        match self {
            Self::Int(n) => *n,
            other => panic!("expected an integer, got {other:?}"),
        }
    }

    /// The bytes of a string of any kind.
    #[track_caller]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Bulk(bytes) | Self::Verbatim(bytes) => bytes,
            Self::Simple(text) => text.as_bytes(),
            other => panic!("expected a string, got {other:?}"),
        }
    }

    /// A string of any kind as text; bytes that are not UTF-8 are replaced.
    #[track_caller]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    /// The text of the error with its code.
    #[track_caller]
    pub fn err(&self) -> &str {
        match self {
            Self::Error(text) => text,
            other => panic!("expected an error, got {other:?}"),
        }
    }

    /// Whether it is an error.
    pub const fn is_err(&self) -> bool {
        matches!(self, Self::Error(_))
    }

    /// Whether it is a null of either kind.
    pub const fn is_null(&self) -> bool {
        matches!(self, Self::Null | Self::NullArray)
    }

    /// The elements of an array, a set or a push.
    #[track_caller]
    pub fn list(&self) -> &[Self] {
        match self {
            Self::Array(items) | Self::Set(items) | Self::Push(items) => items,
            other => panic!("expected an array, got {other:?}"),
        }
    }

    /// A map by the text of its keys: a RESP3 map, or the flat array of RESP2. Panics on a
    /// duplicate key.
    #[track_caller]
    pub fn map(&self) -> BTreeMap<String, Self> {
        let pairs = match self {
            Self::Map(pairs) => pairs.clone(),
            Self::Array(items) if items.len().is_multiple_of(2) => items
                .chunks_exact(2)
                .map(|pair| (pair[0].clone(), pair[1].clone()))
                .collect(),
            other => panic!("expected a map, got {other:?}"),
        };
        let mut map = BTreeMap::new();
        for (key, value) in pairs {
            let duplicate = map.insert(key.text(), value);
            assert!(duplicate.is_none(), "duplicate key {key:?} in {self:?}");
        }
        map
    }

    /// One field of a map. Panics when it is missing.
    #[track_caller]
    pub fn field(&self, name: &str) -> Self {
        match self.map().remove(name) {
            Some(value) => value,
            None => panic!("no field {name:?} in {self:?}"),
        }
    }

    /// Parses one value at the start of `bytes` and returns it with its length in bytes;
    /// `None` when it is incomplete, an error when it is not RESP.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, String> {
        let mut reader = Reader { bytes, at: 0 };
        match reader.value() {
            Ok(value) => Ok(Some((value, reader.at))),
            Err(Stop::Incomplete) => Ok(None),
            Err(Stop::Malformed(what)) => Err(what),
        }
    }
}

/// Compares strings with text, and integers with integers.
impl PartialEq<str> for Value {
    fn eq(&self, other: &str) -> bool {
        match self {
            Self::Bulk(bytes) | Self::Verbatim(bytes) => bytes == other.as_bytes(),
            Self::Simple(text) => text == other,
            _ => false,
        }
    }
}

impl PartialEq<&str> for Value {
    fn eq(&self, other: &&str) -> bool {
        self == *other
    }
}

impl PartialEq<i64> for Value {
    fn eq(&self, other: &i64) -> bool {
        matches!(self, Self::Int(n) if n == other)
    }
}

/// Like `redis-cli`, on one line.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(n) => write!(f, "{n}"),
            Self::Bulk(bytes) => write_bytes(f, bytes),
            Self::Simple(text) => write!(f, "+{text}"),
            Self::Error(text) => write!(f, "-{text}"),
            Self::Null => write!(f, "null"),
            Self::NullArray => write!(f, "null-array"),
            Self::Array(items) => f.debug_list().entries(items).finish(),
            Self::Map(pairs) => {
                f.debug_map().entries(pairs.iter().map(|(k, v)| (k, v))).finish()
            }
            Self::Set(items) => f.debug_set().entries(items).finish(),
            Self::Push(items) => {
                write!(f, "push ")?;
                f.debug_list().entries(items).finish()
            }
            Self::Double(x) => write!(f, "{x:?}"),
            Self::Bool(x) => write!(f, "{x}"),
            Self::Verbatim(bytes) => {
                write!(f, "verbatim ")?;
                write_bytes(f, bytes)
            }
            Self::BigNumber(digits) => write!(f, "({digits}"),
        }
    }
}

fn write_bytes(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    match std::str::from_utf8(bytes) {
        Ok(text) => write!(f, "{text:?}"),
        Err(_) => write!(f, "b\"{}\"", bytes.escape_ascii()),
    }
}

/// Why the reader returned no value.
enum Stop {
    Incomplete,
    Malformed(String),
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn value(&mut self) -> Result<Value, Stop> {
        let line = self.line()?;
        let (kind, rest) =
            line.split_first().ok_or_else(|| Stop::Malformed("an empty line".into()))?;
        let rest = std::str::from_utf8(rest).map_err(|_| malformed(line));
        Ok(match kind {
            b'+' => Value::Simple(rest?.to_owned()),
            // Errors may quote bytes of a client, which need not be UTF-8.
            b'-' => Value::Error(String::from_utf8_lossy(&line[1..]).into_owned()),
            b':' => Value::Int(rest?.parse().map_err(|_| malformed(line))?),
            b',' => Value::Double(rest?.parse().map_err(|_| malformed(line))?),
            b'(' => Value::BigNumber(rest?.to_owned()),
            b'_' => Value::Null,
            b'#' => match rest? {
                "t" => Value::Bool(true),
                "f" => Value::Bool(false),
                _ => return Err(malformed(line)),
            },
            b'$' => match length(line)? {
                Some(length) => Value::Bulk(self.body(length)?.to_vec()),
                None => Value::Null,
            },
            b'!' => {
                let body = self.body(length(line)?.ok_or_else(|| malformed(line))?)?;
                Value::Error(String::from_utf8_lossy(body).into_owned())
            }
            b'=' => {
                let body = self.body(length(line)?.ok_or_else(|| malformed(line))?)?;
                // Three letters name the format, a colon ends it.
                Value::Verbatim(body.get(4..).ok_or_else(|| malformed(line))?.to_vec())
            }
            b'*' => match length(line)? {
                Some(length) => Value::Array(self.values(length)?),
                None => Value::NullArray,
            },
            b'~' => {
                Value::Set(self.values(length(line)?.ok_or_else(|| malformed(line))?)?)
            }
            b'>' => {
                Value::Push(self.values(length(line)?.ok_or_else(|| malformed(line))?)?)
            }
            b'%' => {
                Value::Map(self.pairs(length(line)?.ok_or_else(|| malformed(line))?)?)
            }
            b'|' => {
                // Attributes describe the value that follows; no test needs them.
                self.pairs(length(line)?.ok_or_else(|| malformed(line))?)?;
                self.value()?
            }
            _ => return Err(malformed(line)),
        })
    }

    fn values(&mut self, count: usize) -> Result<Vec<Value>, Stop> {
        (0..count).map(|_| self.value()).collect()
    }

    fn pairs(&mut self, count: usize) -> Result<Vec<(Value, Value)>, Stop> {
        (0..count).map(|_| Ok((self.value()?, self.value()?))).collect()
    }

    /// The bytes up to the next CR LF, which is skipped.
    fn line(&mut self) -> Result<&'a [u8], Stop> {
        let rest = &self.bytes[self.at..];
        let end =
            rest.windows(2).position(|two| two == b"\r\n").ok_or(Stop::Incomplete)?;
        self.at += end + 2;
        Ok(&rest[..end])
    }

    /// `length` bytes, which may contain CR LF, and the CR LF after them.
    fn body(&mut self, length: usize) -> Result<&'a [u8], Stop> {
        let rest = &self.bytes[self.at..];
        if rest.len() < length.saturating_add(2) {
            return Err(Stop::Incomplete);
        }
        if &rest[length..length + 2] != b"\r\n" {
            return Err(Stop::Malformed("a string longer than its length".into()));
        }
        self.at += length + 2;
        Ok(&rest[..length])
    }
}

/// The length in a header line such as `$12`; `None` for -1.
fn length(line: &[u8]) -> Result<Option<usize>, Stop> {
    match &line[1..] {
        b"-1" => Ok(None),
        digits => std::str::from_utf8(digits)
            .ok()
            .and_then(|text| text.parse().ok())
            .map(Some)
            .ok_or_else(|| malformed(line)),
    }
}

fn malformed(line: &[u8]) -> Stop {
    Stop::Malformed(format!("not RESP: \"{}\"", line.escape_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(bytes: &[u8]) -> Value {
        let (value, used) = Value::parse(bytes).unwrap().unwrap();
        assert_eq!(used, bytes.len());
        value
    }

    fn bulk(text: &str) -> Value {
        Value::Bulk(text.as_bytes().to_vec())
    }

    #[test]
    fn every_type_is_parsed() {
        #[rustfmt::skip]
        let cases: &[(&[u8], Value)] = &[
            (b"+OK\r\n",                   Value::Simple("OK".into())),
            (b"+\r\n",                     Value::Simple(String::new())),
            (b"-ERR no\r\n",               Value::Error("ERR no".into())),
            (b":-7\r\n",                   Value::Int(-7)),
            (b":9007199254740991\r\n",     Value::Int(9_007_199_254_740_991)),
            (b"$3\r\nabc\r\n",             bulk("abc")),
            (b"$0\r\n\r\n",                bulk("")),
            (b"$4\r\n\r\n\xff\0\r\n",      Value::Bulk(b"\r\n\xff\0".to_vec())),
            (b"$-1\r\n",                   Value::Null),
            (b"*-1\r\n",                   Value::NullArray),
            (b"_\r\n",                     Value::Null),
            (b"*0\r\n",                    Value::Array(vec![])),
            (b"*2\r\n:1\r\n*1\r\n$-1\r\n", Value::Array(vec![Value::Int(1), Value::Array(vec![Value::Null])])),
            (b"%1\r\n+a\r\n:1\r\n",        Value::Map(vec![(Value::Simple("a".into()), Value::Int(1))])),
            (b"~1\r\n:1\r\n",              Value::Set(vec![Value::Int(1)])),
            (b">1\r\n$1\r\nx\r\n",         Value::Push(vec![bulk("x")])),
            (b",1.5\r\n",                  Value::Double(1.5)),
            (b",inf\r\n",                  Value::Double(f64::INFINITY)),
            (b"#t\r\n",                    Value::Bool(true)),
            (b"#f\r\n",                    Value::Bool(false)),
            (b"=7\r\ntxt:abc\r\n",         Value::Verbatim(b"abc".to_vec())),
            (b"!5\r\nERR x\r\n",           Value::Error("ERR x".into())),
            (b"(12345678901234567890\r\n", Value::BigNumber("12345678901234567890".into())),
            (b"|1\r\n+ttl\r\n:1\r\n:2\r\n", Value::Int(2)),
        ];
        for (bytes, value) in cases {
            assert_eq!(parsed(bytes), *value, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_truncated_value_is_incomplete() {
        let whole = b"%2\r\n$1\r\na\r\n*2\r\n:1\r\n$2\r\n\r\n\r\n+b\r\n=5\r\ntxt:x\r\n";
        for cut in 0..whole.len() {
            assert_eq!(Value::parse(&whole[..cut]), Ok(None), "cut at {cut}");
        }
        assert!(matches!(parsed(whole), Value::Map(pairs) if pairs.len() == 2));
    }

    #[test]
    fn only_the_first_value_is_parsed() {
        assert_eq!(Value::parse(b":1\r\n:2\r\n"), Ok(Some((Value::Int(1), 4))));
    }

    #[test]
    fn invalid_input_is_rejected() {
        for bytes in
            [&b"\r\n"[..], b"?\r\n", b":x\r\n", b"$-2\r\n", b"$1\r\nabc\r\n", b"#x\r\n"]
        {
            assert!(Value::parse(bytes).is_err(), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_map_is_the_same_in_both_protocols() {
        let resp2 = parsed(b"*4\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n$-1\r\n");
        let resp3 = parsed(b"%2\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n_\r\n");
        assert_eq!(resp2.map(), resp3.map());
        assert_eq!(resp2.field("a"), 1);
    }

    #[test]
    fn debug_shows_text_as_text_and_bytes_as_bytes() {
        let value = Value::Array(vec![
            bulk("gpu:0"),
            Value::Bulk(b"\xff\n".to_vec()),
            Value::Null,
            Value::Error("ERR x".into()),
        ]);
        assert_eq!(format!("{value:?}"), r#"["gpu:0", b"\xff\n", null, -ERR x]"#);
    }
}
