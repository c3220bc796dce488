//! Rules broken on purpose, in a build for tests alone (feature `break-rules`), at places of
//! which each has one line here: they show that the checker of `crates/chaos` finds it.
//! `GPULOCK_BROKEN` names the rule; without it, and without the feature, all are kept.

#[cfg(all(feature = "break-rules", not(debug_assertions)))]
compile_error!("rules are broken for tests only, never in a release build");

#[cfg(not(feature = "break-rules"))]
pub(crate) use kept::{drops, release, seen, token};
#[cfg(feature = "break-rules")]
pub(crate) use on_purpose::{drops, release, seen, token};

#[cfg(not(feature = "break-rules"))]
mod kept {
    use gpulock_core::Seen;
    use gpulock_core::keeper::Answer;
    use gpulock_core::request::Release;

    pub(crate) fn seen(seen: Seen<'_>) -> Seen<'_> {
        seen
    }

    pub(crate) fn token(token: u64) -> u64 {
        token
    }

    pub(crate) fn release<'a>(ask: Release<'a>, _: &Seen<'a>) -> Release<'a> {
        ask
    }

    pub(crate) fn drops(_: &Answer) -> bool {
        false
    }
}

#[cfg(feature = "break-rules")]
mod on_purpose {
    use std::sync::atomic::{AtomicU64, Ordering};

    use gpulock_core::Seen;
    use gpulock_core::broken::is;
    use gpulock_core::keeper::Answer;
    use gpulock_core::request::Release;

    /// Every so manieth time.
    const OFTEN: u64 = 50;

    static TIMES: AtomicU64 = AtomicU64::new(0);
    static LAST_TOKEN: AtomicU64 = AtomicU64::new(0);

    fn is_time() -> bool {
        TIMES.fetch_add(1, Ordering::Relaxed) % OFTEN == OFTEN - 1
    }

    /// `two-owners`: a held lock looks free to one who asks for it.
    pub(crate) fn seen(seen: Seen<'_>) -> Seen<'_> {
        let is_held = matches!(seen, Seen::Text { .. });
        if is_held && is("two-owners") && is_time() { Seen::Absent } else { seen }
    }

    /// `token-twice`: a grant is answered with the token of the one before.
    pub(crate) fn token(token: u64) -> u64 {
        let last = LAST_TOKEN.swap(token, Ordering::Relaxed);
        if last > 0 && is("token-twice") && is_time() { last } else { token }
    }

    /// `anyone-releases`: whoever holds the lock, the caller gives it back.
    pub(crate) fn release<'a>(ask: Release<'a>, seen: &Seen<'a>) -> Release<'a> {
        match *seen {
            Seen::Text { value, .. } if is("anyone-releases") => {
                Release { owner: value, token: None, ..ask }
            }
            _ => ask,
        }
    }

    /// `waiter-dropped`: a hand-off forgets to tell the one who got the lock.
    pub(crate) fn drops(answer: &Answer) -> bool {
        matches!(answer, Answer::Granted { .. }) && is("waiter-dropped") && is_time()
    }
}
