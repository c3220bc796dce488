//! Tests of the module on real servers. The environment variable `SERVERS` lists the
//! servers; each test runs on each of them as a case of its own:
//!
//! ```text
//! cargo test --test server                               all tests
//! cargo test --test server queue::                       the tests of one topic
//! cargo test --test server -- --exact "locks::name [redis 7.0.15]"
//! ```

#[macro_use]
mod harness;
mod support;

mod atomicity;
mod batches;
mod configuration;
mod deadlock;
mod document_links;
mod documentation;
mod external_changes;
mod locks;
mod memory;
mod notice;
mod overhead;
mod silence;
mod unique_owners;
mod wall_clock;
mod worked_examples;
mod acl {
    pub(crate) mod keys;
    pub(crate) mod recipes;
    pub(crate) mod waiters;
}
mod compatibility {
    pub(crate) mod release_script;
    pub(crate) mod replaced_lock_manager;
}
mod failover {
    pub(crate) mod acknowledged;
    pub(crate) mod cluster;
    pub(crate) mod isolated_primary;
    pub(crate) mod sentinel;
}
mod input {
    pub(crate) mod fuzz;
    pub(crate) mod injection;
    pub(crate) mod invalid_calls;
}
mod interface {
    pub(crate) mod command_info;
    pub(crate) mod renamed_commands;
    pub(crate) mod resp;
}
mod lock_sets {
    pub(crate) mod acquireany;
    pub(crate) mod deadlock;
    pub(crate) mod grants;
    pub(crate) mod groups;
    pub(crate) mod near;
    pub(crate) mod reservation;
    pub(crate) mod sessions;
    pub(crate) mod storm;
    pub(crate) mod unique_owners;
}
mod module {
    pub(crate) mod lifecycle;
    pub(crate) mod panics;
    pub(crate) mod upgrade;
    pub(crate) mod without_module;
}
mod observability {
    pub(crate) mod counters;
    pub(crate) mod events;
    pub(crate) mod list;
    pub(crate) mod log;
    pub(crate) mod metrics;
    pub(crate) mod side_effects;
}
mod queue {
    pub(crate) mod fifo;
    pub(crate) mod hand_off;
    pub(crate) mod kept_positions;
    pub(crate) mod leaving;
    pub(crate) mod many_waiters;
    pub(crate) mod races;
    pub(crate) mod subscribed_clients;
    pub(crate) mod turns;
    pub(crate) mod visibility;
    pub(crate) mod waiting;
}
mod replication {
    pub(crate) mod native_commands;
    pub(crate) mod propagation;
}
mod sessions {
    pub(crate) mod connection;
    pub(crate) mod disconnect;
    pub(crate) mod grace_period;
}
mod slot_migration {
    pub(crate) mod contention;
    pub(crate) mod waiters;
}
mod writes {
    pub(crate) mod paused;
    pub(crate) mod refused;
}

use std::process::ExitCode;

use harness::Test;

/// All tests, in the order in which they run.
fn all_tests() -> Vec<Test> {
    [
        documentation::TESTS_WITHOUT_SERVER,
        document_links::TESTS_WITHOUT_SERVER,
        worked_examples::TESTS,
        locks::TESTS,
        queue::fifo::TESTS,
        queue::hand_off::TESTS,
        queue::waiting::TESTS,
        queue::leaving::TESTS,
        queue::races::TESTS,
        queue::many_waiters::TESTS,
        queue::visibility::TESTS,
        queue::subscribed_clients::TESTS,
        queue::turns::TESTS,
        unique_owners::TESTS,
        queue::kept_positions::TESTS,
        lock_sets::acquireany::TESTS,
        lock_sets::grants::TESTS,
        lock_sets::groups::TESTS,
        lock_sets::near::TESTS,
        lock_sets::reservation::TESTS,
        lock_sets::unique_owners::TESTS,
        lock_sets::deadlock::TESTS,
        lock_sets::sessions::TESTS,
        lock_sets::storm::TESTS,
        deadlock::TESTS,
        sessions::disconnect::TESTS,
        sessions::grace_period::TESTS,
        sessions::connection::TESTS,
        external_changes::TESTS,
        notice::TESTS,
        silence::TESTS,
        wall_clock::TESTS,
        atomicity::TESTS,
        batches::TESTS,
        configuration::TESTS,
        observability::counters::TESTS,
        observability::events::TESTS,
        observability::list::TESTS,
        observability::log::TESTS,
        observability::metrics::TESTS,
        observability::metrics::TESTS_WITHOUT_SERVER,
        observability::side_effects::TESTS,
        interface::command_info::TESTS,
        interface::renamed_commands::TESTS,
        interface::resp::TESTS,
        input::fuzz::call_storm::TESTS,
        input::fuzz::refused_calls::TESTS,
        input::injection::TESTS,
        input::invalid_calls::TESTS,
        acl::keys::TESTS,
        acl::recipes::TESTS,
        acl::waiters::TESTS,
        compatibility::release_script::TESTS,
        compatibility::replaced_lock_manager::TESTS,
        replication::native_commands::TESTS,
        replication::propagation::TESTS,
        writes::paused::TESTS,
        writes::refused::TESTS,
        failover::acknowledged::TESTS,
        failover::cluster::TESTS,
        failover::isolated_primary::TESTS,
        failover::sentinel::TESTS,
        slot_migration::contention::TESTS,
        slot_migration::waiters::TESTS,
        module::lifecycle::TESTS,
        module::panics::TESTS,
        module::upgrade::TESTS,
        module::without_module::TESTS,
        overhead::TESTS,
        memory::TESTS,
    ]
    .concat()
}

fn main() -> ExitCode {
    harness::main(&all_tests())
}
