//! A reservation in the environment: the variables of a shell that describe locks which no
//! process holds.

use std::env;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use crate::clock;
use crate::human::Span;
use crate::run::environment::{Environment, OWNER};
use crate::run::nested::OuterHold;

/// The variable that marks a reservation: the names of all its variables.
pub(crate) const RESERVED: &str = "GPULOCK_RESERVED";

/// The variable that contains the end of the reservation, as a Unix time in seconds.
const UNTIL: &str = "GPULOCK_RESERVED_UNTIL";

/// Locks that were reserved for the processes of a shell.
#[derive(Debug)]
pub(crate) struct Reservation {
    pub(crate) hold: OuterHold,
    /// The names of the variables that describe it.
    variables: String,
}

/// Adds the variables of a reservation that ends at this Unix time to those of its locks. Of
/// those to remove, only those that this process has inherited matter.
pub(crate) fn environment(locks: Environment, until: Duration) -> Environment {
    let mut all = locks;
    all.retain(|(name, value)| value.is_some() || env::var_os(name).is_some());
    all.push((UNTIL.to_owned(), Some(until.as_secs().to_string().into())));
    let set = all.iter().filter(|(_, value)| value.is_some());
    let names: Vec<&str> = set.map(|(name, _)| &**name).chain([RESERVED]).collect();
    let names = names.join(" ").into();
    all.push((RESERVED.to_owned(), Some(names)));
    all
}

/// The shell commands that export the variables, or remove them.
///
/// # Errors
/// If a value contains a null byte.
pub(crate) fn exports(environment: &Environment) -> Result<Vec<u8>> {
    let mut commands = Vec::new();
    for (name, value) in environment {
        if let Some(value) = value {
            commands.extend_from_slice(format!("export {name}=").as_bytes());
            commands.extend_from_slice(&shlex::bytes::try_quote(value.as_bytes())?);
        } else {
            commands.extend_from_slice(format!("unset {name}").as_bytes());
        }
        commands.push(b'\n');
    }
    Ok(commands)
}

/// Fails if the environment has a reservation that has not ended: another one would hide it.
///
/// # Errors
/// If there is one.
pub(crate) fn ensure_none() -> Result<()> {
    let Some(left) = time_left() else { return Ok(()) };
    bail!(
        "this shell has a reservation, for another {left}; release it first: \
         eval \"$(gpulock release)\""
    );
}

/// The time until the reservation of the environment ends. None if there is no reservation, or it
/// has ended.
pub(crate) fn time_left() -> Option<Span> {
    env::var_os(RESERVED)?;
    let until = Duration::from_secs(env::var(UNTIL).ok()?.parse().ok()?);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    until.checked_sub(now).map(clock::millis).map(Span)
}

impl Reservation {
    /// The reservation that the environment describes.
    ///
    /// # Errors
    /// If there is none, or it is incomplete.
    pub(crate) fn from_environment() -> Result<Self> {
        let Some(variables) = env::var_os(RESERVED) else { bail!(why_none()) };
        let names = variables.to_string_lossy();
        let names = names.split_ascii_whitespace().filter(|name| is_name(name));
        let variables = names.collect::<Vec<_>>().join(" ");
        let hold = OuterHold::of_environment();
        let hold = hold.context("the variables of the reservation are incomplete")?;
        Ok(Self { hold, variables })
    }

    /// The shell command that removes the variables.
    pub(crate) fn unset(&self) -> String {
        format!("unset {}", self.variables)
    }
}

fn why_none() -> String {
    let has_locks = env::var_os(OWNER).is_some();
    let here = match has_locks {
        true => {
            "this environment is that of `gpulock run`, which releases its locks itself"
        }
        false => "this environment has no reservation",
    };
    format!("{here}: give a KEY and --owner")
}

/// Whether this is the name of a variable in a shell.
fn is_name(name: &str) -> bool {
    let is_in_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    name.bytes().all(is_in_name)
        && !name.starts_with(|first: char| first.is_ascii_digit())
}
