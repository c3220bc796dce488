//! A server that lies about its keys, and a module that loses replies: only in a test build
//! (feature `break-rules`). They show that the checker of `crates/chaos` detects a broken rule. The
//! environment variable `GPULOCK_BROKEN` names the rule; without it, and without the feature, none
//! is broken.

#[cfg(all(feature = "break-rules", not(debug_assertions)))]
compile_error!("rules are broken only in tests, never in a release build");

#[cfg(feature = "break-rules")]
pub(crate) use broken::{loses, state, state_for_owner};
#[cfg(not(feature = "break-rules"))]
pub(crate) use kept::{loses, state, state_for_owner};

#[cfg(not(feature = "break-rules"))]
mod kept {
    use gpulock_core::KeyState;
    use gpulock_core::state::outbox::WaitReply;

    use crate::redis::key::Key;

    pub(crate) fn state(state: KeyState<'_>) -> KeyState<'_> {
        state
    }

    pub(crate) fn state_for_owner<'k>(key: &'k Key<'_>, owner: &[u8]) -> KeyState<'k> {
        key.state_for_owner(owner)
    }

    pub(crate) fn loses(_: &WaitReply) -> bool {
        false
    }
}

#[cfg(feature = "break-rules")]
mod broken {
    use gpulock_core::KeyState;
    use gpulock_core::broken::{is, is_time};
    use gpulock_core::state::key_state::Expires;
    use gpulock_core::state::outbox::WaitReply;

    use crate::redis::key::Key;

    /// `two-owners`: a held lock looks free now and then.
    pub(crate) fn state(state: KeyState<'_>) -> KeyState<'_> {
        let is_held = matches!(state, KeyState::String { .. });
        if is_held && is("two-owners") && is_time() { KeyState::Absent } else { state }
    }

    /// `anyone-releases`: whatever the owner, it seems to be the one of the caller.
    pub(crate) fn state_for_owner<'k>(key: &'k Key<'_>, owner: &[u8]) -> KeyState<'k> {
        let state = key.state_for_owner(owner);
        match state {
            KeyState::String { .. } if is("anyone-releases") => {
                let value = Vec::leak(owner.to_vec());
                KeyState::String { value, expires: Expires::Unread }
            }
            state => state,
        }
    }

    /// `waiter-dropped`: now and then, the reply of a hand-off is lost.
    pub(crate) fn loses(reply: &WaitReply) -> bool {
        matches!(reply, WaitReply::Granted { .. }) && is("waiter-dropped") && is_time()
    }
}
