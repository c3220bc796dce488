//! The keys of the server's locks as candidates. A shell waits for them, so there is little time,
//! and errors only mean that there are no candidates.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use clap::Command;
use clap_complete::{ArgValueCompleter, CompletionCandidate};

use crate::replies::{self, Listed};
use crate::server::Address;

/// How long a user waits at most.
const TIMEOUT: Duration = Duration::from_millis(500);

/// Maximum number of candidates.
const LIMIT: usize = 1000;

/// The identifiers of arguments that are keys.
const ARGUMENTS: [&str; 2] = ["key", "keys"];

/// Adds the keys to the arguments of all subcommands that take some.
pub(super) fn complete(command: Command, address: &Address) -> Command {
    command.mut_subcommands(|subcommand| {
        subcommand.mut_args(|argument| {
            if !ARGUMENTS.iter().any(|id| argument.get_id() == id) {
                return argument;
            }
            let (address, delimiter) = (address.clone(), argument.get_value_delimiter());
            argument.add(ArgValueCompleter::new(move |begin: &OsStr| {
                candidates(&address, begin, delimiter)
            }))
        })
    })
}

fn candidates(
    address: &Address,
    begin: &OsStr,
    delimiter: Option<char>,
) -> Vec<CompletionCandidate> {
    let locks = locks_within(address, begin, TIMEOUT).into_iter();
    let is_one = |lock: &Listed| {
        let is_delimiter = |byte: &u8| Some(char::from(*byte)) == delimiter;
        !lock.key.0.iter().any(is_delimiter)
    };
    locks.filter(is_one).map(candidate).collect()
}

fn candidate(lock: Listed) -> CompletionCandidate {
    let state = match &lock.owner {
        Some(owner) => format!("held by {owner}"),
        None if lock.is_held() => "held".to_owned(),
        None => "free".to_owned(),
    };
    CompletionCandidate::new(OsString::from_vec(lock.key.0)).help(Some(state.into()))
}

/// The locks whose keys begin with this; none if the server does not return them in time.
fn locks_within(address: &Address, begin: &OsStr, timeout: Duration) -> Vec<Listed> {
    let (sender, locks) = channel();
    let (address, pattern) = (address.clone(), pattern(begin.as_bytes()));
    // On another thread, because a name lookup cannot be interrupted.
    thread::spawn(move || sender.send(list(&address, &pattern, timeout)));
    locks.recv_timeout(timeout).ok().and_then(Result::ok).unwrap_or_default()
}

fn list(address: &Address, pattern: &[u8], timeout: Duration) -> Result<Vec<Listed>> {
    replies::list(&mut address.connect_within(timeout)?, pattern, LIMIT)
}

/// The glob-style pattern for all keys with this beginning.
fn pattern(begin: &[u8]) -> Vec<u8> {
    let mut pattern = Vec::new();
    for byte in begin {
        if b"*?[]\\^".contains(byte) {
            pattern.push(b'\\');
        }
        pattern.push(*byte);
    }
    pattern.push(b'*');
    pattern
}
