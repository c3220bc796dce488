//! Helpers that several topics share.

pub(crate) mod aof;
pub(crate) mod background_load;
pub(crate) mod c_library;
pub(crate) mod call_generator;
pub(crate) mod clock;
pub(crate) mod cluster_client;
pub(crate) mod cluster_worker;
pub(crate) mod counter_law;
pub(crate) mod counters;
pub(crate) mod events;
pub(crate) mod lock_sets;
pub(crate) mod locks;
pub(crate) mod median;
pub(crate) mod ownership;
pub(crate) mod queue;
pub(crate) mod raw_connection;
pub(crate) mod relay;
pub(crate) mod rng;
pub(crate) mod server_state;
pub(crate) mod server_variants;
pub(crate) mod sessions;
pub(crate) mod silence;
