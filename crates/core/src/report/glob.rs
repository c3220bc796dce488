//! The glob-style patterns of `KEYS`, `SCAN` and `PSUBSCRIBE`: `*`, `?`, `[a-z]`, `[^a]`, `\x`.
//! The module API does not offer the server's own function. A test compares the two.

/// The maximum length of a pattern, in bytes.
pub const PATTERN_MAX: usize = 1024;

/// The number of bytes that the search for the byte after a star skips in one step.
const SKIPPED_PER_STEP: usize = 4;

/// The steps for a byte of the pattern that is compared, beside one for the comparison as a whole.
const STEPS_OF_BYTE: usize = 3;

/// The steps for a star.
const STEPS_OF_STAR: usize = 3;

/// Whether the whole `text` matches `pattern`. The worst-case time is proportional to the product
/// of both lengths, so each compared byte of the pattern takes some of `steps`. None when there are too few steps.
pub fn matches(pattern: &[u8], text: &[u8], steps: &mut u64) -> Option<bool> {
    // As in the server, an empty text matches no other pattern, not even two stars.
    if text.is_empty() {
        return Some(matches!(pattern, [] | [b'*']));
    }
    let (mut pattern, mut text) = (pattern, text);
    // The pattern after the last star, and the text at which it was tried last. On a mismatch the
    // star takes one byte more. Earlier stars need no retry.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', after_star @ ..] = pattern {
            pay(steps, STEPS_OF_STAR)?;
            if after_star.is_empty() {
                return Some(true);
            }
            let Some(start) = skip_to_literal(after_star, text, steps)? else {
                return Some(false);
            };
            retry = Some((after_star, start));
            (pattern, text) = (after_star, start);
            continue;
        }
        let step = match text {
            [] => return Some(pattern.is_empty()),
            [byte, after @ ..] => {
                let (is_match, rest) = match_byte(pattern, *byte);
                let compared = pattern.len().saturating_sub(rest.len()).max(1);
                pay(steps, compared.saturating_mul(STEPS_OF_BYTE).saturating_add(1))?;
                is_match.then_some((rest, after))
            }
        };
        if let Some(next) = step {
            (pattern, text) = next;
        } else if let Some((after_star, [_, longer @ ..])) = retry {
            let Some(start) = skip_to_literal(after_star, longer, steps)? else {
                return Some(false);
            };
            retry = Some((after_star, start));
            (pattern, text) = (after_star, start);
        } else {
            return Some(false);
        }
    }
}

fn pay(steps: &mut u64, bytes: usize) -> Option<()> {
    *steps = steps.checked_sub(u64::try_from(bytes).unwrap_or(u64::MAX))?;
    Some(())
}

/// If the pattern starts with a literal byte, skips the text before the first such byte;
/// `Some(None)` when the text does not contain it. Otherwise returns the text unchanged.
fn skip_to_literal<'t>(
    pattern: &[u8],
    text: &'t [u8],
    steps: &mut u64,
) -> Option<Option<&'t [u8]>> {
    let literal = match pattern {
        [] | [b'*' | b'?' | b'[' | b'\\', ..] => return Some(Some(text)),
        [literal, ..] => literal,
    };
    let skipped = text.iter().position(|byte| byte == literal);
    pay(steps, skipped.unwrap_or(text.len()) / SKIPPED_PER_STEP)?;
    Some(skipped.and_then(|skipped| text.get(skipped..)))
}

/// Whether a byte matches the first element of a pattern, which is not a star; and the rest of the
/// pattern.
fn match_byte(pattern: &[u8], byte: u8) -> (bool, &[u8]) {
    match pattern {
        [] => (false, pattern),
        [b'?', rest @ ..] => (true, rest),
        [b'[', rest @ ..] => {
            let (negated, class) = match rest {
                [b'^', class @ ..] => (true, class),
                class => (false, class),
            };
            let (found, rest) = class_has(class, byte);
            (found != negated, rest)
        }
        [b'\\', escaped, rest @ ..] => (*escaped == byte, rest),
        [literal, rest @ ..] => (*literal == byte, rest),
    }
}

/// Whether a class contains the byte, and the pattern after the class. An unclosed class ends with
/// the pattern.
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

/// A byte as the server compares it: as a `char`, whose signedness depends on the platform.
fn as_char(byte: u8) -> std::ffi::c_char {
    std::ffi::c_char::from_ne_bytes([byte])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_match(pattern: &[u8], text: &[u8]) -> bool {
        matches(pattern, text, &mut u64::MAX.clone()).unwrap()
    }

    #[test]
    #[rustfmt::skip]
    fn patterns_match_as_in_redis() {
        for (pattern, text, expected) in [
            ("", "", true), ("", "a", false), ("*", "", true), ("**", "", false), ("*", "abc", true),
            ("a*c", "abbc", true), ("a*c", "abbd", false), ("**a", "bba", true),
            ("?", "a", true), ("?", "", false), ("[a-c]x", "bx", true),
            ("[c-a]x", "bx", true), ("[^a]", "b", true), ("[^a]", "a", false),
            ("[abc", "c", true), (r"\*", "*", true), (r"\*", "a", false),
            (r"[\]]", "]", true), ("gpu:*:[0-3]", "gpu:node:3", true), ("a\\", "a\\", true),
        ] {
            assert_eq!(is_match(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn the_steps_are_at_most_a_multiple_of_the_product_of_both_lengths() {
        let text = b"a".repeat(2_000);
        for pattern in [
            [&b"a*".repeat(50)[..], b"b"].concat(),
            [b"*", &b"a".repeat(100)[..], b"b"].concat(),
            [b"*[", &b"c".repeat(100)[..], b"]"].concat(),
            [b"*[^", &b"c".repeat(100)[..], b"a"].concat(),
            b"*".repeat(100),
            b"*b".to_vec(),
        ] {
            let each = STEPS_OF_BYTE + 1;
            let max = (each * pattern.len() * text.len()) as u64;
            let mut left = max;
            assert!(matches(&pattern, &text, &mut left).is_some(), "{pattern:?}");
            let steps = max - left;
            let mut enough = steps;
            assert!(matches(&pattern, &text, &mut enough).is_some());
            let mut too_few = steps - 1;
            assert_eq!(matches(&pattern, &text, &mut too_few), None);
        }
    }
}
