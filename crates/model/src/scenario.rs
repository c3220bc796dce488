//! A day in the life of a server: steps of every kind, with what the scopes leave out: equal
//! owners, leases and waits of any length, values that are no owners, a clock that is stepped
//! back, evictions, role changes, settings. Random tests and the fuzzer choose the steps;
//! what must hold is asserted here.

use gpulock_core::state::settings::{Events, Settings};

use crate::call::{Call, OWNERS};
use crate::flaw::Flaw;
use crate::world::{World, Writes};

/// How many owners there are: fewer than clients, so that some share a name.
pub const NAMES: usize = 3;

/// How many entries the log may have.
const LOG_LEN: u64 = 4;

/// Something that happens. Keys, owners and clients go by their numbers, times are in ms.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "called as what the world does then")]
pub enum Step {
    Acquire(Call),
    DropClient { client: usize },
    Unblock { client: usize, with_error: bool },
    EndTurn,
    Tick,
    Release { key: usize, owner: usize, right_token: Option<bool> },
    Extend { key: usize, owner: usize, lease_ms: u64 },
    Force { key: usize, owner: Option<usize>, right_token: Option<bool> },
    Inspect { key: usize },
    List,
    OutsideSet { key: usize, value: usize, ttl_ms: Option<u64> },
    OutsideOther { key: usize },
    OutsideDelete { key: usize },
    OutsideExpiry { key: usize, ttl_ms: Option<u64> },
    Evict { key: usize },
    Pass { ms: i64 },
    Sweep,
    ResetStats,
    Track { keys: u64 },
    Demote,
    Writes { writes: Writes },
}

/// A day that has begun. A law that is broken on it panics.
pub struct Scenario {
    world: World,
    events: Events,
}

impl Scenario {
    /// A day on which such events are told.
    pub fn begin(events: Events) -> Self {
        let settings = Settings {
            default_lease: 250,
            max_lease: 280,
            max_hold: 400,
            warn_hold: 100,
            tracked_keys: 2,
            log_len: LOG_LEN,
            place_keep: 150,
            events,
            ..Settings::default()
        };
        Self { world: World::new(settings, Flaw::None), events }
    }

    /// Work is cut into the smallest portions on this day.
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
            Step::Acquire(request) => world.acquire(&request),
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
            Step::Force { key, owner, right_token } => {
                world.force(key, owner, right_token)
            }
            Step::Inspect { key } => world.inspect(key),
            Step::List => world.list(),
            Step::OutsideSet { key, value, ttl_ms } => {
                world.set(key, &text(value), ttl_ms)
            }
            Step::OutsideOther { key } => world.set_other(key),
            Step::OutsideDelete { key } => world.delete(key),
            Step::OutsideExpiry { key, ttl_ms } => world.expire(key, ttl_ms),
            Step::Evict { key } => world.evict(key),
            // What was over, and would have been ended by the next portion, may be over no more
            // when the clock is stepped back: nothing is promised then.
            Step::Pass { ms } if ms < 0 && world.small_budgets => {}
            Step::Pass { ms } => world.pass(ms),
            Step::Sweep => world.cron(),
            Step::ResetStats => world.reset_stats(),
            Step::Track { keys } => {
                world.configure(|settings| settings.tracked_keys = keys)
            }
            Step::Demote => world.demote(),
            Step::Writes { writes } => world.set_writes(writes),
        }
        self.assert_lawful();
    }

    /// Ends it: all is given up, and whoever waits is served.
    #[track_caller]
    pub fn end(mut self) {
        self.world.set_writes(Writes::Accepted);
        let log_len = usize::try_from(LOG_LEN).expect("a small number");
        assert!(self.world.manager.log().entries().count() <= log_len);
        self.world.end_turn();
        self.world.list();
        self.world.tick_until_quiet();
        self.world.serve_all();
        self.assert_lawful();
        let mut told = 0;
        while let Some(event) = self.world.manager.outbox().take_event() {
            assert!(event.ended.is_some() || self.events == Events::All);
            told += 1;
        }
        assert!(told == 0 || self.events != Events::Off);
    }

    #[track_caller]
    fn assert_lawful(&self) {
        assert_eq!(self.world.breach(), None);
    }
}

/// Whether a step can happen while the server takes writes like this.
fn can_happen(step: &Step, writes: Writes) -> bool {
    let is_event = matches!(
        step,
        Step::DropClient { .. }
            | Step::Unblock { .. }
            | Step::Pass { .. }
            | Step::Writes { writes: Writes::Accepted }
    );
    let is_own = matches!(step, Step::Tick | Step::Sweep | Step::EndTurn);
    match writes {
        Writes::Accepted => true,
        Writes::Paused | Writes::Refused => is_event || is_own,
        Writes::WithinCommand => is_event,
    }
}

/// An owner, or what can be none.
fn text(n: usize) -> Vec<u8> {
    match n {
        3 => Vec::new(),
        4 => vec![b'x'; 1025],
        n => OWNERS[n].to_vec(),
    }
}
