//! Patterns as `KEYS`, `SCAN` and `PSUBSCRIBE` know them: `*`, `?`, `[a-z]`, `[^a]`, `\x`.
//! The module API does not offer the server's own; a test compares the two.

/// The longest pattern that a command takes, in bytes.
pub const PATTERN_MAX: usize = 1024;

/// Bytes that are skipped in one step, in search of the byte that follows a star.
const SKIPPED: usize = 4;

/// True when `text` as a whole matches `pattern`. The time is proportional to the product of
/// their lengths at worst, whatever the pattern, so each byte of the pattern that is compared
/// costs one of the `steps` left. None when there are too few.
pub fn matches(pattern: &[u8], text: &[u8], steps: &mut u64) -> Option<bool> {
    // As the server has it: an empty text matches no other pattern, not even two stars.
    if text.is_empty() {
        return Some(matches!(pattern, [] | [b'*']));
    }
    let (mut pattern, mut text) = (pattern, text);
    // What follows the last star, and where to look for it when it does not match here: the
    // star may take one byte more. Earlier stars need no second try.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', after_star @ ..] = pattern {
            pay(steps, 1)?;
            if after_star.is_empty() {
                return Some(true);
            }
            let Some(start) = skip_to_head(after_star, text, steps)? else {
                return Some(false);
            };
            retry = Some((after_star, start));
            (pattern, text) = (after_star, start);
            continue;
        }
        let step = match text {
            [] => return Some(pattern.is_empty()),
            [byte, after @ ..] => {
                let (is_match, rest) = one(pattern, *byte);
                pay(steps, pattern.len().saturating_sub(rest.len()).max(1))?;
                is_match.then_some((rest, after))
            }
        };
        if let Some(next) = step {
            (pattern, text) = next;
        } else if let Some((after_star, [_, longer @ ..])) = retry {
            let Some(start) = skip_to_head(after_star, longer, steps)? else {
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

/// The rest of the text from the first byte that the head of the pattern matches, if the head
/// is a byte that stands for itself; else the text as it is. `Some(None)` when there is no
/// such byte.
fn skip_to_head<'t>(
    pattern: &[u8],
    text: &'t [u8],
    steps: &mut u64,
) -> Option<Option<&'t [u8]>> {
    let head = match pattern {
        [] | [b'*' | b'?' | b'[' | b'\\', ..] => return Some(Some(text)),
        [head, ..] => head,
    };
    let skipped = text.iter().position(|byte| byte == head);
    pay(steps, skipped.unwrap_or(text.len()) / SKIPPED)?;
    Some(skipped.and_then(|skipped| text.get(skipped..)))
}

/// Whether a byte matches the head of a pattern that is no star, and the rest of the pattern.
fn one(pattern: &[u8], byte: u8) -> (bool, &[u8]) {
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
    use super::matches;

    fn fits(pattern: &[u8], text: &[u8]) -> bool {
        matches(pattern, text, &mut u64::MAX.clone()).unwrap()
    }

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
    fn the_steps_are_at_most_the_product_of_both_lengths() {
        let text = b"a".repeat(2_000);
        for pattern in [
            [&b"a*".repeat(50)[..], b"b"].concat(),
            [b"*", &b"a".repeat(100)[..], b"b"].concat(),
            [b"*[", &b"c".repeat(100)[..], b"]"].concat(),
            [b"*[^", &b"c".repeat(100)[..], b"a"].concat(),
            b"*".repeat(100),
            b"*b".to_vec(),
        ] {
            let most = (pattern.len() * text.len()) as u64;
            let mut left = most;
            assert!(matches(&pattern, &text, &mut left).is_some(), "{pattern:?}");
            let steps = most - left;
            let mut enough = steps;
            assert!(matches(&pattern, &text, &mut enough).is_some());
            let mut too_few = steps - 1;
            assert_eq!(matches(&pattern, &text, &mut too_few), None);
        }
    }
}
