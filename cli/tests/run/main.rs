//! `gpulock run`, with real servers and real commands.
//!
//! # Layout
//! - [`statuses`]: what it ends with, and hands on to the command
//! - [`waits`]: on a server that refuses, hangs or goes away
//! - [`outlives_nothing`]: a command is dead before its lock is another's
//! - [`lost`]: what else happens then; [`leftovers`]: what the command left running;
//!   [`guarded`]: without `gpulock`, or without the guard
//! - [`comes_back`]: what the command is not to notice
//! - [`signals`]: signals, job control, the terminal
//! - [`pool`]: the GPUs of a host
//! - [`many`]: fifty at once
//! - [`runner`], [`scripts`], [`relay`], [`lease_end`]: what they share

mod comes_back;
mod guarded;
mod lease_end;
mod leftovers;
mod lost;
mod many;
mod outlives_nothing;
mod pool;
mod relay;
mod runner;
mod scripts;
mod signals;
mod statuses;
mod waits;
