//! The data of `gpulock top`, and the user's selection. It has no clock, no terminal and no
//! connection: updates and intents come in with the time, actions go out.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::history::History;
use super::input::Intent;
use super::poller::{LIMIT, ShownHold, Snapshot, Update};
use super::rows::{Leases, Row, RowId, Sorting, by_card, expanded};
use crate::act::forced_release::Expected;
use crate::cards;
use crate::clock;
use crate::human::Span;
use crate::replies::Inspected;
use crate::text::Text;

/// How long a message is shown.
const MESSAGE: Duration = Duration::from_secs(10);

/// How late a reply may be before a warning is shown.
const LATE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct State {
    /// The address of the server.
    server: String,
    interval: Duration,
    snapshot: Snapshot,
    snapshot_at: Instant,
    /// Why queries fail, and since when.
    error: Option<(String, Instant)>,
    leases: Leases,
    history: History,
    sorting: Sorting,
    filter: String,
    mode: Mode,
    /// The selected row, and its index. If the row disappears, the row that is then at the index
    /// is selected.
    selected: Option<RowId>,
    index: usize,
    /// The GPUs whose slots are shown.
    expanded: HashSet<Text>,
    /// Whether the panel of the selected lock is open.
    is_panel_open: bool,
    message: Option<(String, Instant)>,
}

/// The input mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Locks,
    Filter,
    /// Asks whether to release this hold by force.
    Confirm(ShownHold),
    Help,
}

/// What the caller has to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Quit,
    Suspend,
    ForceRelease(ShownHold),
}

impl State {
    /// The state after the first snapshot.
    pub(crate) fn new(
        server: String,
        interval: Duration,
        first: Snapshot,
        now: Instant,
    ) -> Self {
        let mut state = Self {
            server,
            interval,
            snapshot: first.clone(),
            snapshot_at: now,
            error: None,
            leases: Leases::default(),
            history: History::new(interval),
            sorting: Sorting::default(),
            filter: String::new(),
            mode: Mode::Locks,
            selected: None,
            index: 0,
            expanded: HashSet::new(),
            is_panel_open: false,
            message: None,
        };
        state.set_snapshot(first, now);
        state
    }

    /// Handles an update of the poller.
    pub(crate) fn update(&mut self, update: Update, now: Instant) {
        match update {
            Update::Snapshot(snapshot) => self.set_snapshot(*snapshot, now),
            Update::Failed(why) => {
                self.history.add_failure(now);
                let since = self.error.take().map_or(now, |(_, since)| since);
                self.error = Some((why, since));
            }
            Update::ForceReleased(ShownHold { key, .. }, result) => {
                let message = match result {
                    Ok(owner) => format!("{key} released; it was held by {owner}"),
                    Err(why) => format!("{key} not released: {why}"),
                };
                self.message = Some((message, now));
            }
        }
    }

    /// Handles an intent of the user; `page` is the number of locks that the screen shows.
    pub(crate) fn act(
        &mut self,
        intent: Intent,
        page: usize,
        now: Instant,
    ) -> Option<Action> {
        match intent {
            Intent::Quit => return Some(Action::Quit),
            Intent::Suspend => return Some(Action::Suspend),
            Intent::Up => self.select(self.index.saturating_sub(1), now),
            Intent::Down => self.select(self.index.saturating_add(1), now),
            Intent::PageUp => self.select(self.index.saturating_sub(page), now),
            Intent::PageDown => self.select(self.index.saturating_add(page), now),
            Intent::First => self.select(0, now),
            Intent::Last => self.select(usize::MAX, now),
            Intent::Inspect => self.open_or_close(),
            Intent::Filter => self.mode = Mode::Filter,
            Intent::Help => self.mode = Mode::Help,
            Intent::Force => self.ask_for_confirmation(now),
            Intent::Back => self.go_back(),
            Intent::Yes => return self.confirm(now),
            Intent::Sort => self.sorting = self.sorting.next(),
            Intent::Type(character) => self.filter.push(character),
            Intent::Erase => drop(self.filter.pop()),
        }
        self.update_selection(now);
        None
    }

