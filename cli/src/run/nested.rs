//! A run inside a run: if the locks that it asks for are held by the run that started it, the
//! command needs no others. It is executed at once, in place of this process, under the outer
//! run's locks: the outer run renews them, and kills everything that it started before they end.
//! The same holds for a reservation, except that nothing renews its locks or kills the command.

use std::env;
use std::ffi::OsString;
use std::iter;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::mpsc::Receiver;

use anyhow::Result;

use crate::act::reservation;
use crate::connection::Connection;
use crate::locks::{HeldLock, Lock, LockRequest, still_held};
use crate::run::ending::Ending;
use crate::run::environment::{KEYS, LOST, OUTER, OWNER, TOKENS};
use crate::run::session::Worker;
use crate::run::stderr::Stderr;
use crate::run::wait_budget::WaitBudget;
use crate::run::{Event, child, waiting};
use crate::text::Text;

/// The locks of the run or reservation that this process belongs to, according to the
/// environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OuterHold {
    pub(crate) owner: String,
    pub(crate) locks: Vec<Lock>,
}

/// What the locks of the outer run mean for a request.
enum Relation {
    /// They are enough.
    Holds,
    /// The request cannot be met as long as the outer run holds these locks.
    Blocks(String),
    None,
}

impl OuterHold {
    /// Reads the environment. None: there is no such run, or its locks were lost, or its
    /// variables are ambiguous, because a key contains a comma.
    pub(crate) fn of_environment() -> Option<Self> {
        // `--on-lost` is not terminated when the remaining locks end.
        if env::var_os(LOST).is_some() {
            return None;
        }
        let (keys, tokens) = (env::var_os(KEYS)?, env::var(TOKENS).ok()?);
        Self::parse(keys.as_bytes(), &tokens, env::var(OWNER).ok()?)
    }

    /// The same for all runs around this process, the innermost first. Each terminates
    /// everything inside it before its locks end.
    pub(super) fn all_of_environment() -> Vec<Self> {
        let Some(innermost) = Self::of_environment() else { return Vec::new() };
        let outer = env::var_os(OUTER).unwrap_or_default();
        let outer = outer.as_bytes().split(|byte| *byte == b'\n').filter_map(Self::read);
        iter::once(innermost).chain(outer).collect()
    }

    /// The value of [`OUTER`] for a command of this process. None: no run is around it. A
    /// reservation does not count, because it terminates nothing.
    pub(super) fn for_command() -> Option<OsString> {
        if env::var_os(reservation::RESERVED).is_some() {
            return None;
        }
        Self::of_environment()?;
        let variables =
            [OWNER, KEYS, TOKENS].map(|name| env::var_os(name).unwrap_or_default());
        let mut lines = variables.map(OsString::into_vec).join(&b'\t');
        if let Some(outer) = env::var_os(OUTER) {
            lines.push(b'\n');
            lines.extend(outer.into_vec());
        }
        Some(OsString::from_vec(lines))
    }

    fn read(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b'\t');
        let (owner, keys, tokens) = (fields.next()?, fields.next()?, fields.next()?);
        let text = |bytes| str::from_utf8(bytes).ok();
        if fields.next().is_some() {
            return None;
        }
        Self::parse(keys, text(tokens)?, text(owner)?.to_owned())
    }

    fn parse(keys: &[u8], tokens: &str, owner: String) -> Option<Self> {
        let keys: Vec<&[u8]> = keys.split(|byte| *byte == b',').collect();
        let tokens: Vec<&str> = tokens.split(',').collect();
        if owner.is_empty() || keys.len() != tokens.len() {
            return None;
        }
        let lock = |(key, token): (&[u8], &str)| {
            Some(Lock { key: Text(key.to_vec()), token: token.parse().ok()? })
        };
        let locks = keys.into_iter().zip(tokens).map(lock).collect::<Option<_>>()?;
        Some(Self { owner, locks })
    }

    /// Compares a request with the locks that the outer run holds according to the server. Asks
    /// the server only if the two have keys in common.
    ///
    /// # Errors
    /// If the connection fails, or the user may not call INSPECT.
    fn relation(
        &self,
        connection: &mut Connection,
        request: &LockRequest,
    ) -> Result<Relation> {
        let is_requested = |lock: &&Lock| request.keys.contains(&lock.key);
        let common: Vec<Lock> = self.locks.iter().filter(is_requested).cloned().collect();
        if common.is_empty() {
            return Ok(Relation::None);
        }
        let held = still_held(connection, &self.owner, &common)?;
        let held_as = |key: &Text| held.iter().find(|held| held.lock.key == *key);
        if request.is_met_by(|key| held_as(key).is_some_and(is_same_hold)) {
            return Ok(Relation::Holds);
        }
        if request.is_met_by(|key| held_as(key).is_none()) {
            return Ok(Relation::None);
        }
        let keys = held.iter().map(|held| held.lock.key.to_string());
        Ok(Relation::Blocks(keys.collect::<Vec<_>>().join(", ")))
    }
}

