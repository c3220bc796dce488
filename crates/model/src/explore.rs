//! The worlds of a scope as a model that `stateright` explores, breadth first. A world is large,
//! because it contains the tables of a lock manager. A state is therefore the path to a world, and
//! the world is rebuilt from the previously visited one, whose path is nearly the same.

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

/// The limits of an exploration.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The maximum number of steps from the initial world.
    pub depth: usize,
    /// The time limit. What is left by then stays unexplored.
    pub time: Duration,
}

/// The result of an exploration.
#[derive(Clone, Debug)]
pub struct Explored {
    /// The number of different worlds.
    pub states: usize,
    /// The number of steps taken.
    pub steps: usize,
    /// The depth up to which every world was checked.
    pub depth: usize,
    /// Whether every reachable world was checked.
    pub exhausted: bool,
    /// The duration.
    pub time: Duration,
    /// The first counterexample.
    pub counterexample: Option<Counterexample>,
}

/// Explores a scope, with a flaw.
pub fn explore(scope: &'static Scope, flaw: Flaw, bounds: Bounds) -> Explored {
    let begin = Instant::now();
    let model = WorldModel {
        scope,
        flaw,
        depth: bounds.depth,
        until: begin + bounds.time,
        stopped_at: Arc::new(AtomicUsize::new(usize::MAX)),
        deepest: Arc::new(AtomicUsize::new(0)),
        counterexample: Arc::new(OnceLock::new()),
    };
    let (stopped_at, deepest) = (model.stopped_at.clone(), model.deepest.clone());
    let counterexample = model.counterexample.clone();
    let checker = model.checker().finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.spawn_bfs().join();
    let stopped_at = stopped_at.load(Ordering::Relaxed);
    let counterexample = counterexample.get().cloned();
    Explored {
        states: checker.unique_state_count(),
        steps: checker.state_count(),
        depth: match stopped_at {
            usize::MAX => deepest.load(Ordering::Relaxed),
            stopped_at => stopped_at.saturating_sub(1),
        },
        exhausted: stopped_at == usize::MAX && counterexample.is_none(),
        time: begin.elapsed(),
        counterexample,
    }
}

/// The model.
struct WorldModel {
    scope: &'static Scope,
    flaw: Flaw,
    depth: usize,
    until: Instant,
    /// The depth of the first state that was not explored.
    stopped_at: Arc<AtomicUsize>,
    /// The depth of the deepest explored state.
    deepest: Arc<AtomicUsize>,
    /// The first counterexample. No other one is shorter.
    counterexample: Arc<OnceLock<Counterexample>>,
}

/// A broken law, and the steps that led to it.
pub type Counterexample = (Breach, Vec<Action>);

/// A world, as the path to it.
#[derive(Clone, Debug)]
struct State {
    path: Arc<Step>,
    fingerprint: u64,
}

/// The last step of a path, and the path before it.
#[derive(Debug)]
struct Step {
    /// None for the initial world.
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
    /// All steps of the path.
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

/// The worlds along the most recent path.
#[derive(Default)]
struct Replay {
    worlds: Vec<(Arc<Step>, World)>,
    /// The cached result for the last world: the law that is broken in it or later.
    breach: Option<Option<Breach>>,
}

thread_local! {
    static REPLAY: RefCell<Replay> = RefCell::default();
}

impl Replay {
    /// Rebuilds the worlds along a path.
    fn follow(&mut self, model: &WorldModel, path: &Arc<Step>) {
        if self.worlds.last().is_some_and(|(last, _)| Arc::ptr_eq(last, path)) {
            return;
        }
        self.breach = None;
        self.worlds.truncate(path.depth + 1);
        let is_common = |at: usize| {
            let step = self.worlds.get(at).map(|(step, _)| step);
            step.is_some_and(|step| Arc::ptr_eq(step, step_at(path, at)))
        };
        let common = (0..=path.depth).rev().find(|at| is_common(*at));
        self.worlds.truncate(common.map_or(0, |at| at + 1));
        for at in self.worlds.len()..=path.depth {
            let step = step_at(path, at);
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

/// The step of a path at a depth.
fn step_at(path: &Arc<Step>, depth: usize) -> &Arc<Step> {
    let mut step = path;
    while let Some((before, _)) = &step.before
        && step.depth > depth
    {
        step = before;
    }
    step
}

impl WorldModel {
    /// Reads the world of a state.
    fn at<T>(&self, state: &State, read: impl FnOnce(&World) -> T) -> Option<T> {
        REPLAY.with_borrow_mut(|replay| {
            replay.follow(self, &state.path);
            replay.world().map(read)
        })
    }

    /// The law that is broken in a state, or that will be broken later.
    fn breach(&self, state: &State) -> Option<Breach> {
        REPLAY.with_borrow_mut(|replay| {
            replay.follow(self, &state.path);
            let known = replay.breach;
            let check = || replay.world().and_then(World::breach_now_or_later);
            let breach = known.unwrap_or_else(check);
            replay.breach = Some(breach);
            breach
        })
    }

    fn state(&self, before: Option<(Arc<Step>, Action)>, world: &World) -> State {
        let depth = before.as_ref().map_or(0, |(before, _)| before.depth + 1);
        let Scope { clients, locks, .. } = *self.scope;
        let fingerprint = canonical::fingerprint(world, clients, locks);
        State { path: Arc::new(Step { before, depth }), fingerprint }
    }

    /// Whether a state is within the limits. Records how far the exploration gets.
    fn is_within_bounds(&self, state: &State) -> bool {
        let depth = state.path.depth;
        let is_within_bounds = depth <= self.depth && self.continues();
        match is_within_bounds {
            true => self.deepest.fetch_max(depth, Ordering::Relaxed),
            false => self.stopped_at.fetch_min(depth, Ordering::Relaxed),
        };
        is_within_bounds
    }
}

impl Model for WorldModel {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.state(None, &self.scope.begin(self.flaw))]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if self.is_within_bounds(state) {
            self.at(state, |world| self.scope.actions(world, actions));
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        self.at(state, |world| {
            let mut world = world.clone();
            self.scope.take(&mut world, action);
            self.state(Some((state.path.clone(), action)), &world)
        })
    }

    fn properties(&self) -> Vec<Property<Self>> {
        Law::ALL.into_iter().map(property).collect()
    }
}

/// A law as a property of the model.
fn property(law: Law) -> Property<WorldModel> {
    macro_rules! always {
        ($($law:ident)*) => {
            match law {
                $(Law::$law => Property::always(Law::$law.name(), |model: &WorldModel, state| {
                    model.holds(state, Law::$law)
                }),)*
            }
        };
    }
    always!(MutualExclusion IncreasingTokens Order PlainOrder BoundedWait NoLostWakeUp
        NoStarvation CountersAddUp AllOrNothing Reservation Room Notice Deadlocks WritePermission Sessions Bookkeeping)
}

impl WorldModel {
    /// Whether a law holds in a state. True also after the first breach and after the time limit.
    fn holds(&self, state: &State, law: Law) -> bool {
        if !self.continues() {
            return true;
        }
        let breach = self.breach(state).filter(|breach| breach.law == law);
        breach.is_none_or(|breach| {
            self.counterexample.set((breach, state.path.actions())).is_err()
        })
    }

    fn continues(&self) -> bool {
        self.counterexample.get().is_none() && Instant::now() < self.until
    }
}
