//! The faults injected into a server under load. Each module has one fault or a family of
//! faults, which lists its requirements, injects itself, and records the exemptions in
//! the history.

pub(crate) mod aof_full;
mod background_save;
pub(crate) mod busy_script;
mod client_paused;
mod clock_stepped;
mod config_changed;
mod connection_killed;
pub(crate) mod context;
mod disk_full;
mod evicted;
mod failover_aborted;
mod fault_client;
mod half_open;
mod lease_changed;
mod module_reloaded;
mod network_namespace;
mod no_replicas;
mod out_of_memory;
pub(crate) mod permissions_revoked;
mod plain_commands;
mod process_killed;
mod process_stopped;
mod server_killed;
mod server_stalled;
mod subscribed;
mod unblocked;
mod wall_clock;
mod write_refusal;

pub use context::FaultContext;

/// A fault.
pub trait Fault: Sync {
    /// Name on the command line and in the history.
    fn name(&self) -> &'static str;

    /// Relative frequency.
    fn weight(&self) -> u64 {
        10
    }

    /// Whether the fault is possible on this server and machine.
    ///
    /// # Errors
    /// Describes what is missing.
    fn requirements(&self, _context: &FaultContext) -> Result<(), String> {
        Ok(())
    }

    /// Injects the fault; false if there was no target.
    ///
    /// # Errors
    /// If the fault failed although it should be possible, which counts as a violation.
    fn inject(&self, context: &mut FaultContext) -> Result<bool, String>;
}

/// All faults.
pub fn all() -> Vec<&'static dyn Fault> {
    let mut all: Vec<&'static dyn Fault> = vec![
        &process_killed::ProcessKilled,
        &process_stopped::ProcessStopped,
        &connection_killed::ConnectionKilled,
        &unblocked::Unblocked,
        &client_paused::ClientPaused,
        &failover_aborted::FailoverAborted,
        &server_stalled::ServerStalled,
        &server_stalled::DataReloaded,
        &background_save::AofRewritten,
        &background_save::SnapshotTaken,
        &evicted::Evicted,
        &out_of_memory::OutOfMemory,
        &disk_full::DiskFull,
        &aof_full::AofFull,
        &no_replicas::NoReplicas,
        &busy_script::BusyScript,
        &permissions_revoked::PermissionsRevoked,
        &subscribed::Subscribed,
        &config_changed::ConfigChanged,
        &module_reloaded::ModuleReloaded,
        &server_killed::ServerKilled,
        &half_open::HalfOpen,
        &clock_stepped::ClockStepped,
    ];
    all.extend(lease_changed::ALL.iter().map(|fault| fault as &dyn Fault));
    all.extend(plain_commands::ALL.iter().map(|touch| touch as &dyn Fault));
    all
}

/// The faults with these names, separated by commas.
///
/// # Errors
/// If a name is unknown.
pub fn named(names: &str) -> Result<Vec<&'static dyn Fault>, String> {
    let find = |name: &str| {
        all().into_iter().find(|fault| fault.name() == name).ok_or_else(|| {
            let known: Vec<&str> = all().iter().map(|fault| fault.name()).collect();
            format!("unknown fault {name:?}: expected {}", known.join(", "))
        })
    };
    names.split(',').filter(|name| !name.is_empty()).map(find).collect()
}
