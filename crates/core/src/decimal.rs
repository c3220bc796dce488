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
    let bound = |bound: u64| i64::try_from(bound).unwrap_or(i64::MAX);
    let value = signed_number(digits, what, bound(min), bound(max))?;
    u64::try_from(value).map_err(|_| CommandError::Internal)
}

/// The same with a minus sign for a negative number.
pub(crate) fn signed_number(
    digits: &[u8],
    what: &'static str,
    min: i64,
    max: i64,
) -> Result<i64, CommandError> {
    let error = CommandError::Number { what, min, max };
    let (digits, is_negative) = match digits.strip_prefix(b"-") {
        // There is no negative zero.
        Some(digits) if digits != b"0" => (digits, true),
        _ => (digits, false),
    };
    let leading_zero = digits.len() > 1 && digits.first() == Some(&b'0');
    if leading_zero || !digits.iter().all(u8::is_ascii_digit) {
        return Err(error);
    }
    let push = |value: i64, digit: &u8| {
        value.checked_mul(10)?.checked_add(i64::from(digit.wrapping_sub(b'0')))
    };
    let value = digits.iter().try_fold(0, push).filter(|_| !digits.is_empty());
    let value =
        value.map(|value| if is_negative { value.saturating_neg() } else { value });
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

    #[test]
    fn a_signed_number_may_be_negative() {
        let parse =
            |digits: &str| signed_number(digits.as_bytes(), "PRIORITY", -100, 100).ok();
        assert_eq!(
            (parse("-100"), parse("0"), parse("100")),
            (Some(-100), Some(0), Some(100))
        );
        for wrong in ["-101", "101", "-0", "--1", "-", "- 1", "-01", "+1"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
