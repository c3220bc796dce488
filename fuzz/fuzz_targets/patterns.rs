//! The glob against the simplest matcher there can be, one that tries every way: for each
//! pattern and text both must say the same.
#![no_main]

use std::ffi::c_char;

use gpulock_core::report::glob::matches;
use libfuzzer_sys::fuzz_target;

/// More stars than these take the simple matcher too long.
const STARS: usize = 4;

fuzz_target!(|halves: (&[u8], &[u8])| {
    let (pattern, text) = halves;
    let mut steps = u64::MAX;
    let fitted = matches(pattern, text, &mut steps) == Some(true);
    let most = (pattern.len() as u64 + 1) * (text.len() as u64 + 1);
    assert!(u64::MAX - steps <= most);
    let stars = pattern.iter().filter(|byte| **byte == b'*').count();
    if stars > STARS || text.len() > 32 {
        return;
    }
    let expected = match text {
        // As the server has it: an empty text fits no other pattern, not even two stars.
        [] => matches!(pattern, [] | [b'*']),
        _ => tries_all(pattern, text),
    };
    assert_eq!(fitted, expected);
});

/// `glob-style` as the server's manual explains it, without any cleverness.
fn tries_all(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', rest @ ..] => (0..=text.len()).any(|skip| tries_all(rest, &text[skip..])),
        _ => {
            let [byte, text @ ..] = text else { return false };
            let (fits, rest) = match pattern {
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
            fits && tries_all(rest, text)
        }
    }
}

/// Reads a class byte by byte, as C would.
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
