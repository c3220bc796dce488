//! The picture: from top to bottom what goes on, the locks, the panel of the chosen one,
//! and what the keys do. It shows the state and changes nothing.

mod head;
mod locks;
mod panel;
mod popup;

use std::time::Instant;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Stylize;
use ratatui::text::Line;
use ratatui::widgets::TableState;

use super::state::{Mode, State};

/// The screens that are high enough have the head with the sparkline.
const HIGH: u16 = 14;

/// What the drawing keeps from one picture to the next.
#[derive(Debug, Default)]
pub(crate) struct Picture {
    table: TableState,
    page: usize,
}

impl Picture {
    /// Draws the state.
    pub(crate) fn draw(&mut self, frame: &mut Frame<'_>, state: &State, now: Instant) {
        let rows = state.rows(now);
        let [title, head, locks, panel, foot] = areas(frame.area(), state);
        frame.render_widget(head::title(state, rows.len(), now), title);
        head::draw(frame, head, state, now);
        self.page = usize::from(locks.height.saturating_sub(1));
        self.table.select((!rows.is_empty()).then_some(state.place()));
        locks::draw(frame, locks, &rows, &mut self.table, state.filter());
        panel::draw(frame, panel, state);
        frame.render_widget(foot_line(state, now), foot);
        match state.mode() {
            Mode::Asked(victim) => popup::question(frame, victim, &rows),
            Mode::Help => popup::help(frame),
            Mode::Locks | Mode::Filter => {}
        }
    }

    /// How many locks fit.
    pub(crate) const fn page(&self) -> usize {
        self.page
    }
}

fn areas(screen: Rect, state: &State) -> [Rect; 5] {
    let head = if screen.height >= HIGH { head::HEIGHT } else { 0 };
    let panel = if state.panel().is_some() { screen.height * 2 / 5 } else { 0 };
    Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(head),
        Constraint::Fill(1),
        Constraint::Length(panel),
        Constraint::Length(1),
    ])
    .areas(screen)
}

