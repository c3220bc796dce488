//! Maps keys to intents, depending on the mode.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::state::Mode;

/// What the user wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
    /// Open or close the panel of the selected lock.
    Inspect,
    /// Release the selected lock by force.
    Force,
    Filter,
    Sort,
    Help,
    /// Confirm a question or the filter.
    Yes,
    /// Cancel, or go back.
    Back,
    Type(char),
    Erase,
    /// Stop, as with Control-Z.
    Suspend,
    Quit,
}

/// The intent of a key, if it has one in this mode.
pub(crate) fn intent(key: KeyEvent, mode: &Mode) -> Option<Intent> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return control_key(key.code);
    }
    match mode {
        Mode::Locks => locks_key(key.code),
        Mode::Filter => filter_key(key.code),
        Mode::Confirm(_) => confirm_key(key.code),
        Mode::Help => Some(Intent::Back),
    }
}

/// Without raw mode the terminal itself would handle these keys.
const fn control_key(key: KeyCode) -> Option<Intent> {
    Some(match key {
        KeyCode::Char('c') => Intent::Quit,
        KeyCode::Char('z') => Intent::Suspend,
        _ => return None,
    })
}

const fn locks_key(key: KeyCode) -> Option<Intent> {
    Some(match key {
        KeyCode::Up | KeyCode::Char('k') => Intent::Up,
        KeyCode::Down | KeyCode::Char('j') => Intent::Down,
        KeyCode::PageUp => Intent::PageUp,
        KeyCode::PageDown => Intent::PageDown,
        KeyCode::Home | KeyCode::Char('g') => Intent::First,
        KeyCode::End | KeyCode::Char('G') => Intent::Last,
        KeyCode::Enter => Intent::Inspect,
        KeyCode::Char('f') => Intent::Force,
        KeyCode::Char('/') => Intent::Filter,
        KeyCode::Char('s') => Intent::Sort,
        KeyCode::Char('?' | 'h') => Intent::Help,
        KeyCode::Char('q') => Intent::Quit,
        KeyCode::Esc => Intent::Back,
        _ => return None,
    })
}

const fn filter_key(key: KeyCode) -> Option<Intent> {
    Some(match key {
        KeyCode::Up => Intent::Up,
        KeyCode::Down => Intent::Down,
        KeyCode::Enter => Intent::Yes,
        KeyCode::Esc => Intent::Back,
        KeyCode::Backspace => Intent::Erase,
        KeyCode::Char(character) => Intent::Type(character),
        _ => return None,
    })
}

/// Only a plain yes confirms.
const fn confirm_key(key: KeyCode) -> Option<Intent> {
    Some(match key {
        KeyCode::Char('y' | 'Y') => Intent::Yes,
        KeyCode::Char('n' | 'N' | 'q') | KeyCode::Esc => Intent::Back,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::poller::ShownHold;
    use super::*;
    use crate::act::forced_release::Expected;
    use crate::text::Text;

    fn intent_of(code: KeyCode, mode: &Mode) -> Option<Intent> {
        intent(KeyEvent::from(code), mode)
    }

    #[test]
    fn keys_typed_into_the_filter_are_not_commands() {
        for character in ['q', 'f', 'j', '/', '?', 's', ' '] {
            let intent = intent_of(KeyCode::Char(character), &Mode::Filter);
            assert_eq!(intent, Some(Intent::Type(character)));
        }
    }

    #[test]
    fn only_y_confirms() {
        let hold = ShownHold { key: Text(b"k".to_vec()), expected: Expected::default() };
        let confirm = Mode::Confirm(hold);
        assert_eq!(intent_of(KeyCode::Char('y'), &confirm), Some(Intent::Yes));
        for other in [KeyCode::Enter, KeyCode::Char('f'), KeyCode::Char(' ')] {
            assert_eq!(intent_of(other, &confirm), None);
        }
        assert_eq!(intent_of(KeyCode::Esc, &confirm), Some(Intent::Back));
    }

    #[test]
    fn control_c_quits_and_control_z_suspends_in_every_mode() {
        for (key, expected) in [('c', Intent::Quit), ('z', Intent::Suspend)] {
            let key = KeyEvent::new(KeyCode::Char(key), KeyModifiers::CONTROL);
            for mode in [Mode::Locks, Mode::Filter, Mode::Help] {
                assert_eq!(intent(key, &mode), Some(expected));
            }
        }
    }

    #[test]
    fn key_release_events_are_ignored() {
        let mut key = KeyEvent::from(KeyCode::Char('q'));
        key.kind = KeyEventKind::Release;
        assert_eq!(intent(key, &Mode::Locks), None);
    }
}
