//! Where the server enters the module, and what follows each entry: loading, commands, the timer,
//! events, blocked clients, and the delivery of everything that they caused.

pub(crate) mod blocked_client_events;
pub(crate) mod config_checks;
mod deferred_work;
mod delivery;
pub(crate) mod dispatch;
mod events;
mod listening;
pub(crate) mod load;
mod settings_store;
mod timer;
