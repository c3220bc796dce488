//! The errors that commands reply with, with the prefixes that Redis clients know.

use std::fmt;

/// An error reply. Its `Display` is the whole reply, including the prefix. None of its bytes are
/// copied unescaped from a client, so it contains neither line breaks nor NULs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// The key holds a value that is not a string.
    WrongType,
    /// An option is unknown, given twice, lacks its value, or conflicts with another one.
    Syntax,
    /// `numkeys` is greater than the number of arguments that follow it.
    FewKeys,
    /// A key is given twice.
    KeyTwice,
    /// The owner is empty or too long.
    Owner,
    /// A number is not an integer, or is out of range.
    Number {
        /// The name of the option or argument.
        what: &'static str,
        /// The smallest value allowed.
        min: i64,
        /// The largest value allowed.
        max: i64,
    },
    /// The PRIORITY is higher than `gpulock.max-priority`.
    PriorityTooHigh {
        /// `gpulock.max-priority`.
        max: i64,
    },
    /// The SHARE is empty or too long.
    Share,
    /// The tag of NEAR is empty or too long.
    Tag,
    /// The sizes of GROUPS do not add up to the number of keys.
    GroupSizes,
    /// GROUPS requires more groups with COUNT keys than there are.
    SmallGroups,
    /// The REASON is too long.
    Reason,
    /// The MATCH pattern is too long.
    Pattern,
    /// The CURSOR was not returned by METRICS.
    Cursor,
    /// LIST would block the server for too long.
    ListWork,
    /// The requested lease is longer than `gpulock.max-lease`.
    LeaseTooLong {
        /// `gpulock.max-lease`, in ms.
        max_ms: u64,
    },
    /// The command needs memory, and the server has reached `maxmemory`.
    OutOfMemory,
    /// This server is a replica.
    ReadOnly,
    /// A bug in the module.
    Internal,
    /// SESSION in a call that does not come from a client connection.
    SessionInScript,
    /// The number of waiting clients has reached `gpulock.max-waiters`.
    MaxWaiters,
    /// The wait would close a cycle.
    Deadlock {
        /// The owners in the cycle, quoted.
        chain: String,
    },
    /// The server became a replica while the client waited.
    Unblocked,
    /// Another node serves the lock, or is about to.
    TryAgain,
    /// The server does not let a module block this connection.
    CannotBlock,
    /// The client's user lost its permissions while the client was waiting.
    NoPermission,
}

impl fmt::Display for CommandError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CommandError::WrongType => out.write_str(
                "WRONGTYPE Operation against a key holding the wrong kind of value",
            ),
            CommandError::Syntax => out.write_str("ERR syntax error"),
            CommandError::FewKeys => {
                out.write_str("ERR Number of keys can't be greater than number of args")
            }
            CommandError::KeyTwice => out.write_str("ERR duplicate key"),
            CommandError::Owner => out.write_str("ERR owner must be 1 to 1024 bytes long"),
            CommandError::Number { what, min, max } => {
                write!(out, "ERR {what} must be an integer from {min} to {max}")
            }
            CommandError::PriorityTooHigh { max } => {
                write!(out, "ERR PRIORITY exceeds gpulock.max-priority ({max})")
            }
            CommandError::Share => out.write_str("ERR SHARE must be 1 to 256 bytes long"),
            CommandError::Tag => out.write_str("ERR NEAR must be 1 to 64 bytes long"),
            CommandError::GroupSizes => {
                out.write_str("ERR the sizes of GROUPS must add up to numkeys")
            }
            CommandError::SmallGroups => out.write_str(
                "ERR GROUPS m requires at least m groups with COUNT keys or more",
            ),
            CommandError::Reason => out.write_str("ERR REASON must be at most 64 bytes long"),
            CommandError::Pattern => out.write_str("ERR MATCH must be at most 1024 bytes long"),
            CommandError::Cursor => {
                out.write_str("ERR unknown CURSOR: start again with CURSOR 0")
            }
            CommandError::ListWork => out.write_str(
                "ERR LIST would take too long: use CURSOR to list the locks in portions, \
                 a simpler MATCH pattern, or a lower LIMIT",
            ),
            CommandError::LeaseTooLong { max_ms } => {
                write!(out, "ERR lease exceeds gpulock.max-lease ({max_ms} ms)")
            }
            CommandError::OutOfMemory => {
                out.write_str("OOM command not allowed when used memory > 'maxmemory'.")
            }
            CommandError::ReadOnly => {
                out.write_str("READONLY You can't write against a read only replica.")
            }
            CommandError::Internal => out.write_str("ERR internal error"),
            CommandError::SessionInScript => out.write_str(
                "ERR SESSION requires a client connection, not a script or function",
            ),
            CommandError::MaxWaiters => {
                out.write_str("MAXWAITERS too many waiting clients (gpulock.max-waiters)")
            }
            CommandError::Deadlock { chain } => write!(out, "DEADLOCK {chain}"),
            CommandError::Unblocked => out.write_str(
                "UNBLOCKED force unblock from blocking operation, \
                 instance state changed (master -> replica?)",
            ),
            CommandError::TryAgain => out.write_str(
                "TRYAGAIN the slot of this lock is being migrated, retry the command",
            ),
            CommandError::CannotBlock => out.write_str(
                "ERR BLOCK is not possible on this connection: the server does not let a \
                 module block a client with subscriptions. Use another connection",
            ),
            CommandError::NoPermission => out.write_str(
                "NOPERM the user lost permission for the command or the key while the client \
                 was waiting",
            ),
        }
    }
}
