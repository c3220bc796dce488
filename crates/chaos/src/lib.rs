//! Why anyone may trust the lock keeper on its worst day: a server under load is harmed in
//! every way there is, all that its clients asked and heard is written down, and a checker
//! that knows nothing of the module decides whether what was promised was kept.
//!
//! # Layout
//! - [`history`]: what is written down, and its file. [`clock`]: the times in it.
//! - [`client`]: what one client does; [`worker`]: one in a process of its own, `crew`:
//!   several; [`record`]: where they all write. [`dice`]: chance, which a seed repeats. [`gate`]: how a fault has
//!   the server for itself.
//! - [`faults`]: what is done to the server, one fault a file.
//! - [`checker`]: what is promised, one rule a file. It sees the history alone.
//! - [`run`]: rounds of all that. [`report`]: what is told of them.

pub mod checker;
pub mod client;
pub mod clock;
mod crew;
pub mod dice;
pub mod faults;
pub mod gate;
pub mod history;
pub mod record;
pub mod report;
pub mod run;
mod speech;
mod wire;
pub mod worker;
