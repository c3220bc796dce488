//! Reading arguments: keywords in any case, numbers as Redis reads them, each option at
//! most once. Which command has which options is in `request`.

use crate::fault::Fault;

/// True when an argument is this keyword, in any case.
pub(crate) fn is(word: &[u8], keyword: &str) -> bool {
    word.eq_ignore_ascii_case(keyword.as_bytes())
}

/// Reads a number as the server does: decimal digits, no sign, no leading zero.
pub(crate) fn number(
    digits: &[u8],
    what: &'static str,
    min: u64,
    max: u64,
) -> Result<u64, Fault> {
    let fault = Fault::Number { what, min, max };
    let leading_zero = digits.len() > 1 && digits.first() == Some(&b'0');
    if leading_zero || !digits.iter().all(u8::is_ascii_digit) {
        return Err(fault);
    }
    let push = |value: u64, digit: &u8| {
        value.checked_mul(10)?.checked_add(u64::from(digit.wrapping_sub(b'0')))
    };
    let value = digits.iter().try_fold(0, push).filter(|_| !digits.is_empty());
    value.filter(|value| (min..=max).contains(value)).ok_or(fault)
}

/// Sets an option that may be given once.
pub(crate) fn once<T>(option: &mut Option<T>, value: T) -> Result<(), Fault> {
    match option.replace(value) {
        None => Ok(()),
        Some(_) => Err(Fault::Syntax),
    }
}

/// Sets a flag that may be given once.
pub(crate) fn flag(option: &mut bool) -> Result<(), Fault> {
    match std::mem::replace(option, true) {
        false => Ok(()),
        true => Err(Fault::Syntax),
    }
}

/// The value of an option.
pub(crate) fn value<'a>(
    args: &mut impl Iterator<Item = &'a [u8]>,
) -> Result<&'a [u8], Fault> {
    args.next().ok_or(Fault::Syntax)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_the_server_reads_them() {
        let read = |digits: &str| number(digits.as_bytes(), "EX", 0, 1 << 53).ok();
        assert_eq!(read("0"), Some(0));
        assert_eq!(read("12"), Some(12));
        for wrong in ["", "-1", "+1", "01", " 1", "1 ", "1.0", "0x1", "1e3", "١"] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
        assert_eq!(read("99999999999999999999999999"), None);
    }
}
