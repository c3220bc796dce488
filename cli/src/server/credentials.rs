//! The user and the password: where they come from, and how they are kept from the command of
//! `gpulock run`.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Result, anyhow};

use crate::exit::Failure;

/// The variable that redis-cli reads, too.
const PASSWORD: &str = "REDISCLI_AUTH";

/// A user and a password, each of which may be missing.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
}

/// Does not print the password.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = self.password.as_ref().map(|_| "…");
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .field("password", &password)
            .finish()
    }
}

/// The password from `REDISCLI_AUTH`; None if it is not set or empty.
///
/// # Errors
/// If it is not valid UTF-8.
pub(crate) fn from_environment() -> Result<Option<String>> {
    match env::var(PASSWORD) {
        Ok(password) => Ok(Some(password).filter(|password| !password.is_empty())),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => {
            Err(Failure::usage(format!("invalid {PASSWORD}: it is not valid UTF-8"))
                .into())
        }
    }
}

/// The password in a file: its first line.
///
/// # Errors
/// If the file cannot be read, is not valid UTF-8, or its first line is empty.
pub(crate) fn from_file(path: &Path) -> Result<String> {
    let invalid = |why: anyhow::Error| {
        Failure::usage(format!("invalid --password-file {}: {why}", path.display()))
    };
    let text = fs::read(path).map_err(|error| invalid(error.into()))?;
    let text = String::from_utf8(text);
    let text = text.map_err(|_| invalid(anyhow!("the password is not valid UTF-8")))?;
    match text.lines().next() {
        Some(password) if !password.is_empty() => Ok(password.to_owned()),
        _ => Err(invalid(anyhow!("its first line must be the password")).into()),
    }
}

/// The variables of this process that contain a password, each with the value without it, or
/// None if the variable must not be handed on.
pub(crate) fn secret_variables() -> Vec<(String, Option<OsString>)> {
    let mut found = Vec::new();
    if env::var_os(PASSWORD).is_some() {
        found.push((PASSWORD.to_owned(), None));
    }
    for name in [super::URL, super::SERVERS] {
        let Some(value) = env::var_os(name) else { continue };
        let Some(urls) = value.to_str() else {
            found.push((name.to_owned(), None));
            continue;
        };
        let without: Vec<_> = urls.split_whitespace().map(without_password).collect();
        if without.iter().any(Option::is_none) {
            found.push((name.to_owned(), None));
            continue;
        }
        let without = without.into_iter().flatten().collect::<Vec<_>>().join(" ");
        if without != urls {
            found.push((name.to_owned(), Some(without.into())));
        }
    }
    found
}

/// An address without its password. None if it is invalid in a way that may hide one.
fn without_password(url: &str) -> Option<String> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return (!url.contains(['@', '?', ':'])).then(|| url.to_owned());
    };
    // A Unix socket's password is a part of the query.
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    if query.contains(['@', '#']) {
        return None;
    }
    let is_public = |one: &&str| {
        ["db=", "user=", "protocol="].iter().any(|name| one.starts_with(name))
    };
    let query = query.split('&').filter(is_public).collect::<Vec<_>>().join("&");
    let query = if query.is_empty() { query } else { format!("?{query}") };
    let rest = match rest.rsplit_once('@') {
        None => rest.to_owned(),
        Some((user, rest)) => match user.split_once(':').map_or(user, |(user, _)| user) {
            "" => rest.to_owned(),
            user => format!("{user}@{rest}"),
        },
    };
    Some(format!("{scheme}://{rest}{query}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_loses_only_its_password() {
        for (url, without) in [
            ("redis://host:1/2", "redis://host:1/2"),
            ("redis://:secret@host:1/2", "redis://host:1/2"),
            ("rediss://me:secret@host", "rediss://me@host"),
            (
                "redis+sentinel://me:s@one,two:1/gpus",
                "redis+sentinel://me@one,two:1/gpus",
            ),
            ("unix:///socket?db=1&pass=secret&user=me", "unix:///socket?db=1&user=me"),
            ("unix:///socket?pass=secret", "unix:///socket"),
            ("", ""),
        ] {
            assert_eq!(without_password(url).as_deref(), Some(without), "{url}");
        }
        for unclear in
            ["me:secret@host", "redis://me:a@b?c@host", "unix:/socket?pass=secret"]
        {
            assert_eq!(without_password(unclear), None);
        }
    }
}
