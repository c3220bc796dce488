//! What `gpulock` knows about the locks that it acquires: which ones the user asks for, and the
//! calls that acquire, renew, check and release them. Nothing here waits, or decides how long a
//! lock is kept.
//!
//! # Layout
//! - [`options`]: the options that name the locks; [`turn`]: those that decide whose turn it is
//! - [`targets`]: the candidate locks; [`pool`], [`pool_name`], [`card`]: those of the GPUs of
//!   this host
//! - [`variables`], [`templates`]: how the granted locks are described to the command
//! - [`calls`]: the calls to the server
//! - [`owner`]: the owner that a hold gets

mod calls;
mod card;
mod options;
mod owner;
mod pool;
mod pool_name;
mod targets;
mod templates;
mod turn;
mod variables;

pub(crate) use self::calls::{
    HeldLock, Lock, LockRequest, Notice, extend, first_held, inspect_all, release,
    still_held,
};
pub(crate) use self::options::LockOptions;
pub(crate) use self::owner::{host, unique, with_random_number};
pub(crate) use self::pool::PoolOptions;
pub(crate) use self::pool_name::SLOTS;
pub(crate) use self::targets::Targets;
pub(crate) use self::turn::{TurnOptions, login_name};
pub(crate) use self::variables::{Variable, Variables};
