//! Parses decimal numbers with the same strictness as the server.

use crate::error::CommandError;

/// Parses a number in a range: decimal digits without a sign or leading zeros. `what` is its name
/// in the error.
pub(crate) fn number(
    digits: &[u8],
    what: &'static str,
    min: u64,
    max: u64,
) -> Result<u64, CommandError> {
    let error = CommandError::Number { what, min, max };
    let leading_zero = digits.len() > 1 && digits.first() == Some(&b'0');
    if leading_zero || !digits.iter().all(u8::is_ascii_digit) {
        return Err(error);
    }
    let push = |value: u64, digit: &u8| {
        value.checked_mul(10)?.checked_add(u64::from(digit.wrapping_sub(b'0')))
    };
    let value = digits.iter().try_fold(0, push).filter(|_| !digits.is_empty());
    value.filter(|value| (min..=max).contains(value)).ok_or(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_decimal_numbers_are_accepted() {
        let parse = |digits: &str| number(digits.as_bytes(), "EX", 0, 1 << 53).ok();
        assert_eq!(parse("0"), Some(0));
        assert_eq!(parse("12"), Some(12));
        for wrong in ["", "-1", "+1", "01", " 1", "1 ", "1.0", "0x1", "1e3", "١"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
        assert_eq!(parse("99999999999999999999999999"), None);
    }
}
