//! The worlds of a scope as a model that `stateright` explores, breadth first. A keeper with
//! all its tables is large, so a state is not a world but the way that leads to it, and the
//! world is made anew when it is its turn: from the last one, which went nearly the same way.

use std::cell::RefCell;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model, Property};

use crate::action::Action;
use crate::canonical;
use crate::flaw::Flaw;
use crate::law::{Breach, Law};
use crate::scope::Scope;
use crate::world::World;

/// How far to go.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// At most so many steps from the beginning.
    pub depth: usize,
    /// At most so long; the rest is left unexplored.
    pub time: Duration,
}

/// What was explored.
#[derive(Clone, Debug)]
pub struct Explored {
    /// Worlds that differ.
    pub states: usize,
    /// Steps taken.
    pub steps: usize,
    /// All worlds that so many steps lead to were looked at.
    pub depth: usize,
    /// There are no others.
    pub exhausted: bool,
    /// How long it took.
    pub time: Duration,
    /// What was found.
    pub breach: Option<Found>,
}

/// Explores a scope around a shell with this flaw.
pub fn explore(scope: &'static Scope, flaw: Flaw, bounds: Bounds) -> Explored {
    let begin = Instant::now();
    let worlds = Worlds {
        scope,
        flaw,
        depth: bounds.depth,
        until: begin + bounds.time,
        stopped_at: Arc::new(AtomicUsize::new(usize::MAX)),
        deepest: Arc::new(AtomicUsize::new(0)),
        found: Arc::new(OnceLock::new()),
    };
    let (stopped_at, deepest) = (worlds.stopped_at.clone(), worlds.deepest.clone());
    let found = worlds.found.clone();
    let checker = worlds.checker().finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.spawn_bfs().join();
    let stopped_at = stopped_at.load(Ordering::Relaxed);
    let breach = found.get().cloned();
    Explored {
        states: checker.unique_state_count(),
        steps: checker.state_count(),
        depth: match stopped_at {
            usize::MAX => deepest.load(Ordering::Relaxed),
            stopped_at => stopped_at.saturating_sub(1),
        },
        exhausted: stopped_at == usize::MAX && breach.is_none(),
        time: begin.elapsed(),
        breach,
    }
}

/// The model.
struct Worlds {
    scope: &'static Scope,
    flaw: Flaw,
    depth: usize,
    until: Instant,
    /// How many steps led to the first state that was not explored.
    stopped_at: Arc<AtomicUsize>,
    /// The most steps that led to any.
    deepest: Arc<AtomicUsize>,
    /// The first breach, and what was done until then: the shortest way, or one as short.
    found: Arc<OnceLock<Found>>,
}

/// A law that was broken, and what was done until then.
pub type Found = (Breach, Vec<Action>);

/// The way to a world.
#[derive(Clone, Debug)]
struct State {
    way: Arc<Step>,
    fingerprint: u64,
}

/// The last step of a way.
#[derive(Debug)]
struct Step {
    /// None: the beginning.
    before: Option<(Arc<Step>, Action)>,
    depth: usize,
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.fingerprint.hash(state);
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Step {
    /// All that was done on the way.
    fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut step = self;
        while let Some((before, action)) = &step.before {
            actions.push(*action);
            step = before;
        }
        actions.reverse();
        actions
    }
}

/// The worlds along the way that was gone last.
#[derive(Default)]
struct Trail {
    worlds: Vec<(Arc<Step>, World)>,
    /// The breach in the last of them, or what must follow from it.
    breach: Option<Option<Breach>>,
}

thread_local! {
    static TRAIL: RefCell<Trail> = RefCell::default();
}

