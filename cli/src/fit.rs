//! The width of text on a terminal, and text shortened to a width.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The number of columns that a text takes.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// The text, shortened in the middle with an ellipsis if it is too wide.
pub(crate) fn shortened(text: &str, room: usize) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    let Some(room) = room.checked_sub(1) else { return String::new() };
    let begin = fitting(text.chars(), room - room / 2);
    let end = fitting(text.chars().rev(), room / 2);
    let end: String = end.chars().rev().collect();
    format!("{begin}\u{2026}{end}")
}

/// The leading characters that fit.
pub(crate) fn fitting(characters: impl Iterator<Item = char>, room: usize) -> String {
    let mut taken = 0;
    characters
        .take_while(|character| {
            taken += character.width().unwrap_or_default();
            taken <= room
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_by_columns() {
        #[rustfmt::skip]
        let cases = [
            ("gpu:0",        5, "gpu:0"),
            ("gpu:0",        4, "gpu:"),
            ("東京:0",       5, "東京:"),
            ("東京:0",       3, "東"),
            ("e\u{301}:0",   2, "e\u{301}:"),
            ("gpu",          0, ""),
        ];
        for (line, columns, cut_line) in cases {
            assert_eq!(fitting(line.chars(), columns), cut_line);
        }
    }

    #[test]
    fn text_that_does_not_fit_keeps_both_ends() {
        #[rustfmt::skip]
        let cases = [
            ("gpu:0",          5, "gpu:0"),
            ("gpu:0",          4, "gp\u{2026}0"),
            ("{node7}:gpu:12", 9, "{nod\u{2026}u:12"),
            ("gpu:0",          1, "\u{2026}"),
            ("gpu:0",          0, ""),
            ("東京東京",        8, "東京東京"),
            ("東京東京",        7, "東\u{2026}京"),
        ];
        for (text, room, left) in cases {
            assert_eq!(shortened(text, room), left);
            assert!(width(left) <= room);
        }
    }
}
