//! Which key means what, in which mode. What is done then stands with the state.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::state::Mode;

/// What somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
    /// To open or close the panel of the chosen lock.
    Inspect,
    /// To take the chosen lock away.
    Force,
    Filter,
    Sort,
    Help,
    /// Yes to a question, or to what was typed.
    Yes,
    /// No, or away from here.
    Back,
    Type(char),
    Erase,
    /// To be back in the shell for a while.
    Suspend,
    Quit,
}

/// What a key means; none: nothing here.
pub(crate) fn intent(key: KeyEvent, mode: &Mode) -> Option<Intent> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return with_control(key.code);
    }
    match mode {
        Mode::Locks => at_the_locks(key.code),
        Mode::Filter => in_the_filter(key.code),
        Mode::Asked(_) => when_asked(key.code),
        Mode::Help => Some(Intent::Back),
    }
}

/// What the terminal itself does with these keys, were it not for the raw mode.
const fn with_control(key: KeyCode) -> Option<Intent> {
    Some(match key {
        KeyCode::Char('c') => Intent::Quit,
        KeyCode::Char('z') => Intent::Suspend,
        _ => return None,
    })
}

const fn at_the_locks(key: KeyCode) -> Option<Intent> {
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

const fn in_the_filter(key: KeyCode) -> Option<Intent> {
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

/// Only a plain yes takes a lock.
const fn when_asked(key: KeyCode) -> Option<Intent> {
    Some(match key {
        KeyCode::Char('y' | 'Y') => Intent::Yes,
        KeyCode::Char('n' | 'N' | 'q') | KeyCode::Esc => Intent::Back,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::asker::Victim;
    use super::*;
    use crate::act::take::Guard;
    use crate::text::Text;

    fn meant(code: KeyCode, mode: &Mode) -> Option<Intent> {
        intent(KeyEvent::from(code), mode)
    }

    #[test]
    fn what_is_typed_into_the_filter_is_no_command() {
        for character in ['q', 'f', 'j', '/', '?', 's', ' '] {
            let meant = meant(KeyCode::Char(character), &Mode::Filter);
            assert_eq!(meant, Some(Intent::Type(character)));
        }
    }

    #[test]
    fn only_y_is_a_yes_to_the_question() {
        let victim = Victim { key: Text(b"k".to_vec()), guard: Guard::default() };
        let asked = Mode::Asked(victim);
        assert_eq!(meant(KeyCode::Char('y'), &asked), Some(Intent::Yes));
        for other in [KeyCode::Enter, KeyCode::Char('f'), KeyCode::Char(' ')] {
            assert_eq!(meant(other, &asked), None);
        }
        assert_eq!(meant(KeyCode::Esc, &asked), Some(Intent::Back));
    }

    #[test]
    fn control_c_quits_and_control_z_suspends_from_everywhere() {
        for (key, meant) in [('c', Intent::Quit), ('z', Intent::Suspend)] {
            let key = KeyEvent::new(KeyCode::Char(key), KeyModifiers::CONTROL);
            for mode in [Mode::Locks, Mode::Filter, Mode::Help] {
                assert_eq!(intent(key, &mode), Some(meant));
            }
        }
    }

    #[test]
    fn a_key_that_goes_up_again_means_nothing() {
        let mut key = KeyEvent::from(KeyCode::Char('q'));
        key.kind = KeyEventKind::Release;
        assert_eq!(intent(key, &Mode::Locks), None);
    }
}
