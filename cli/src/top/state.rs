//! What `gpulock top` knows and what is chosen in it. It has no clock, no terminal and no
//! connection: news and intents come in with the time, wishes go out.

use std::time::{Duration, Instant};

use super::asker::{LIMIT, Look, News, Victim};
use super::history::History;
use super::input::Intent;
use super::rows::{Leases, Row, Sorting};
use crate::act::take::Guard;
use crate::clock;
use crate::human::Span;
use crate::replies::Inspected;
use crate::text::Text;

/// How long a message stays.
const MESSAGE: Duration = Duration::from_secs(10);

/// How late an answer may be before it is told.
const LATE: Duration = Duration::from_secs(2);

/// All of it.
#[derive(Debug)]
pub(crate) struct State {
    /// Which server it is.
    server: String,
    interval: Duration,
    look: Look,
    seen: Instant,
    /// Why looks fail, and since when.
    trouble: Option<(String, Instant)>,
    leases: Leases,
    history: History,
    sorting: Sorting,
    filter: String,
    mode: Mode,
    /// The chosen lock, and where it stood last: when it goes, the next one there is it.
    chosen: Option<Text>,
    place: usize,
    /// Whether the panel of the chosen lock is open.
    open: bool,
    message: Option<(String, Instant)>,
}

/// What keys mean now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Locks,
    Filter,
    /// Whether to end this hold.
    Asked(Victim),
    Help,
}

/// What has to be done outside.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Quit,
    Suspend,
    Take(Victim),
}

impl State {
    /// After the first look.
    pub(crate) fn new(
        server: String,
        interval: Duration,
        first: Look,
        now: Instant,
    ) -> Self {
        let mut state = Self {
            server,
            interval,
            look: first.clone(),
            seen: now,
            trouble: None,
            leases: Leases::default(),
            history: History::new(interval),
            sorting: Sorting::default(),
            filter: String::new(),
            mode: Mode::Locks,
            chosen: None,
            place: 0,
            open: false,
            message: None,
        };
        state.take_in(first, now);
        state
    }

    /// Takes in what the asker tells.
    pub(crate) fn hear(&mut self, news: News, now: Instant) {
        match news {
            News::Seen(look) => self.take_in(*look, now),
            News::Unseen(why) => {
                self.history.unseen(now);
                let since = self.trouble.take().map_or(now, |(_, since)| since);
                self.trouble = Some((why, since));
            }
            News::Took(Victim { key, .. }, outcome) => {
                let told = match outcome {
                    Ok(owner) => format!("{key} taken from {owner}"),
                    Err(why) => format!("{key} not taken: {why}"),
                };
                self.message = Some((told, now));
            }
        }
    }

    /// Does what somebody wants; `page` is how many locks the screen shows.
    pub(crate) fn act(
        &mut self,
        intent: Intent,
        page: usize,
        now: Instant,
    ) -> Option<Wish> {
        match intent {
            Intent::Quit => return Some(Wish::Quit),
            Intent::Suspend => return Some(Wish::Suspend),
            Intent::Up => self.choose(self.place.saturating_sub(1), now),
            Intent::Down => self.choose(self.place.saturating_add(1), now),
            Intent::PageUp => self.choose(self.place.saturating_sub(page), now),
            Intent::PageDown => self.choose(self.place.saturating_add(page), now),
            Intent::First => self.choose(0, now),
            Intent::Last => self.choose(usize::MAX, now),
            Intent::Inspect => self.open = !self.open,
            Intent::Filter => self.mode = Mode::Filter,
            Intent::Help => self.mode = Mode::Help,
            Intent::Force => self.ask_to_take(now),
            Intent::Back => self.go_back(),
            Intent::Yes => return self.agree(now),
            Intent::Sort => self.sorting = self.sorting.next(),
            Intent::Type(character) => self.filter.push(character),
            Intent::Erase => drop(self.filter.pop()),
        }
        self.settle(now);
        None
    }