/// What is wrong, else what was done last, else what is typed, else what the keys do.
fn foot_line(state: &State, now: Instant) -> Line<'_> {
    if *state.mode() == Mode::Filter {
        return Line::from(format!("filter: {}\u{2588}", state.filter()));
    }
    if let Some(message) = state.message(now) {
        return Line::from(message).bold();
    }
    Line::from(
        "q quit  ? help  \u{2191}\u{2193} choose  Enter line  f take away  / filter  s sort",
    )
    .dim()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::asker::{Look, News};
    use super::super::input::Intent;
    use super::super::sample;
    use super::*;
    use crate::replies::{Inspected, Waiter};
    use crate::stats::Histogram;
    use crate::text::Text;

    const SECOND: Duration = Duration::from_secs(1);

    /// The lines of the picture, without what is empty at their ends.
    fn drawn(state: &State, width: u16, height: u16, now: Instant) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let mut picture = Picture::default();
        terminal.draw(|frame| picture.draw(frame, state, now)).unwrap();
        let cells = terminal.backend().buffer().content();
        let line = |cells: &[ratatui::buffer::Cell]| {
            let line: String = cells.iter().map(|cell| cell.symbol()).collect();
            line.trim_end().to_owned()
        };
        cells.chunks(usize::from(width)).map(line).collect()
    }

    fn state(locks: &[(&str, u64)], now: Instant) -> State {
        sample::state(sample::look(locks), now)
    }

    #[test]
    fn each_lock_has_a_line_the_most_contended_first() {
        let now = Instant::now();
        let lines = drawn(&state(&[("gpu:0", 0), ("gpu:1", 3)], now), 80, 20, now);
        #[rustfmt::skip]
        let table = [
            "KEY    OWNER                              LEASE          LEFT  HELD FOR  WAITING",
            "gpu:1  owner of gpu:1                     ██████████      30s    1m 00s        3",
            "gpu:0  owner of gpu:0                     ██████████      30s    1m 00s        0",
            "",
        ];
        let title = "gpulock  127.0.0.1:6379 · 2 held · 3 waiting · most waiting first";
        assert_eq!(lines[0], title);
        assert_eq!(lines[6..10], table, "{lines:#?}");
        assert!(lines[19].contains("q quit"), "{lines:#?}");
    }

    #[test]
    fn a_lease_runs_down_between_two_looks() {
        let now = Instant::now();
        let lines = drawn(&state(&[("gpu:0", 0)], now), 80, 10, now + 2 * SECOND);
        assert!(lines[2].contains("█████████▍      28s    1m 02s"), "{lines:#?}");
    }

    #[test]
    fn the_last_minutes_are_drawn_with_their_scale_and_gaps() {
        let now = Instant::now();
        let mut state = state(&[("gpu:0", 0)], now);
        state.hear(sample::seen(&[("gpu:0", 4)]), now + SECOND);
        state.hear(News::Unseen("no connection".to_owned()), now + 2 * SECOND);
        let mut look = sample::look(&[("gpu:0", 8)]);
        look.stats.wait_ms = Histogram::of(&[(10, 1), (2_000, 3)], 0);
        state.hear(News::Seen(Box::new(look)), now + 3 * SECOND);
        let lines = drawn(&state, 80, 20, now + 3 * SECOND);
        assert!(lines[1].contains("clients waiting, last 3.0s, at most 8"), "{lines:#?}");
        let bars: Vec<String> =
            lines[2..6].iter().map(|line| line.chars().take(4).collect()).collect();
        assert_eq!(bars, ["  ·█", "  ·█", " █·█", " █·█"], "{lines:#?}");
        assert!(lines[2].ends_with("4 granted, p50 ≤ 2.0s"), "{lines:#?}");
    }

    #[test]
    fn the_panel_shows_the_line_with_kept_places() {
        let now = Instant::now();
        let mut state = state(&[("gpu:0", 2)], now);
        state.act(Intent::Inspect, 9, now);
        let waiter = |owner: &str, client| Waiter {
            owner: Text(owner.into()),
            client,
            waited_ms: 65_000,
            wants: 2,
            of: 4,
            reserved: vec![Text(b"gpu:3".to_vec())],
        };
        let lock = Inspected {
            owner: Some(Text(b"asr".to_vec())),
            token: Some(7),
            lease_ms: Some(30_000),
            held_ms: Some(60_000),
            session: Some(14),
            grace_ms: None,
            adopted: Some(false),
            reserved_for: None,
            waiting: 2,
            waiters: vec![waiter("tts", Some(15)), waiter("llm", None)],
        };
        let watched = Some((Text(b"gpu:0".to_vec()), Some(lock)));
        let look = Look { watched, ..sample::look(&[("gpu:0", 2)]) };
        state.hear(News::Seen(Box::new(look)), now);
        let all = drawn(&state, 80, 24, now).join("\n");
        for told in [
            "held by asr",
            "token 7 · session of client 14",
            "1    tts ",
            "2    llm (away, place kept) ",
            "1m 05s      2 of 4     gpu:3",
        ] {
            assert!(all.contains(told), "{told:?} is not in\n{all}");
        }
    }

    #[test]
    fn the_question_names_the_hold_and_says_when_it_has_changed_hands() {
        let now = Instant::now();
        let mut state = state(&[("gpu:0", 2)], now);
        state.act(Intent::Force, 9, now);
        let all = drawn(&state, 80, 24, now).join("\n");
        for told in [
            "Take gpu:0",
            "from owner of gpu:0",
            "token 1795419307235151",
            "held for 1m 00s, lease left 30s, 2 waiting",
            "y: take it",
        ] {
            assert!(all.contains(told), "{told:?} is not in\n{all}");
        }
        state.hear(sample::seen(&[]), now);
        let all = drawn(&state, 80, 24, now).join("\n");
        assert!(all.contains("It is no longer held so."), "{all}");
        assert!(all.contains("from owner of gpu:0"), "{all}");
    }

    #[test]
    fn trouble_stands_at_the_top_and_the_locks_stay() {
        let now = Instant::now();
        let mut state = state(&[("gpu:0", 2)], now);
        let why = "no connection to 127.0.0.1:6379".to_owned();
        state.hear(News::Unseen(why), now);
        let lines = drawn(&state, 80, 20, now + 3 * SECOND);
        let told = " no connection to 127.0.0.1:6379, trying again (3.0s)";
        assert_eq!(lines[0], told);
        assert!(lines[7].starts_with("gpu:0"), "{lines:#?}");
    }

    #[test]
    fn on_a_narrow_screen_keys_still_differ() {
        let now = Instant::now();
        let locks =
            [("{a-long-name-of-a-node}:gpu:0", 2), ("{a-long-name-of-a-node}:gpu:1", 1)];
        let state = state(&locks, now);
        let lines = drawn(&state, 40, 8, now);
        #[rustfmt::skip]
        let table = [
            "KEY         OWNER         LEASE  WAITING",
            "{a-lo…pu:0  owner…pu:0      30s        2",
            "{a-lo…pu:1  owner…pu:1      30s        1",
        ];
        assert_eq!(lines[1..4], table, "{lines:#?}");
    }

    #[test]
    fn no_size_and_no_mode_is_too_much() {
        let now = Instant::now();
        let mut state = state(&[("gpu:0", 2), ("gpu:1", 0)], now);
        for intent in [Intent::Inspect, Intent::Help, Intent::Back, Intent::Force] {
            state.act(intent, 9, now);
            for (width, height) in [(1, 1), (2, 9), (9, 2), (20, 5), (64, 14), (300, 90)]
            {
                assert_eq!(drawn(&state, width, height, now).len(), usize::from(height));
            }
        }
    }

    #[test]
    fn an_empty_list_says_why_it_is_empty() {
        let now = Instant::now();
        let all = drawn(&state(&[], now), 80, 20, now).join("\n");
        assert!(all.contains("No lock is held or waited for."), "{all}");
        let mut state = state(&[("gpu:0", 2)], now);
        for intent in [Intent::Filter, Intent::Type('x'), Intent::Yes] {
            state.act(intent, 9, now);
        }
        let all = drawn(&state, 80, 20, now).join("\n");
        assert!(all.contains("No lock with \"x\" in its key or owner."), "{all}");
    }
}
