//! What is done to a server under load: each fault is a file, or a family of like ones. A
//! fault says what it needs, does it, and writes into the history what it excuses; judging is
//! the checker's.

pub(crate) mod aof_full;
pub(crate) mod busy_script;
mod client_paused;
mod clock_stepped;
mod configured;
mod connection_killed;
mod disk_full;
mod evicted;
mod failover_given_up;
mod half_open;
mod island;
mod lengthened;
mod module_reloaded;
mod no_replicas;
mod out_of_memory;
mod own_client;
mod process_killed;
mod process_stopped;
mod refusal;
pub(crate) mod rights_withdrawn;
mod saved;
mod server_killed;
mod server_stalled;
pub(crate) mod site;
mod subscribed;
mod touched;
mod unblocked;
mod wall_clock;

pub use site::Site;

/// Something that goes wrong.
pub trait Fault: Sync {
    /// What it is called on the command line and in the history.
    fn name(&self) -> &'static str;

    /// How often it strikes, compared with others.
    fn weight(&self) -> u64 {
        10
    }

    /// Whether it can happen here.
    ///
    /// # Errors
    /// What is missing.
    fn needs(&self, _site: &Site) -> Result<(), String> {
        Ok(())
    }

    /// Makes it happen; false when there was nothing to hit.
    ///
    /// # Errors
    /// When it could not be done although it should have been possible: a finding.
    fn strike(&self, site: &mut Site) -> Result<bool, String>;
}

/// All that are known.
pub fn all() -> Vec<&'static dyn Fault> {
    let mut all: Vec<&'static dyn Fault> = vec![
        &process_killed::ProcessKilled,
        &process_stopped::ProcessStopped,
        &connection_killed::ConnectionKilled,
        &unblocked::Unblocked,
        &client_paused::ClientPaused,
        &failover_given_up::FailoverGivenUp,
        &server_stalled::ServerStalled,
        &server_stalled::DataReloaded,
        &saved::AofRewritten,
        &saved::SnapshotTaken,
        &evicted::Evicted,
        &out_of_memory::OutOfMemory,
        &disk_full::DiskFull,
        &aof_full::AofFull,
        &no_replicas::NoReplicas,
        &busy_script::BusyScript,
        &rights_withdrawn::RightsWithdrawn,
        &subscribed::Subscribed,
        &configured::Configured,
        &module_reloaded::ModuleReloaded,
        &server_killed::ServerKilled,
        &half_open::HalfOpen,
        &clock_stepped::ClockStepped,
    ];
    all.extend(lengthened::ALL.iter().map(|fault| fault as &dyn Fault));
    all.extend(touched::ALL.iter().map(|touch| touch as &dyn Fault));
    all
}

/// Those of these names, parted by commas.
///
/// # Errors
/// Which name is unknown, and what there is.
pub fn named(names: &str) -> Result<Vec<&'static dyn Fault>, String> {
    let find = |name: &str| {
        all().into_iter().find(|fault| fault.name() == name).ok_or_else(|| {
            let known: Vec<&str> = all().iter().map(|fault| fault.name()).collect();
            format!("no fault {name:?}; there are {}", known.join(", "))
        })
    };
    names.split(',').filter(|name| !name.is_empty()).map(find).collect()
}