    /// The locks that the filter lets through, in the chosen order, as of now; while looks
    /// fail, as of when they began to.
    pub(crate) fn rows(&self, now: Instant) -> Vec<Row> {
        let as_of = self.trouble.as_ref().map_or(now, |(_, since)| *since);
        let since = as_of.saturating_duration_since(self.seen);
        let row = |lock| Row::new(lock, &self.leases, since);
        let mut rows: Vec<Row> = self.look.locks.iter().map(row).collect();
        rows.retain(|row| row.matches(&self.filter));
        self.sorting.sort(&mut rows);
        rows
    }

    /// Where the chosen lock stands in the rows.
    pub(crate) const fn place(&self) -> usize {
        self.place
    }

    /// What the panel shows, when it is open: the chosen lock; none inside: not known yet;
    /// none inside that: it is neither held nor waited for.
    pub(crate) fn panel(&self) -> Option<(&Text, Option<Option<&Inspected>>)> {
        let key = self.watched()?;
        let watched = self.look.watched.as_ref().filter(|(watched, _)| watched == key);
        Some((key, watched.map(|(_, lock)| lock.as_ref())))
    }

    /// The lock that should be inspected with each look.
    pub(crate) fn watched(&self) -> Option<&Text> {
        self.chosen.as_ref().filter(|_| self.open)
    }

    /// What is wrong with the connection.
    pub(crate) fn alarm(&self, now: Instant) -> Option<String> {
        let span = |since: Instant| span(now.saturating_duration_since(since));
        match &self.trouble {
            Some((why, since)) => Some(format!("{why}, trying again ({})", span(*since))),
            None if now.saturating_duration_since(self.seen) > self.interval + LATE => {
                Some(format!("no answer for {}", span(self.seen)))
            }
            None => None,
        }
    }

    /// What came of the last wish.
    pub(crate) fn message(&self, now: Instant) -> Option<&str> {
        let (text, since) = self.message.as_ref()?;
        (now.saturating_duration_since(*since) < MESSAGE).then_some(text)
    }

    /// Where the server is.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// A counter of the last look.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.look.stats.counter(name)
    }

    /// Whether the server has more locks than were asked for.
    pub(crate) const fn is_cut(&self) -> bool {
        self.look.locks.len() >= LIMIT
    }

    /// The last minutes.
    pub(crate) const fn history(&self) -> &History {
        &self.history
    }

    /// What keys mean now.
    pub(crate) const fn mode(&self) -> &Mode {
        &self.mode
    }

    /// What stands first.
    pub(crate) const fn sorting(&self) -> Sorting {
        self.sorting
    }

    /// What a key or an owner must hold to be shown.
    pub(crate) fn filter(&self) -> &str {
        &self.filter
    }

    fn take_in(&mut self, look: Look, now: Instant) {
        self.leases.seen(&look.locks);
        self.history.seen(&look.stats, now);
        self.look = look;
        self.seen = now;
        self.trouble = None;
        self.settle(now);
    }

    /// Puts the choice where the chosen lock stands now, or on what stands there instead.
    fn settle(&mut self, now: Instant) {
        let rows = self.rows(now);
        let stands = rows.iter().position(|row| Some(&row.key) == self.chosen.as_ref());
        match stands {
            Some(place) => self.place = place,
            None => self.choose(self.place, now),
        }
    }

    fn choose(&mut self, place: usize, now: Instant) {
        let rows = self.rows(now);
        self.place = place.min(rows.len().saturating_sub(1));
        self.chosen = rows.get(self.place).map(|row| row.key.clone());
    }

    fn ask_to_take(&mut self, now: Instant) {
        let Some(row) = self.rows(now).into_iter().nth(self.place) else { return };
        if row.owner.is_none() {
            self.message = Some((format!("nobody to take {} from", row.key), now));
            return;
        }
        let guard = Guard { owner: row.owner, token: row.token };
        self.mode = Mode::Asked(Victim { key: row.key, guard });
    }

    fn agree(&mut self, now: Instant) -> Option<Wish> {
        match std::mem::replace(&mut self.mode, Mode::Locks) {
            // Later it might be carried out when nobody wants it any more.
            Mode::Asked(_) if self.alarm(now).is_some() => {
                self.message = Some(("nothing taken: no connection".to_owned(), now));
                None
            }
            Mode::Asked(victim) => Some(Wish::Take(victim)),
            _ => None,
        }
    }

    fn go_back(&mut self) {
        match self.mode {
            Mode::Filter => self.filter.clear(),
            Mode::Locks if self.open => self.open = false,
            Mode::Locks => self.filter.clear(),
            Mode::Asked(_) | Mode::Help => {}
        }
        self.mode = Mode::Locks;
    }
}

