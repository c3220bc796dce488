//! Commands that hold locks without a process, and that release locks on behalf of their owner
//! or by force.
//!
//! # Layout
//! - [`reserve`]: acquires locks that no process holds; [`granted`]: until they are printed;
//!   [`reservation`]: what describes them in the environment
//! - [`release`]: releases a lock, or ([`release_reservation`]) those of a reservation
//! - [`force`], [`forced_release`]: releases a lock by force, or gives its holder notice

pub(crate) mod force;
pub(crate) mod forced_release;
mod granted;
pub(crate) mod release;
mod release_reservation;
pub(crate) mod reservation;
pub(crate) mod reserve;
