//! Fault-injection tests: faults are injected into a server under load, all calls of its
//! clients and their replies are recorded, and a checker that knows nothing of the
//! module's implementation verifies the guarantees.
//!
//! # Layout
//! - [`history`]: the recorded entries and their file format. [`clock`]: their times.
//! - [`client`]: one client. [`locks`]: the locks that it uses. [`worker`]: a client in a separate process; `worker_pool`:
//!   several of them. [`recorder`]: collects the entries of all. `rng`: seeded random
//!   decisions. [`barrier`]: gives a fault exclusive access to the server.
//! - [`faults`]: the faults, one per module.
//! - [`checker`]: the rules, one per module. It only uses the history.
//! - [`run`]: rounds of load, faults and checks. [`report`]: their summary.

pub mod barrier;
pub mod checker;
pub mod client;
pub mod clock;
pub mod faults;
pub mod history;
pub mod locks;
mod protocol;
pub mod recorder;
pub mod report;
mod rng;
pub mod run;
mod wire;
pub mod worker;
mod worker_pool;
