//! What the manager stores: locks and holds, wait queues, deferred work, what waits for delivery,
//! tokens, tags, settings, counters and the log. The files in here keep their data consistent; decisions
//! belong in `rules`.

pub mod age_list;
pub mod arena;
pub mod clock;
pub mod counters;
pub mod deferred;
pub mod event;
mod grant_counts;
pub mod hash_tag;
pub mod histogram;
pub mod hold_details;
mod hold_order;
mod index;
pub mod key_state;
pub mod lease;
pub mod listening;
pub mod lock;
pub mod lock_groups;
pub mod log;
pub mod outbox;
pub mod probe_round;
mod queue;
pub mod rounds;
pub mod settings;
mod share_positions;
pub(crate) mod sweep;
pub mod table;
pub mod tags;
pub mod token;
pub mod turn;
pub mod wait_queue;
pub(crate) mod work_budget;