impl Worker {
    /// Whether the run that started this one holds the locks. Without an answer it does not.
    /// Reports a wait for that run, because it may never end.
    pub(super) fn is_nested(
        &self,
        connection: &mut Connection,
        budget: WaitBudget,
    ) -> bool {
        self.outer.iter().any(|outer| self.is_held_by(outer, connection, budget))
    }

    fn is_held_by(
        &self,
        outer: &OuterHold,
        connection: &mut Connection,
        budget: WaitBudget,
    ) -> bool {
        match outer.relation(connection, &self.request) {
            Ok(Relation::Holds) => true,
            Ok(Relation::Blocks(keys)) if !matches!(budget, WaitBudget::NoWait) => {
                self.send(Event::Note(format!(
                    "waiting for {keys}, held by the run that started this one ({}): \
                     not released before this command ends",
                    outer.owner
                )));
                false
            }
            _ => false,
        }
    }
}

/// Executes the command under the outer run's locks, in place of this process, unless a signal
/// has come in the meantime. Returns if that fails.
///
/// # Errors
/// If this process cannot be stopped by a signal, or the signals cannot be unblocked.
pub(super) fn execute(
    command: &[OsString],
    stderr: &Stderr,
    events: &Receiver<Event>,
) -> Result<Ending> {
    if let Some(left) = reservation::time_left() {
        stderr.info(&format!(
            "the command uses the reservation of this shell, which ends in {left}; it is not \
             terminated then"
        ));
    }
    stderr.flush();
    // Before the events are read: from now on signals take effect at once, and none is lost.
    child::unblock_signals()?;
    for event in events.try_iter() {
        if let Event::Signal(signal) = event
            && let Some(signal) = waiting::handle_signal(signal, stderr)?
        {
            return Ok(Ending::of_signal(signal));
        }
    }
    Ok(Ending::Status(child::execute(command)))
}

/// Whether the hold is the one that the environment describes. The command keeps the tokens with
/// which it was started, but the server assigns larger ones when it adopts the lock, for example
/// in a role change. No other run has the owner, so an adopted hold of this owner is the outer
/// run's.
fn is_same_hold(held: &HeldLock) -> bool {
    let is_adopted_later = |token| held.is_adopted && token > held.lock.token;
    match held.token {
        None => held.is_adopted,
        Some(token) => token == held.lock.token || is_adopted_later(token),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(keys: &str, tokens: &str) -> Option<usize> {
        let outer = OuterHold::parse(keys.as_bytes(), tokens, "me".to_owned());
        outer.map(|outer| outer.locks.len())
    }

    #[test]
    fn ambiguous_or_invalid_variables_describe_no_run() {
        assert_eq!(parsed("k", "7"), Some(1));
        assert_eq!(parsed("k,l", "7,8"), Some(2));
        assert_eq!(parsed("a,b", "7"), None);
        assert_eq!(parsed("k", "7,8"), None);
        assert_eq!(parsed("k", ""), None);
        assert_eq!(parsed("k", "-7"), None);
        assert_eq!(OuterHold::parse(b"k", "7", String::new()), None);
    }
}