    /// The filtered and sorted locks, extrapolated to now, or to the first failed query; the
    /// slots of a GPU as one row, or below it.
    pub(crate) fn rows(&self, now: Instant) -> Vec<Row> {
        let as_of = self.error.as_ref().map_or(now, |(_, since)| *since);
        let since = as_of.saturating_duration_since(self.snapshot_at);
        let row = |lock| Row::new(lock, &self.leases, since);
        let mut rows = by_card(self.snapshot.locks.iter().map(row).collect());
        rows.retain(|row| row.matches(&self.filter));
        self.sorting.sort(&mut rows);
        expanded(rows, &self.expanded)
    }

    /// The index of the selected row.
    pub(crate) const fn index(&self) -> usize {
        self.index
    }

    /// The content of the panel, if it is open: the selected lock; None inside if its details
    /// are not known yet; None inside that if it is neither held nor waited for.
    pub(crate) fn panel(&self) -> Option<(&Text, Option<Option<&Inspected>>)> {
        let key = self.inspected_key()?;
        let inspected = self.snapshot.inspected.as_ref();
        let inspected = inspected.filter(|(inspected, _)| inspected == key);
        Some((key, inspected.map(|(_, lock)| lock.as_ref())))
    }

    /// The lock whose details the panel needs. There are none of a whole GPU.
    pub(crate) fn inspected_key(&self) -> Option<&Text> {
        match &self.selected {
            Some(RowId::Lock(key)) if self.is_panel_open => Some(key),
            _ => None,
        }
    }

    /// The problem with the connection, if any.
    pub(crate) fn warning(&self, now: Instant) -> Option<String> {
        let span = |since: Instant| span(now.saturating_duration_since(since));
        match &self.error {
            Some((why, since)) => Some(format!("{why}, retrying ({})", span(*since))),
            None if now.saturating_duration_since(self.snapshot_at)
                > self.interval + LATE =>
            {
                Some(format!("no reply for {}", span(self.snapshot_at)))
            }
            None => None,
        }
    }

    /// The result of the last action.
    pub(crate) fn message(&self, now: Instant) -> Option<&str> {
        let (text, since) = self.message.as_ref()?;
        (now.saturating_duration_since(*since) < MESSAGE).then_some(text)
    }

    /// The address of the server.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// A counter of the last snapshot.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.snapshot.stats.counter(name)
    }

    /// Whether the server may have more locks than were fetched.
    pub(crate) const fn is_limited(&self) -> bool {
        self.snapshot.locks.len() >= LIMIT
    }

    pub(crate) const fn history(&self) -> &History {
        &self.history
    }

    pub(crate) const fn mode(&self) -> &Mode {
        &self.mode
    }

    pub(crate) const fn sorting(&self) -> Sorting {
        self.sorting
    }

    /// The text that a key or an owner must contain to be shown.
    pub(crate) fn filter(&self) -> &str {
        &self.filter
    }

    fn set_snapshot(&mut self, snapshot: Snapshot, now: Instant) {
        self.leases.update(&snapshot.locks);
        self.history.add_snapshot(&snapshot.stats, now);
        self.snapshot = snapshot;
        self.snapshot_at = now;
        self.error = None;
        self.update_selection(now);
    }

    /// Moves the selection with its lock, or to the lock that is now at its index.
    fn update_selection(&mut self, now: Instant) {
        let rows = self.rows(now);
        let is_selected = |row: &Row| Some(row.id()) == self.selected;
        match rows.iter().position(is_selected) {
            Some(index) => self.index = index,
            None => self.select(self.index, now),
        }
    }

    fn select(&mut self, index: usize, now: Instant) {
        let rows = self.rows(now);
        self.index = index.min(rows.len().saturating_sub(1));
        self.selected = rows.get(self.index).map(Row::id);
    }

    /// Shows or hides the slots of the selected GPU, or the panel of the selected lock.
    fn open_or_close(&mut self) {
        match &self.selected {
            Some(RowId::Card(card)) if !self.expanded.remove(card) => {
                self.expanded.insert(card.clone());
            }
            Some(RowId::Card(_)) => {}
            Some(RowId::Lock(_)) | None => self.is_panel_open = !self.is_panel_open,
        }
    }

    /// Asks about one hold. For a GPU of which several slots are held, the user has to choose.
    fn ask_for_confirmation(&mut self, now: Instant) {
        let Some(mut row) = self.rows(now).into_iter().nth(self.index) else { return };
        let held: Vec<&Row> = row.slots().iter().filter(|slot| slot.is_held()).collect();
        match held[..] {
            [] => {}
            [only] => row = only.clone(),
            [_, ..] => {
                let message = format!(
                    "{} has {}: show them with Enter, and select one",
                    row.key,
                    cards::count(held.len())
                );
                self.message = Some((message, now));
                return;
            }
        }
        if row.owner.is_none() {
            self.message = Some((format!("{} is not held", row.key), now));
            return;
        }
        let expected = Expected { owner: row.owner, token: row.token };
        self.mode = Mode::Confirm(ShownHold { key: row.key, expected });
    }

    fn confirm(&mut self, now: Instant) -> Option<Action> {
        match std::mem::replace(&mut self.mode, Mode::Locks) {
            // The poller would execute it later, when the user may no longer want it.
            Mode::Confirm(_) if self.warning(now).is_some() => {
                self.message = Some(("not released: no connection".to_owned(), now));
                None
            }
            Mode::Confirm(hold) => Some(Action::ForceRelease(hold)),
            _ => None,
        }
    }

    fn go_back(&mut self) {
        match self.mode {
            Mode::Filter => self.filter.clear(),
            Mode::Locks if self.is_panel_open => self.is_panel_open = false,
            Mode::Locks => self.filter.clear(),
            Mode::Confirm(_) | Mode::Help => {}
        }
        self.mode = Mode::Locks;
    }
}

