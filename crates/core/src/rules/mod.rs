//! The rules of locking: one file for each operation, each an `impl LockManager` block. A rule gets
//! the state of the keys as an argument, changes the record, and returns what to write. Rules
//! neither read nor write keys: that is the engine's part.

pub mod acquire;
pub mod acquire_any;
pub mod deadlock;
pub mod extend;
pub mod force_release;
mod groups;
pub mod hand_off;
mod hold;
pub mod leave;
pub mod lock_set;
mod near;
mod notice;
mod probe;
mod probe_schedule;
mod reconcile;
pub mod release;
mod role;
mod room;
pub mod session;
mod silence;
mod sweep;
#[cfg(test)]
pub(crate) mod test_support;
mod turn;
#[cfg(test)]
mod turn_laws;
mod undelivered;
pub mod wait;
