//! Draws the state: from top to bottom the title, the last minutes, the locks, the panel of the
//! selected lock, and the key bindings.

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

/// The minimum height of a screen with the sparkline.
const MIN_HEIGHT_WITH_HEAD: u16 = 14;

/// What is kept from one frame to the next.
#[derive(Debug, Default)]
pub(crate) struct Canvas {
    table: TableState,
    page: usize,
}

impl Canvas {
    /// Draws a frame.
    pub(crate) fn draw(&mut self, frame: &mut Frame<'_>, state: &State, now: Instant) {
        let rows = state.rows(now);
        let [title, head, locks, panel, foot] = areas(frame.area(), state);
        frame.render_widget(head::title(state, rows.len(), now, title.width), title);
        head::draw(frame, head, state, now);
        self.page = usize::from(locks.height.saturating_sub(1));
        self.table.select((!rows.is_empty()).then_some(state.index()));
        locks::draw(frame, locks, &rows, &mut self.table, state.filter());
        panel::draw(frame, panel, state);
        frame.render_widget(foot_line(state, now), foot);
        match state.mode() {
            Mode::Confirm(hold) => popup::confirmation(frame, hold, &rows),
            Mode::Help => popup::help(frame),
            Mode::Locks | Mode::Filter => {}
        }
    }

    /// The number of locks that fit.
    pub(crate) const fn page(&self) -> usize {
        self.page
    }
}

