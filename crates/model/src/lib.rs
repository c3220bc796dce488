//! The rules of locking, explored exhaustively: the very keeper that ships, in a world as
//! simple as can be, and every order of steps in it.
//!
//! # Layout
//! - [`world`]: a server in small, around the keeper. [`keyspace`]: its keys and clock.
//!   `shell`: what the module does to keys; `commands`, [`ask`]: what clients do; `turn`:
//!   how those hear who wait; `outside`: everybody else.
//! - `line`, `holds`, `circle`: lines, holds and circles as the contract has them, kept by
//!   other means than the keeper's. [`law`]: what must hold. `check`: whether it does.
//!   `after`: whether it will.
//! - [`day`]: steps of every kind, for random tests and the fuzzer.
//! - [`scope`], [`action`]: what is explored. `canon`: when two worlds are the same.
//!   [`explore`]: the model. [`flaw`]: broken shells that must be caught.

pub mod action;
mod after;
pub mod ask;
mod canon;
mod check;
mod circle;
mod commands;
pub mod day;
pub mod explore;
pub mod flaw;
mod holds;
pub mod keyspace;
pub mod law;
mod line;
mod outside;
pub mod scope;
mod shell;
mod turn;
pub mod world;
