//! Glob patterns: the matcher must agree with a naive one that tries every possibility.
#![no_main]

use std::ffi::c_char;

use gpulock_core::report::glob::matches;
use libfuzzer_sys::fuzz_target;

/// The naive matcher is too slow for more stars than this.
const MAX_STARS: usize = 4;

fuzz_target!(|input: (&[u8], &[u8])| {
    let (pattern, text) = input;
    let mut steps = u64::MAX;
    let is_match = matches(pattern, text, &mut steps) == Some(true);
    let max_steps = (pattern.len() as u64 + 1) * (text.len() as u64 + 1);
    assert!(u64::MAX - steps <= max_steps);
    let stars = pattern.iter().filter(|byte| **byte == b'*').count();
    if stars > MAX_STARS || text.len() > 32 {
        return;
    }
    let expected = match text {
        // As in the server, an empty text matches no other pattern, not even two stars.
        [] => matches!(pattern, [] | [b'*']),
        _ => matches_naively(pattern, text),
    };
    assert_eq!(is_match, expected);
});

/// Glob-style matching as the server's manual describes it, without optimizations.
fn matches_naively(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', rest @ ..] => {
            (0..=text.len()).any(|skip| matches_naively(rest, &text[skip..]))
        }
        _ => {
            let [byte, text @ ..] = text else { return false };
            let (matches, rest) = match pattern {
                [b'?', rest @ ..] => (true, rest),
                [b'[', b'^', class @ ..] => {
                    let (has, rest) = class_has(class, *byte);
                    (!has, rest)
                }
                [b'[', class @ ..] => class_has(class, *byte),
                [b'\\', escaped, rest @ ..] => (escaped == byte, rest),
                [literal, rest @ ..] => (literal == byte, rest),
                [] => return false,
            };
            matches && matches_naively(rest, text)
        }
    }
}

/// Reads a character class byte by byte, as C does. Returns whether the class contains the byte,
/// and what follows the class.
fn class_has(class: &[u8], byte: u8) -> (bool, &[u8]) {
    let signed = |byte: u8| c_char::from_ne_bytes([byte]);
    let (mut at, mut has) = (0, false);
    while at < class.len() {
        let left = class.len() - at;
        if class[at] == b'\\' && left >= 2 {
            has |= class[at + 1] == byte;
            at += 2;
        } else if class[at] == b']' {
            return (has, &class[at + 1..]);
        } else if left >= 3 && class[at + 1] == b'-' {
            let (one, other) = (signed(class[at]), signed(class[at + 2]));
            let (low, high) = if one < other { (one, other) } else { (other, one) };
            has |= low <= signed(byte) && signed(byte) <= high;
            at += 3;
        } else {
            has |= class[at] == byte;
            at += 1;
        }
    }
    (has, &[])
}
