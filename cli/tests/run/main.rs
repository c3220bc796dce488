//! `gpulock run`, with real servers and real commands.
//!
//! # Layout
//! - [`statuses`]: what it ends with, and hands on to the command
//! - [`outlives_nothing`]: a command is dead before its lock is another's
//! - [`comes_back`]: what the command is not to notice
//! - [`signals`]: signals, job control, the terminal
//! - [`pool`]: the GPUs of a host
//! - [`many`]: fifty at once
//! - [`runner`], [`relay`], [`lease_end`]: what they share

mod comes_back;
mod lease_end;
mod many;
mod outlives_nothing;
mod pool;
mod relay;
mod runner;
mod signals;
mod statuses;