/// A duration as a human-readable span.
pub(crate) fn span(length: Duration) -> Span {
    Span(clock::millis(length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::human;
    use crate::top::sample;

    const SECOND: Duration = Duration::from_secs(1);

    fn state(locks: &[(&str, u64)], now: Instant) -> State {
        sample::state(sample::snapshot(locks), now)
    }

    fn selected(state: &State) -> String {
        human::or_unknown(state.selected.as_ref().map(|id| match id {
            RowId::Lock(key) | RowId::Card(key) => key,
        }))
    }

    fn keys(state: &State, now: Instant) -> Vec<String> {
        state.rows(now).iter().map(|row| row.key.to_string()).collect()
    }

    fn press(state: &mut State, intents: &[Intent], now: Instant) -> Option<Action> {
        intents.iter().filter_map(|intent| state.act(*intent, 2, now)).last()
    }

    #[test]
    fn the_lock_with_most_waiters_is_first_and_selected() {
        let now = Instant::now();
        let state = state(&[("a", 0), ("b", 5), ("c", 1)], now);
        assert_eq!(keys(&state, now), ["b", "c", "a"]);
        assert_eq!(selected(&state), "b");
    }

    #[test]
    fn the_selection_follows_its_lock() {
        let now = Instant::now();
        let mut state = state(&[("a", 3), ("b", 2), ("c", 1)], now);
        press(&mut state, &[Intent::Down], now);
        assert_eq!((selected(&state), state.index()), ("b".to_owned(), 1));
        state.update(sample::update(&[("a", 1), ("b", 0), ("c", 2), ("d", 9)]), now);
        assert_eq!((selected(&state), state.index()), ("b".to_owned(), 3));
    }

    #[test]
    fn when_the_selected_lock_disappears_the_next_one_is_selected() {
        let now = Instant::now();
        let mut state = state(&[("a", 3), ("b", 2), ("c", 1)], now);
        press(&mut state, &[Intent::Down], now);
        state.update(sample::update(&[("a", 3), ("c", 1)]), now);
        assert_eq!(selected(&state), "c");
        state.update(sample::update(&[("a", 3)]), now);
        assert_eq!(selected(&state), "a");
        state.update(sample::update(&[]), now);
        assert_eq!((selected(&state), state.index()), ("-".to_owned(), 0));
        state.update(sample::update(&[("z", 0)]), now);
        assert_eq!(selected(&state), "z");
    }

    #[test]
    fn moving_stops_at_both_ends() {
        let now = Instant::now();
        let mut state = state(&[("a", 9), ("b", 8), ("c", 7), ("d", 6)], now);
        #[rustfmt::skip]
        let steps = [
            (Intent::Up,       "a"),
            (Intent::PageDown, "c"),
            (Intent::PageDown, "d"),
            (Intent::Down,     "d"),
            (Intent::PageUp,   "b"),
            (Intent::Last,     "d"),
            (Intent::First,    "a"),
        ];
        for (intent, key) in steps {
            press(&mut state, &[intent], now);
            assert_eq!(selected(&state), key, "{intent:?}");
        }
    }

    #[test]
    fn only_the_confirmed_hold_is_released() {
        let now = Instant::now();
        let mut state = state(&[("a", 1)], now);
        let shown = state.rows(now)[0].token;
        assert_eq!(press(&mut state, &[Intent::Force, Intent::Back], now), None);
        assert_eq!(press(&mut state, &[Intent::Yes], now), None);
        assert_eq!(press(&mut state, &[Intent::Force], now), None);
        // Another hold has begun before the confirmation.
        let mut snapshot = sample::snapshot(&[("a", 0)]);
        snapshot.locks[0].token = shown.map(|token| token + 1);
        state.update(Update::Snapshot(Box::new(snapshot)), now);
        let owner = Some(Text(b"owner of a".to_vec()));
        let expected = Expected { owner, token: shown };
        let hold = ShownHold { key: Text(b"a".to_vec()), expected };
        assert_eq!(
            press(&mut state, &[Intent::Yes], now),
            Some(Action::ForceRelease(hold))
        );
        assert_eq!(*state.mode(), Mode::Locks);
    }

    #[test]
    fn nothing_is_released_without_a_connection() {
        let now = Instant::now();
        let mut state = state(&[("a", 1)], now);
        press(&mut state, &[Intent::Force], now);
        state.update(Update::Failed("failed to connect to x".to_owned()), now);
        assert_eq!(press(&mut state, &[Intent::Yes], now), None);
        assert_eq!(state.message(now), Some("not released: no connection"));
    }

    #[test]
    fn a_free_lock_cannot_be_released() {
        let now = Instant::now();
        let mut snapshot = sample::snapshot(&[("a", 1)]);
        snapshot.locks[0].owner = None;
        let mut state = sample::state(snapshot, now);
        press(&mut state, &[Intent::Force], now);
        assert_eq!(*state.mode(), Mode::Locks);
        assert_eq!(state.message(now), Some("a is not held"));
    }

    #[test]
    fn a_gpu_is_expanded_to_release_one_of_its_slots() {
        let now = Instant::now();
        let [first, second] = ["{p:h}:GPU-a:0", "{p:h}:GPU-a:3"];
        let mut state = state(&[(first, 2), (second, 2), ("b", 0)], now);
        assert_eq!(keys(&state, now), ["{p:h}:GPU-a", "b"]);
        press(&mut state, &[Intent::Force], now);
        assert_eq!(*state.mode(), Mode::Locks);
        let why = "{p:h}:GPU-a has 2 slots: show them with Enter, and select one";
        assert_eq!(state.message(now), Some(why));
        press(&mut state, &[Intent::Inspect], now);
        assert_eq!(keys(&state, now), ["{p:h}:GPU-a", first, second, "b"]);
        assert_eq!(state.inspected_key(), None, "a GPU has no details of its own");
        press(&mut state, &[Intent::Down, Intent::Down, Intent::Inspect], now);
        assert_eq!(state.inspected_key().unwrap().to_string(), second);
        press(&mut state, &[Intent::Force], now);
        let expected = Expected {
            owner: Some(Text(format!("owner of {second}").into())),
            token: state.rows(now)[2].token,
        };
        let hold = ShownHold { key: Text(second.into()), expected };
        assert_eq!(
            press(&mut state, &[Intent::Yes], now),
            Some(Action::ForceRelease(hold))
        );
        press(&mut state, &[Intent::Up, Intent::Up, Intent::Inspect], now);
        assert_eq!(keys(&state, now), ["{p:h}:GPU-a", "b"]);
    }

    #[test]
    fn the_only_slot_of_a_gpu_is_released_without_expanding_it() {
        let now = Instant::now();
        let slot = "{p:h}:GPU-a:5";
        let mut state = state(&[(slot, 0)], now);
        press(&mut state, &[Intent::Force], now);
        let Mode::Confirm(hold) = state.mode() else { panic!("{:?}", state.mode()) };
        assert_eq!(hold.key.to_string(), slot);
        assert_eq!(
            hold.expected.owner.as_ref().unwrap().to_string(),
            format!("owner of {slot}")
        );
    }

    #[test]
    fn the_result_of_a_release_is_shown_for_a_while() {
        let now = Instant::now();
        let mut state = state(&[("a", 1)], now);
        let hold =
            || ShownHold { key: Text(b"a".to_vec()), expected: Expected::default() };
        let released = Ok(Text(b"asr".to_vec()));
        state.update(Update::ForceReleased(hold(), released), now);
        assert_eq!(state.message(now), Some("a released; it was held by asr"));
        state.update(Update::ForceReleased(hold(), Err("gone".to_owned())), now);
        assert_eq!(state.message(now), Some("a not released: gone"));
        assert_eq!(state.message(now + MESSAGE), None);
    }

    #[test]
    fn the_filter_applies_while_it_is_typed() {
        let now = Instant::now();
        let mut state = state(&[("gpu:0", 2), ("gpu:1", 1), ("tpu:0", 0)], now);
        press(&mut state, &[Intent::Filter, Intent::Type('T'), Intent::Type('p')], now);
        assert_eq!(keys(&state, now), ["tpu:0"]);
        assert_eq!(selected(&state), "tpu:0");
        press(&mut state, &[Intent::Yes], now);
        assert_eq!((state.filter(), state.mode()), ("Tp", &Mode::Locks));
        press(&mut state, &[Intent::Filter, Intent::Erase, Intent::Erase], now);
        assert_eq!(keys(&state, now).len(), 3);
        press(&mut state, &[Intent::Type('x'), Intent::Back], now);
        assert_eq!(state.filter(), "");
    }

    #[test]
    fn the_panel_shows_only_the_selected_lock() {
        let now = Instant::now();
        let mut state = state(&[("a", 2), ("b", 1)], now);
        assert_eq!(state.inspected_key(), None);
        press(&mut state, &[Intent::Inspect], now);
        assert_eq!(state.inspected_key().unwrap().to_string(), "a");
        assert!(matches!(state.panel(), Some((_, None))), "not known yet");
        let inspected = (Text(b"a".to_vec()), None);
        let snapshot = || Snapshot {
            inspected: Some(inspected.clone()),
            ..sample::snapshot(&[("a", 2), ("b", 1)])
        };
        state.update(Update::Snapshot(Box::new(snapshot())), now);
        assert!(matches!(state.panel(), Some((_, Some(None)))), "free");
        press(&mut state, &[Intent::Down], now);
        assert!(matches!(state.panel(), Some((key, None)) if key.0 == b"b"));
        press(&mut state, &[Intent::Back], now);
        assert!(state.panel().is_none());
    }

    #[test]
    fn an_error_is_shown_with_its_duration_and_times_are_frozen() {
        let now = Instant::now();
        let mut state = state(&[("a", 0)], now);
        let lease = |state: &State, now| state.rows(now)[0].lease_ms.unwrap();
        let before = lease(&state, now);
        assert_eq!(lease(&state, now + SECOND), before - 1000);
        assert_eq!(state.warning(now + SECOND), None);
        for after in [1, 2, 3] {
            let why = "failed to connect to x".to_owned();
            state.update(Update::Failed(why), now + after * SECOND);
        }
        let expected = "failed to connect to x, retrying (4.0s)";
        assert_eq!(state.warning(now + 5 * SECOND).unwrap(), expected);
        assert_eq!(lease(&state, now + 5 * SECOND), before - 1000);
        state.update(sample::update(&[("a", 0)]), now + 6 * SECOND);
        assert_eq!(state.warning(now + 6 * SECOND), None);
    }

    #[test]
    fn a_late_reply_is_a_warning() {
        let now = Instant::now();
        let state = state(&[], now);
        assert_eq!(state.warning(now + SECOND + LATE), None);
        let later = now + 4 * SECOND;
        assert_eq!(state.warning(later).unwrap(), "no reply for 4.0s");
    }
}
