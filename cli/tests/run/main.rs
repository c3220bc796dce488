//! `gpulock run`, with real servers and real commands.
//!
//! # Layout
//! - [`exit_status`]: its status, and what it passes on to the command
//! - [`waiting`]: on a server that returns errors, hangs, or goes away
//! - [`turns`]: the order in which runs are served, and the lock that is preferred
//! - [`deadlines`]: the command is dead before another owner gets its lock
//! - [`nested`]: a run inside a run
//! - [`notice`]: the holder is asked to release its lock
//! - [`drain`]: processes that read the command's output
//! - [`lost`]: what else happens when a lock is lost; [`survivors`]: processes that the command
//!   left running; [`watchdog`]: `gpulock` or the watchdog is killed or stopped
//! - [`reconnect`], [`role_change`]: failures that the command does not notice
//! - [`signals`]: signals, job control, the terminal; [`interrupts`]: Control-C in scripts
//! - [`pool`]: the GPUs of a host; [`visible_devices`]: those that were allotted from outside;
//!   [`slots`]: shares of a GPU; [`foreign_use`]: processes that use a GPU without its lock;
//!   [`amd`]: AMD GPUs; [`templates`]: `--set`
//! - [`proc_mount`]: a `/proc` of another PID namespace
//! - [`events`]: the lines of `--events`
//! - [`contention`]: fifty runs at once
//! - [`runner`], [`gpu_host`], [`scripts`], [`terminal`], [`relay`], [`lease_end`]: shared helpers

mod amd;
mod contention;
mod deadlines;
mod drain;
mod events;
mod exit_status;
mod foreign_use;
mod gpu_host;
mod interrupts;
mod lease_end;
mod lost;
#[path = "../support/namespace.rs"]
mod namespace;
mod nested;
mod notice;
mod pool;
mod proc_mount;
mod reconnect;
mod relay;
mod role_change;
mod runner;
mod scripts;
mod signals;
mod slots;
mod survivors;
mod templates;
mod terminal;
mod turns;
mod visible_devices;
mod waiting;
mod watchdog;
