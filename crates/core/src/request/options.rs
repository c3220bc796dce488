//! Parsing of options: keywords in any case, each option at most once.

use crate::error::CommandError;

/// Whether an argument is this keyword, in any case.
pub(crate) fn is(word: &[u8], keyword: &str) -> bool {
    word.eq_ignore_ascii_case(keyword.as_bytes())
}

/// Sets the value of an option that may be given once.
pub(crate) fn once<T>(option: &mut Option<T>, value: T) -> Result<(), CommandError> {
    match option.replace(value) {
        None => Ok(()),
        Some(_) => Err(CommandError::Syntax),
    }
}

/// Sets a flag that may be given once.
pub(crate) fn flag(option: &mut bool) -> Result<(), CommandError> {
    match std::mem::replace(option, true) {
        false => Ok(()),
        true => Err(CommandError::Syntax),
    }
}

/// Takes the value of an option.
pub(crate) fn value<'a>(
    args: &mut impl Iterator<Item = &'a [u8]>,
) -> Result<&'a [u8], CommandError> {
    args.next().ok_or(CommandError::Syntax)
}
