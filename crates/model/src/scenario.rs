//! A sequence of steps of every kind. It includes what the scopes leave out: shared owners, leases
//! and waits of any length, invalid owners, a clock that is stepped back, evictions, role changes,
//! and settings. Random tests and the fuzzer choose the steps; the laws are asserted here.

use gpulock_core::state::event::What;
use gpulock_core::state::settings::{Events, Settings};

use crate::call::{Call, OWNERS};
use crate::flaw::Flaw;
use crate::world::{World, Writes};

/// The number of owners: fewer than clients, so that some clients share an owner.
pub const OWNER_COUNT: usize = 3;

/// The maximum number of log entries.
const LOG_LEN: u64 = 4;

/// A step. Keys, owners and clients are indexes; times are in ms.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "named after the methods of `World`")]
pub enum Step {
    Acquire(Call),
    DropClient {
        client: usize,
    },
    Unblock {
        client: usize,
        with_error: bool,
    },
    EndTurn,
    Tick,
    Release {
        key: usize,
        owner: usize,
        right_token: Option<bool>,
    },
    Extend {
        key: usize,
        owner: usize,
        lease_ms: u64,
    },
    ForceRelease {
        key: usize,
        owner: Option<usize>,
        right_token: Option<bool>,
    },
    GiveNotice {
        key: usize,
        owner: Option<usize>,
        right_token: Option<bool>,
        after_ms: u64,
    },
    Inspect {
        key: usize,
    },
    List,
    ExternalSet {
        key: usize,
        value: usize,
        ttl_ms: Option<u64>,
    },
    ExternalSetOther {
        key: usize,
    },
    ExternalDelete {
        key: usize,
    },
    PostponeDelete {
        key: usize,
    },
    ExternalExpire {
        key: usize,
        ttl_ms: Option<u64>,
    },
    Evict {
        key: usize,
    },
    AdvanceClock {
        ms: i64,
    },
    Cron,
    ResetStats,
    SetTrackedKeys {
        keys: u64,
    },
    SetMaxWaiters {
        waiters: u64,
    },
    Demote,
    Writes {
        writes: Writes,
    },
}

/// A running scenario. It panics when a law is broken.
pub struct Scenario {
    world: World,
    events: Events,
}

impl Scenario {
    /// Begins a scenario in which these events are published.
    pub fn begin(events: Events) -> Self {
        let settings = Settings {
            default_lease: 250,
            max_lease: 280,
            max_hold: 400,
            warn_hold: 100,
            tracked_keys: 2,
            log_len: LOG_LEN,
            place_keep: 150,
            round: 2,
            events,
            ..Settings::default()
        };
        Self { world: World::new(settings, Flaw::None), events }
    }

    /// Uses the smallest budgets for work.
    pub fn use_small_budgets(&mut self) {
        self.world.use_small_budgets();
    }

    /// Takes a step.
    #[track_caller]
    pub fn take(&mut self, step: Step) {
        let world = &mut self.world;
        if !can_happen(&step, world.writes()) {
            return;
        }
        match step {
            Step::Acquire(call) => world.acquire(&call),
            Step::DropClient { client } => world.drop_client(client),
            Step::Unblock { client, with_error } => world.unblock(client, with_error),
            Step::EndTurn => world.end_turn(),
            Step::Tick => world.tick(),
            Step::Release { key, owner, right_token } => {
                world.release(key, owner, right_token);
            }
            Step::Extend { key, owner, lease_ms } => {
                world.extend(key, owner, Some(lease_ms))
            }
            Step::ForceRelease { key, owner, right_token } => {
                world.force_release(key, owner, right_token)
            }
            Step::GiveNotice { key, owner, right_token, after_ms } => {
                world.give_notice(key, owner, right_token, after_ms)
            }
            Step::Inspect { key } => world.inspect(key),
            Step::List => world.list(),
            Step::ExternalSet { key, value, ttl_ms } => {
                world.set(key, &text(value), ttl_ms)
            }
            Step::ExternalSetOther { key } => world.set_other(key),
            Step::ExternalDelete { key } => world.delete(key),
            Step::PostponeDelete { key } => world.postpone_delete(key),
            Step::ExternalExpire { key, ttl_ms } => world.expire(key, ttl_ms),
            Step::Evict { key } => world.evict(key),
            // With small budgets, ended leases may be pending that are no longer over when the
            // clock is stepped back. The laws do not cover that.
            Step::AdvanceClock { ms } if ms < 0 && world.small_budgets => {}
            Step::AdvanceClock { ms } => world.advance_clock(ms),
            Step::Cron => world.cron(),
            Step::ResetStats => world.reset_stats(),
            Step::SetTrackedKeys { keys } => {
                world.configure(|settings| settings.tracked_keys = keys)
            }
            // With small budgets, kept positions give way later.
            Step::SetMaxWaiters { .. } if world.small_budgets => {}
            Step::SetMaxWaiters { waiters } => {
                world.set_max_waiters(waiters);
                world.cron();
            }
            Step::Demote => world.demote(),
            Step::Writes { writes } => world.set_writes(writes),
        }
        self.assert_lawful();
    }

    /// Whether the probes rest, so that the timer is not armed for them.
    pub fn probes_rest(&self) -> bool {
        self.world.manager.probes_rest()
    }

    /// Fires the timer whenever it is due. Then no client waits for a free lock.
    #[track_caller]
    pub fn assert_served_by_timer(mut self) {
        self.world.end_turn();
        self.world.tick_until_idle();
        self.assert_lawful();
        assert_eq!(self.world.waiting(), 0, "every waiter is served");
    }

    /// Ends the scenario: all locks are released, and every waiter is served.
    #[track_caller]
    pub fn end(mut self) {
        self.world.set_writes(Writes::Accepted);
        let log_len = usize::try_from(LOG_LEN).expect("LOG_LEN fits a usize");
        assert!(self.world.manager.log().entries().count() <= log_len);
        self.world.end_turn();
        self.world.list();
        self.world.tick_until_idle();
        self.world.sweep_notices();
        self.world.release_until_served();
        self.assert_lawful();
        let mut events = 0;
        while let Some(event) = self.world.manager.outbox().take_event() {
            assert!(event.what != What::Acquired || self.events == Events::All);
            events += 1;
        }
        assert!(events == 0 || self.events != Events::Off);
    }

    #[track_caller]
    fn assert_lawful(&self) {
        assert_eq!(self.world.breach(), None);
    }
}

/// Whether a step can happen in this state of the server.
fn can_happen(step: &Step, writes: Writes) -> bool {
    let is_client_event = matches!(
        step,
        Step::DropClient { .. }
            | Step::Unblock { .. }
            | Step::AdvanceClock { .. }
            | Step::Writes { writes: Writes::Accepted }
    );
    let is_server_event = matches!(step, Step::Tick | Step::Cron | Step::EndTurn);
    match writes {
        Writes::Accepted => !matches!(step, Step::PostponeDelete { .. }),
        Writes::Paused if matches!(step, Step::PostponeDelete { .. }) => true,
        Writes::Paused | Writes::Refused => is_client_event || is_server_event,
        Writes::WithinCommand => is_client_event,
    }
}

/// An owner, or an invalid one: empty or too long.
fn text(n: usize) -> Vec<u8> {
    match n {
        3 => Vec::new(),
        4 => vec![b'x'; 1025],
        n => OWNERS[n].to_vec(),
    }
}
