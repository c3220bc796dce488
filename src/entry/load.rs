//! Loading and unloading the module.

use gpulock_core::LockManager;
use gpulock_core::state::settings::Settings;

use crate::commands;
use crate::entry::settings_store::ManagerSettings;
use crate::entry::{config_checks, events, listening};
use crate::manager::{now, set_manager, with_manager};
use crate::redis::context::Context;
use crate::redis::exports::Module;
use crate::redis::random::random_u64;
use crate::redis::{
    blocked_client, command_filter, config, detached_context, info_section,
    needed_commands, panic_boundary, replication_listeners, server_events,
    static_strings, unload,
};
use crate::report::info::Info;

/// The module.
pub(crate) struct Gpulock;

impl Module for Gpulock {
    fn load(context: Context<'_>, arguments: &[&[u8]]) -> Result<(), String> {
        needed_commands::require(context)?;
        detached_context::create(context);
        let settings = settings_from(arguments)?;
        let seed = random_u64();
        set_manager(Some(LockManager::new(settings.clone(), seed, now())));
        if !context.flags().is_primary() {
            with_manager(|manager| manager.demoted(now()));
        }
        commands::register_all(context)?;
        config::register::<ManagerSettings>(context, &settings)?;
        info_section::register::<Info>(context);
        server_events::subscribe(context, events::handle)?;
        command_filter::set_handler(listening::before_command);
        config_checks::check_all(context);
        Ok(())
    }

    fn may_unload(context: Context<'_>) -> bool {
        unload::is_possible(context)
    }

    fn forget() {
        set_manager(None);
        panic_boundary::reset_internal_errors();
        static_strings::forget();
        if let Some(context) = detached_context::get() {
            command_filter::unregister(context);
        }
        detached_context::free();
        server_events::forget();
        replication_listeners::listeners_may_have_changed();
        blocked_client::forget();
    }

    fn close_clients(context: Context<'_>) {
        unload::close_clients(context);
    }
}

/// The settings from the words after the module's path: pairs of name and value.
fn settings_from(arguments: &[&[u8]]) -> Result<Settings, String> {
    let mut settings = Settings::default();
    for pair in arguments.chunks(2) {
        let [name, value] = pair else {
            return Err("module arguments must be name-value pairs".to_owned());
        };
        settings.set(name, value)?;
    }
    Ok(settings)
}
