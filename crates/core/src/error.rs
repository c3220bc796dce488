//! Why a call was refused with an error: what was wrong and what would be right, with the
//! prefix that Redis clients know.

use std::fmt;

/// An error answer. Its `Display` is the whole reply, prefix included; no byte of it comes
/// from a client, so it holds neither line ends nor NULs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// The key holds something that is no string.
    WrongType,
    /// An option that is unknown, given twice, lacks its value, or does not go with another.
    Syntax,
    /// Fewer keys than their number says.
    FewKeys,
    /// A key is named twice.
    KeyTwice,
    /// The owner is empty or too long.
    Owner,
    /// A number is no integer, or out of its range.
    Number {
        /// What the number is for, as the client wrote it.
        what: &'static str,
        /// Smallest value allowed.
        min: u64,
        /// Largest value allowed.
        max: u64,
    },
    /// The REASON is too long.
    Reason,
    /// The pattern of MATCH is too long.
    Pattern,
    /// LIST would keep the server for too long.
    ListWork,
    /// The lease asked for is longer than the operator allows.
    LeaseTooLong {
        /// `gpulock.max-lease`, in ms.
        max_ms: u64,
    },
    /// The server is out of memory, and this would need more.
    OutOfMemory,
    /// This server is a replica.
    ReadOnly,
    /// A bug of ours.
    Internal,
    /// SESSION where no connection of a client's own calls.
    SessionInScript,
    /// As many wait as the operator allows.
    MaxWaiters,
    /// The wait would close a circle.
    Deadlock {
        /// The owners of the circle, quoted.
        chain: String,
    },
    /// The server became a replica while the client waited.
    Unblocked,
    /// The lock is, or will be, served by another node.
    TryAgain,
    /// The server does not let a module block this connection.
    CannotBlock,
    /// The rights of the client's user were taken away while it waited.
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
                out.write_str("ERR numkeys must be the number of keys that follow it")
            }
            CommandError::KeyTwice => out.write_str("ERR the keys must differ"),
            CommandError::Owner => out.write_str("ERR the owner must be 1 to 1024 bytes long"),
            CommandError::Number { what, min, max } => {
                write!(out, "ERR {what} must be an integer from {min} to {max}")
            }
            CommandError::Reason => out.write_str("ERR REASON must be at most 64 bytes long"),
            CommandError::Pattern => out.write_str("ERR MATCH must be at most 1024 bytes long"),
            CommandError::ListWork => out.write_str(
                "ERR LIST has to look at too much: use a MATCH that fits fewer or is simpler, \
                 or a lower LIMIT",
            ),
            CommandError::LeaseTooLong { max_ms } => write!(
                out,
                "ERR the lease must be at most {max_ms} ms (gpulock.max-lease)"
            ),
            CommandError::OutOfMemory => {
                out.write_str("OOM command not allowed when used memory > 'maxmemory'.")
            }
            CommandError::ReadOnly => {
                out.write_str("READONLY You can't write against a read only replica.")
            }
            CommandError::Internal => out.write_str("ERR internal error"),
            CommandError::SessionInScript => out.write_str(
                "ERR SESSION needs a connection of the caller's own, not a script or function",
            ),
            CommandError::MaxWaiters => {
                out.write_str("MAXWAITERS too many clients wait (gpulock.max-waiters)")
            }
            CommandError::Deadlock { chain } => write!(out, "DEADLOCK {chain}"),
            CommandError::Unblocked => out.write_str(
                "UNBLOCKED force unblock from blocking operation, \
                 instance state changed (master -> replica?)",
            ),
            CommandError::TryAgain => {
                out.write_str("TRYAGAIN the slot of this lock is moving, ask again")
            }
            CommandError::CannotBlock => out.write_str(
                "ERR BLOCK is not possible on this connection: the server does not let a \
                 module block a client with subscriptions. Use another connection",
            ),
            CommandError::NoPermission => out.write_str(
                "NOPERM the user's rights to the command or the lock were withdrawn while \
                 the client waited",
            ),
        }
    }
}
