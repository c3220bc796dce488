//! Where the server enters the module, and what follows each entry: loading, commands, the timer,
//! events, blocked clients, and the delivery of everything that they caused.

mod background;
pub(crate) mod config_checks;
pub(crate) mod dispatch;
mod events;
mod flush;
pub(crate) mod load;
mod settings;
pub(crate) mod waiters;
