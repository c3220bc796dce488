//! What the engine needs from a server: keys, a clock, and the answer to whether it may write.

use crate::manager::LockManager;
use crate::state::clock::Now;
use crate::state::key_state::{Expires, KeyMeta, KeyState};
use crate::state::lock::Name;

/// Whether the server accepts a write to a key that no command of the client names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// It accepts the write.
    Granted,
    /// It refuses every write, or this one, for now.
    Refused,
    /// Another node of the cluster serves the key.
    Elsewhere,
}

/// The keys of a server, and the manager of its locks.
///
/// **Nothing of the manager is borrowed while a method runs**: a server may call back into the
/// module from any of them (opening an expired key deletes it and fires notifications). The
/// engine therefore keeps owned values only between two calls.
///
/// An open key shows one state until the engine writes it; the engine opens one key at a time.
pub trait Keyspace {
    /// An open key. Dropping it closes it.
    type Key;

    /// Lets the manager decide. `decide` must not use the keyspace.
    fn with_manager<T>(&mut self, decide: impl FnOnce(&mut LockManager) -> T) -> T;

    /// The clock by which the server expires keys.
    fn now(&self) -> Now;

    /// Starts or stops calling [`LockManager::command_seen`] before each command of the server.
    /// Called between two commands only.
    fn listen(&mut self, is_on: bool);

    /// Whether work that belongs to no client's command may start now. False while the server
    /// is paused, loading, a replica, or in the middle of a command.
    fn may_start(&mut self) -> bool;

    /// Whether the server would accept a client's write to this key.
    fn permission(&mut self, key: &[u8]) -> Permission;

    /// The permission that applies to every key of this keyspace, as far as it is known already.
    fn known_permission(&self) -> Option<Permission>;

    /// Whether this server is a node of a cluster.
    fn in_cluster(&self) -> bool;

    /// Whether keys that the current command does not name may be written. False in a script or
    /// a transaction, which must not see them change between two of its own commands.
    fn may_write_other_keys(&self) -> bool;

    /// Whether the work that began at `began` has used up its time.
    fn is_time_up(&self, began: Now, longest_us: u64) -> bool {
        self.now().micros().abs_diff(began.micros()) >= longest_us
    }

    /// Runs one part of a larger piece of work, so that a failure in it does not end the rest.
    fn isolated(&mut self, work: impl FnOnce(&mut Self)) {
        work(self);
    }

    /// Opens a key that the current command does not name. None when its database is gone.
    fn open(&mut self, name: Name<'_>) -> Option<Self::Key>;

    /// What the key shows without its value, whose reading costs the server a copy.
    fn meta(&mut self, key: &Self::Key) -> KeyMeta;

    /// When the key expires; none when it holds no string.
    fn expiry(&mut self, key: &Self::Key) -> Option<Expires>;

    /// What the key shows.
    fn state<'k>(&mut self, key: &'k Self::Key) -> KeyState<'k>;

    /// The same for a key that holds a string and whose expiry is known.
    fn string_state<'k>(&mut self, key: &'k Self::Key, expires: Expires) -> KeyState<'k>;

    /// The same for a rule that ends the hold of `owner`: in that case the expiry is
    /// [`Expires::Unread`], which saves the server a look-up.
    fn state_for_owner<'k>(&mut self, key: &'k Self::Key, owner: &[u8]) -> KeyState<'k>;

    /// Whether the module wrote the value, or has read it before. False also when that cannot
    /// be known.
    fn is_ours(&mut self, key: &Self::Key) -> bool;

    /// `SET key owner PXAT until_ms`
    fn set(&mut self, key: &mut Self::Key, owner: &[u8], until_ms: u64);

    /// `PEXPIREAT key until_ms`
    fn expire(&mut self, key: &mut Self::Key, until_ms: u64);

    /// `DEL key`
    fn delete(&mut self, key: &mut Self::Key);
}
