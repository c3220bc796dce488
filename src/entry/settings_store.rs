//! The settings in the server's configuration are those of the lock manager.

use gpulock_core::state::settings::Settings;

use crate::manager::with_manager;
use crate::redis::config::SettingsStore;

/// The settings of the lock manager.
pub(super) struct ManagerSettings;

impl SettingsStore for ManagerSettings {
    fn read<T>(read: impl FnOnce(&Settings) -> T) -> T {
        with_manager(|manager| read(manager.settings()))
    }

    fn change(change: impl FnOnce(&mut Settings)) {
        with_manager(|manager| manager.configure(change));
    }
}