fn areas(screen: Rect, state: &State) -> [Rect; 5] {
    let head = if screen.height >= MIN_HEIGHT_WITH_HEAD { head::HEIGHT } else { 0 };
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

/// The filter that is being typed, a message, or the key bindings.
fn foot_line(state: &State, now: Instant) -> Line<'_> {
    match state.mode() {
        Mode::Filter => return Line::from(format!("filter: {}\u{2588}", state.filter())),
        // On a low screen the popup may be cut.
        Mode::Confirm(_) => return Line::from("y release  n cancel").bold(),
        Mode::Locks | Mode::Help => {}
    }
    if let Some(message) = state.message(now) {
        return Line::from(message).bold();
    }
    Line::from(
        "q quit  ? help  \u{2191}\u{2193} select  Enter queue  f release  / filter  s sort",
    )
    .dim()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::input::Intent;
    use super::super::poller::{Snapshot, Update};
    use super::super::sample;
    use super::*;
    use crate::replies::{Inspected, Waiter};
    use crate::stats::Histogram;
    use crate::text::Text;

    const SECOND: Duration = Duration::from_secs(1);

    /// The lines of the screen, without trailing spaces.
    fn drawn(state: &State, width: u16, height: u16, now: Instant) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let mut canvas = Canvas::default();
        terminal.draw(|frame| canvas.draw(frame, state, now)).unwrap();
        let cells = terminal.backend().buffer().content();
        let line = |cells: &[ratatui::buffer::Cell]| {
            let line: String = cells.iter().map(|cell| cell.symbol()).collect();
            line.trim_end().to_owned()
        };
        cells.chunks(usize::from(width)).map(line).collect()
    }

    fn state(locks: &[(&str, u64)], now: Instant) -> State {
        sample::state(sample::snapshot(locks), now)
    }

    #[test]
    fn locks_are_listed_with_most_waiters_first() {
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
    fn a_lease_counts_down_between_snapshots() {
        let now = Instant::now();
        let lines = drawn(&state(&[("gpu:0", 0)], now), 80, 10, now + 2 * SECOND);
        assert!(lines[2].contains("█████████▍      28s    1m 02s"), "{lines:#?}");
    }

    #[test]
    fn the_sparkline_has_a_scale_and_gaps() {
        let now = Instant::now();
        let mut state = state(&[("gpu:0", 0)], now);
        state.update(sample::update(&[("gpu:0", 4)]), now + SECOND);
        state.update(Update::Failed("no connection".to_owned()), now + 2 * SECOND);
        let mut snapshot = sample::snapshot(&[("gpu:0", 8)]);
        snapshot.stats.wait_ms = Histogram::of(&[(10, 1), (2_000, 3)], 0);
        state.update(Update::Snapshot(Box::new(snapshot)), now + 3 * SECOND);
        let lines = drawn(&state, 80, 20, now + 3 * SECOND);
        assert!(lines[1].contains("clients waiting, last 3.0s, max 8"), "{lines:#?}");
        let bars: Vec<String> =
            lines[2..6].iter().map(|line| line.chars().take(4).collect()).collect();
        assert_eq!(bars, ["  ·█", "  ·█", " █·█", " █·█"], "{lines:#?}");
        assert!(lines[2].ends_with("4 granted, p50 ≤ 2.0s"), "{lines:#?}");
    }

    #[test]
    fn the_panel_shows_the_queue_with_kept_positions() {
        let now = Instant::now();
        let mut state = state(&[("gpu:0", 2)], now);
        state.act(Intent::Inspect, 9, now);
        let waiter = |owner: &str, client| Waiter {
            owner: Text(owner.into()),
            client,
            waited_ms: 65_000,
            wants: 2,
            of: 4,
            groups: None,
            priority: 0,
            share: None,
            reserved: Some(vec![Text(b"gpu:3".to_vec())]),
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
            revoked_ms: None,
            revoked_reason: None,
            share: None,
            waiting: 2,
            waiters: vec![waiter("tts", Some(15)), waiter("llm", None)],
        };
        let inspected = Some((Text(b"gpu:0".to_vec()), Some(lock)));
        let snapshot = Snapshot { inspected, ..sample::snapshot(&[("gpu:0", 2)]) };
        state.update(Update::Snapshot(Box::new(snapshot)), now);
        let all = drawn(&state, 80, 24, now).join("\n");
        for expected in [
            "held by asr",
            "token 7 · session of client 14",
            "1    tts ",
            "2    llm (disconnected) ",
            "1m 05s      2 of 4     gpu:3",
        ] {
            assert!(all.contains(expected), "{expected:?} is not in\n{all}");
        }
    }

    #[test]
    fn the_confirmation_shows_the_hold_and_whether_it_has_ended() {
        let now = Instant::now();
        let mut state = state(&[("gpu:0", 2)], now);
        state.act(Intent::Force, 9, now);
        let all = drawn(&state, 80, 24, now).join("\n");
        for expected in [
            "Release gpu:0",
            "held by owner of gpu:0",
            "token 1795419307235151",
            "held for 1m 00s, lease left 30s, 2 waiting",
            "y: release",
        ] {
            assert!(all.contains(expected), "{expected:?} is not in\n{all}");
        }
        state.update(sample::update(&[]), now);
        let all = drawn(&state, 80, 24, now).join("\n");
        assert!(all.contains("This hold has ended."), "{all}");
        assert!(all.contains("held by owner of gpu:0"), "{all}");
    }

    #[test]
    fn a_gpu_with_slots_is_one_row_that_opens() {
        let now = Instant::now();
        let locks = [("{p:h}:GPU-a:0", 2), ("{p:h}:GPU-a:1", 2), ("gpu:0", 0)];
        let mut state = state(&locks, now);
        #[rustfmt::skip]
        let closed = [
            "▸ {p:h}:GPU-a  2 holders (2 slots)        ██████████      30s    1m 00s        2",
            "gpu:0          owner of gpu:0             ██████████      30s    1m 00s        0",
            "",
        ];
        assert_eq!(drawn(&state, 80, 10, now)[2..5], closed);
        state.act(Intent::Inspect, 9, now);
        #[rustfmt::skip]
        let open = [
            "▾ {p:h}:GPU-a  2 holders (2 slots)        ██████████      30s    1m 00s        2",
            "  slot 0       owner of {p:h}:GPU-a:0     ██████████      30s    1m 00s        2",
            "  slot 1       owner of {p:h}:GPU-a:1     ██████████      30s    1m 00s        2",
            "gpu:0          owner of gpu:0             ██████████      30s    1m 00s        0",
        ];
        assert_eq!(drawn(&state, 80, 10, now)[2..6], open);
    }

    #[test]
    fn an_error_replaces_the_title_and_the_locks_stay() {
        let now = Instant::now();
        let mut state = state(&[("gpu:0", 2)], now);
        let why = "failed to connect to 127.0.0.1:6379".to_owned();
        state.update(Update::Failed(why), now);
        let lines = drawn(&state, 80, 20, now + 3 * SECOND);
        let expected = " failed to connect to 127.0.0.1:6379, retrying (3.0s)";
        assert_eq!(lines[0], expected);
        assert!(lines[7].starts_with("gpu:0"), "{lines:#?}");
    }

    #[test]
    fn shortened_keys_still_differ_on_a_narrow_screen() {
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
    fn twenty_columns_show_keys_leases_and_waiters() {
        let now = Instant::now();
        let mut state = state(&[("{node7}:gpu:0", 2), ("{node7}:gpu:1", 1)], now);
        let lines = drawn(&state, 20, 20, now);
        #[rustfmt::skip]
        let expected = [
            "2 held · 3 waiting ·",
            " waits, last 5 min ",
            "0 granted, p50 -",
        ];
        for (line, expected) in lines.iter().zip(expected) {
            assert!(line.starts_with(expected.trim_end()), "{lines:#?}");
        }
        #[rustfmt::skip]
        let table = [
            "KEY            LEASE",
            "{node…gpu:0      30s",
            "{node…gpu:1      30s",
        ];
        assert_eq!(lines[6..9], table, "{lines:#?}");

        state.act(Intent::Force, 9, now);
        let lines = drawn(&state, 20, 20, now);
        assert_eq!(lines[19], "y release  n cancel", "{lines:#?}");
    }

    #[test]
    fn every_mode_can_be_drawn_at_every_size() {
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
    fn an_empty_list_shows_why() {
        let now = Instant::now();
        let all = drawn(&state(&[], now), 80, 20, now).join("\n");
        assert!(all.contains("No lock is held or waited for."), "{all}");
        let mut state = state(&[("gpu:0", 2)], now);
        for intent in [Intent::Filter, Intent::Type('x'), Intent::Yes] {
            state.act(intent, 9, now);
        }
        let all = drawn(&state, 80, 20, now).join("\n");
        assert!(all.contains("No key or owner contains \"x\"."), "{all}");
    }
}