impl Trail {
    /// Goes to the end of a way.
    fn go(&mut self, model: &Worlds, way: &Arc<Step>) {
        if self.worlds.last().is_some_and(|(last, _)| Arc::ptr_eq(last, way)) {
            return;
        }
        self.breach = None;
        self.worlds.truncate(way.depth + 1);
        let stands = |at: usize| {
            let step = self.worlds.get(at).map(|(step, _)| step);
            step.is_some_and(|step| Arc::ptr_eq(step, way_at(way, at)))
        };
        let common = (0..=way.depth).rev().find(|at| stands(*at));
        self.worlds.truncate(common.map_or(0, |at| at + 1));
        for at in self.worlds.len()..=way.depth {
            let step = way_at(way, at);
            let world = match (&step.before, self.worlds.last()) {
                (Some((_, action)), Some((_, world))) => {
                    let mut world = world.clone();
                    model.scope.take(&mut world, *action);
                    world
                }
                _ => model.scope.begin(model.flaw),
            };
            self.worlds.push((step.clone(), world));
        }
    }

    fn world(&self) -> Option<&World> {
        self.worlds.last().map(|(_, world)| world)
    }
}

/// The step on a way that has so many before it.
fn way_at(way: &Arc<Step>, depth: usize) -> &Arc<Step> {
    let mut step = way;
    while let Some((before, _)) = &step.before
        && step.depth > depth
    {
        step = before;
    }
    step
}

impl Worlds {
    /// Does something with the world of a state.
    fn at<T>(&self, state: &State, look: impl FnOnce(&World) -> T) -> Option<T> {
        TRAIL.with_borrow_mut(|trail| {
            trail.go(self, &state.way);
            trail.world().map(look)
        })
    }

    /// The law that is broken in a state, or in what must follow from it.
    fn breach(&self, state: &State) -> Option<Breach> {
        TRAIL.with_borrow_mut(|trail| {
            trail.go(self, &state.way);
            let known = trail.breach;
            let look = || trail.world().and_then(World::breach_here_or_after);
            let breach = known.unwrap_or_else(look);
            trail.breach = Some(breach);
            breach
        })
    }

    fn state(&self, before: Option<(Arc<Step>, Action)>, world: &World) -> State {
        let depth = before.as_ref().map_or(0, |(before, _)| before.depth + 1);
        let Scope { clients, locks, .. } = *self.scope;
        let fingerprint = canonical::fingerprint(world, clients, locks);
        State { way: Arc::new(Step { before, depth }), fingerprint }
    }

    /// Whether a state is one of those that are looked at.
    fn is_within(&self, state: &State) -> bool {
        let depth = state.way.depth;
        let is_within = depth <= self.depth && self.goes_on();
        match is_within {
            true => self.deepest.fetch_max(depth, Ordering::Relaxed),
            false => self.stopped_at.fetch_min(depth, Ordering::Relaxed),
        };
        is_within
    }
}

impl Model for Worlds {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.state(None, &self.scope.begin(self.flaw))]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if self.is_within(state) {
            self.at(state, |world| self.scope.actions(world, actions));
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        self.at(state, |world| {
            let mut world = world.clone();
            self.scope.take(&mut world, action);
            self.state(Some((state.way.clone(), action)), &world)
        })
    }

    fn properties(&self) -> Vec<Property<Self>> {
        Law::ALL.into_iter().map(property).collect()
    }
}

/// A law as a property.
fn property(law: Law) -> Property<Worlds> {
    macro_rules! always {
        ($($law:ident)*) => {
            match law {
                $(Law::$law => Property::always(Law::$law.name(), |model: &Worlds, state| {
                    model.keeps(state, Law::$law)
                }),)*
            }
        };
    }
    always!(MutualExclusion RisingTokens Order NoLostWakeUp NoStarvation CountersAddUp
        AllOrNone Deadlocks Permission Sessions Tidiness)
}

impl Worlds {
    /// Whether a law is kept in a state; what comes after the first breach, or too late, is
    /// not looked at.
    fn keeps(&self, state: &State, law: Law) -> bool {
        if !self.goes_on() {
            return true;
        }
        let breach = self.breach(state).filter(|breach| breach.law == law);
        breach.is_none_or(|breach| self.found.set((breach, state.way.actions())).is_err())
    }

    fn goes_on(&self) -> bool {
        self.found.get().is_none() && Instant::now() < self.until
    }
}
