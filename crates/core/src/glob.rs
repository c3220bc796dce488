//! Patterns as `KEYS`, `SCAN` and `PSUBSCRIBE` know them: `*`, `?`, `[a-z]`, `[^a]`, `\x`.
//! The module API does not offer the server's own; a test compares the two.

/// True when `text` as a whole fits `pattern`. Takes time in proportion to the product of
/// their lengths at worst, whatever the pattern.
pub fn fits(pattern: &[u8], text: &[u8]) -> bool {
    // As the server has it: an empty text fits no other pattern, not even two stars.
    if text.is_empty() {
        return matches!(pattern, [] | [b'*']);
    }
    let (mut pattern, mut text) = (pattern, text);
    // Where to go on when what follows the last star did not fit: that star may take one
    // byte more. Earlier stars need no second try.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', rest @ ..] = pattern {
            retry = Some((rest, text));
            pattern = rest;
            continue;
        }
        let step = match text {
            [] if pattern.is_empty() => return true,
            [] => return false,
            [byte, after @ ..] => one(pattern, *byte).map(|rest| (rest, after)),
        };
        if let Some(next) = step {
            (pattern, text) = next;
        } else if let Some((after_star, [_, longer @ ..])) = retry {
            retry = Some((after_star, longer));
            (pattern, text) = (after_star, longer);
        } else {
            return false;
        }
    }
}

/// Fits one byte to the head of a pattern that is no star; the rest of the pattern if so.
fn one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [] => None,
        [b'?', rest @ ..] => Some(rest),
        [b'[', rest @ ..] => {
            let (negated, class) = match rest {
                [b'^', class @ ..] => (true, class),
                class => (false, class),
            };
            let (found, rest) = class_has(class, byte);
            (found != negated).then_some(rest)
        }
        [b'\\', escaped, rest @ ..] => (*escaped == byte).then_some(rest),
        [literal, rest @ ..] => (*literal == byte).then_some(rest),
    }
}

/// Whether a class has the byte, and what follows the class. One that is never closed
/// ends with the pattern.
fn class_has(mut class: &[u8], byte: u8) -> (bool, &[u8]) {
    let mut found = false;
    loop {
        class = match class {
            [] => return (found, class),
            [b'\\', escaped, rest @ ..] => {
                found |= *escaped == byte;
                rest
            }
            [b']', rest @ ..] => return (found, rest),
            [from, b'-', to, rest @ ..] => {
                let [from, to, byte] = [*from, *to, byte].map(as_char);
                found |= (from.min(to)..=from.max(to)).contains(&byte);
                rest
            }
            [literal, rest @ ..] => {
                found |= *literal == byte;
                rest
            }
        };
    }
}

/// A byte as the server compares it: whether it has a sign is the platform's choice.
fn as_char(byte: u8) -> std::ffi::c_char {
    std::ffi::c_char::from_ne_bytes([byte])
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    #[rustfmt::skip]
    fn patterns_fit_as_they_do_in_redis() {
        for (pattern, text, expected) in [
            ("", "", true), ("", "a", false), ("*", "", true), ("**", "", false), ("*", "abc", true),
            ("a*c", "abbc", true), ("a*c", "abbd", false), ("**a", "bba", true),
            ("?", "a", true), ("?", "", false), ("[a-c]x", "bx", true),
            ("[c-a]x", "bx", true), ("[^a]", "b", true), ("[^a]", "a", false),
            ("[abc", "c", true), (r"\*", "*", true), (r"\*", "a", false),
            (r"[\]]", "]", true), ("gpu:*:[0-3]", "gpu:node:3", true), ("a\\", "a\\", true),
        ] {
            assert_eq!(fits(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = b"a*".repeat(50);
        assert!(!fits(&[&pattern[..], b"b"].concat(), &b"a".repeat(5_000)));
    }
}