/// A length of time as people read it.
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
        sample::state(sample::look(locks), now)
    }

    fn chosen(state: &State) -> String {
        human::or_unknown(state.chosen.as_ref())
    }

    fn keys(state: &State, now: Instant) -> Vec<String> {
        state.rows(now).iter().map(|row| row.key.to_string()).collect()
    }

    fn press(state: &mut State, intents: &[Intent], now: Instant) -> Option<Wish> {
        intents.iter().filter_map(|intent| state.act(*intent, 2, now)).last()
    }

    #[test]
    fn the_most_contended_stands_first_and_is_chosen() {
        let now = Instant::now();
        let state = state(&[("a", 0), ("b", 5), ("c", 1)], now);
        assert_eq!(keys(&state, now), ["b", "c", "a"]);
        assert_eq!(chosen(&state), "b");
    }

    #[test]
    fn the_choice_goes_with_its_lock() {
        let now = Instant::now();
        let mut state = state(&[("a", 3), ("b", 2), ("c", 1)], now);
        press(&mut state, &[Intent::Down], now);
        assert_eq!((chosen(&state), state.place()), ("b".to_owned(), 1));
        state.hear(sample::seen(&[("a", 1), ("b", 0), ("c", 2), ("d", 9)]), now);
        assert_eq!((chosen(&state), state.place()), ("b".to_owned(), 3));
    }

    #[test]
    fn when_the_chosen_lock_goes_the_next_one_there_is_it() {
        let now = Instant::now();
        let mut state = state(&[("a", 3), ("b", 2), ("c", 1)], now);
        press(&mut state, &[Intent::Down], now);
        state.hear(sample::seen(&[("a", 3), ("c", 1)]), now);
        assert_eq!(chosen(&state), "c");
        state.hear(sample::seen(&[("a", 3)]), now);
        assert_eq!(chosen(&state), "a");
        state.hear(sample::seen(&[]), now);
        assert_eq!((chosen(&state), state.place()), ("-".to_owned(), 0));
        state.hear(sample::seen(&[("z", 0)]), now);
        assert_eq!(chosen(&state), "z");
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
            assert_eq!(chosen(&state), key, "{intent:?}");
        }
    }

    #[test]
    fn a_lock_is_taken_only_after_a_yes_and_from_the_hold_that_was_shown() {
        let now = Instant::now();
        let mut state = state(&[("a", 1)], now);
        let shown = state.rows(now)[0].token;
        assert_eq!(press(&mut state, &[Intent::Force, Intent::Back], now), None);
        assert_eq!(press(&mut state, &[Intent::Yes], now), None);
        assert_eq!(press(&mut state, &[Intent::Force], now), None);
        // Somebody else has it by the time of the answer.
        let mut look = sample::look(&[("a", 0)]);
        look.locks[0].token = shown.map(|token| token + 1);
        state.hear(News::Seen(Box::new(look)), now);
        let owner = Some(Text(b"owner of a".to_vec()));
        let guard = Guard { owner, token: shown };
        let victim = Victim { key: Text(b"a".to_vec()), guard };
        assert_eq!(press(&mut state, &[Intent::Yes], now), Some(Wish::Take(victim)));
        assert_eq!(*state.mode(), Mode::Locks);
    }

    #[test]
    fn nothing_is_taken_while_there_is_no_connection() {
        let now = Instant::now();
        let mut state = state(&[("a", 1)], now);
        press(&mut state, &[Intent::Force], now);
        state.hear(News::Unseen("no connection to x".to_owned()), now);
        assert_eq!(press(&mut state, &[Intent::Yes], now), None);
        assert_eq!(state.message(now), Some("nothing taken: no connection"));
    }

    #[test]
    fn a_free_lock_has_nobody_to_take_it_from() {
        let now = Instant::now();
        let mut look = sample::look(&[("a", 1)]);
        look.locks[0].owner = None;
        let mut state = sample::state(look, now);
        press(&mut state, &[Intent::Force], now);
        assert_eq!(*state.mode(), Mode::Locks);
        assert_eq!(state.message(now), Some("nobody to take a from"));
    }

    #[test]
    fn what_became_of_it_is_told_for_a_while() {
        let now = Instant::now();
        let mut state = state(&[("a", 1)], now);
        let victim = || Victim { key: Text(b"a".to_vec()), guard: Guard::default() };
        let taken = Ok(Text(b"asr".to_vec()));
        state.hear(News::Took(victim(), taken), now);
        assert_eq!(state.message(now), Some("a taken from asr"));
        state.hear(News::Took(victim(), Err("gone".to_owned())), now);
        assert_eq!(state.message(now), Some("a not taken: gone"));
        assert_eq!(state.message(now + MESSAGE), None);
    }

    #[test]
    fn the_filter_narrows_while_it_is_typed() {
        let now = Instant::now();
        let mut state = state(&[("gpu:0", 2), ("gpu:1", 1), ("tpu:0", 0)], now);
        press(&mut state, &[Intent::Filter, Intent::Type('T'), Intent::Type('p')], now);
        assert_eq!(keys(&state, now), ["tpu:0"]);
        assert_eq!(chosen(&state), "tpu:0");
        press(&mut state, &[Intent::Yes], now);
        assert_eq!((state.filter(), state.mode()), ("Tp", &Mode::Locks));
        press(&mut state, &[Intent::Filter, Intent::Erase, Intent::Erase], now);
        assert_eq!(keys(&state, now).len(), 3);
        press(&mut state, &[Intent::Type('x'), Intent::Back], now);
        assert_eq!(state.filter(), "");
    }

    #[test]
    fn the_panel_shows_the_chosen_lock_and_no_other() {
        let now = Instant::now();
        let mut state = state(&[("a", 2), ("b", 1)], now);
        assert_eq!(state.watched(), None);
        press(&mut state, &[Intent::Inspect], now);
        assert_eq!(state.watched().unwrap().to_string(), "a");
        assert!(matches!(state.panel(), Some((_, None))), "not known yet");
        let watched = (Text(b"a".to_vec()), None);
        let look = || Look {
            watched: Some(watched.clone()),
            ..sample::look(&[("a", 2), ("b", 1)])
        };
        state.hear(News::Seen(Box::new(look())), now);
        assert!(matches!(state.panel(), Some((_, Some(None)))), "free");
        press(&mut state, &[Intent::Down], now);
        assert!(matches!(state.panel(), Some((key, None)) if key.0 == b"b"));
        press(&mut state, &[Intent::Back], now);
        assert!(state.panel().is_none());
    }

    #[test]
    fn trouble_is_told_since_it_began_and_the_clocks_stand_still() {
        let now = Instant::now();
        let mut state = state(&[("a", 0)], now);
        let lease = |state: &State, now| state.rows(now)[0].lease_ms.unwrap();
        let before = lease(&state, now);
        assert_eq!(lease(&state, now + SECOND), before - 1000);
        assert_eq!(state.alarm(now + SECOND), None);
        for after in [1, 2, 3] {
            let why = "no connection to x".to_owned();
            state.hear(News::Unseen(why), now + after * SECOND);
        }
        let told = "no connection to x, trying again (4.0s)";
        assert_eq!(state.alarm(now + 5 * SECOND).unwrap(), told);
        assert_eq!(lease(&state, now + 5 * SECOND), before - 1000);
        state.hear(sample::seen(&[("a", 0)]), now + 6 * SECOND);
        assert_eq!(state.alarm(now + 6 * SECOND), None);
    }

    #[test]
    fn an_answer_that_is_late_is_told() {
        let now = Instant::now();
        let state = state(&[], now);
        assert_eq!(state.alarm(now + SECOND + LATE), None);
        let later = now + 4 * SECOND;
        assert_eq!(state.alarm(later).unwrap(), "no answer for 4.0s");
    }
}
