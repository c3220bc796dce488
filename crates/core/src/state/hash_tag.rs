//! Hash tags, which decide the cluster slot of a key.

/// The part of a key that decides its slot: the text in its first pair of braces, unless that is
/// empty; otherwise the whole key. Two keys with the same tag are in the same slot.
pub fn tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|byte| *byte == b'{') else { return key };
    let inside = key.get(open.saturating_add(1)..).unwrap_or_default();
    match inside.iter().position(|byte| *byte == b'}') {
        None | Some(0) => key,
        Some(close) => inside.get(..close).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::tag;

    #[test]
    fn the_tag_is_in_the_first_braces_unless_they_are_empty_or_unclosed() {
        for (key, expected) in [
            ("gpu", "gpu"),
            ("{node7}:gpu:0", "node7"),
            ("a{}{b}", "a{}{b}"),
            ("a{b", "a{b"),
            ("a{{b}}c", "{b"),
        ] {
            assert_eq!(tag(key.as_bytes()), expected.as_bytes());
        }
    }
}
