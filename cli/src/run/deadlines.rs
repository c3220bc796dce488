//! When a command must have ended so that it never works on a lock that is gone: all of
//! the arithmetic. Nothing here looks at a clock.
//!
//! What is surely ours ends at the sooner of
//! - *the lease*: a lease after the last renewal that was answered was sent, or sooner when
//!   the server says so (`gpulock.max-hold` cuts it, or somebody's EXPIRE);
//! - *the session*, while its connection is broken: a grace after the last look that was
//!   answered was sent. The server saw the connection end after that;
//! - *the session*, while its connection is silent: [`SILENCE`] and a grace after it. A server
//!   gives up a connection that is silent after twice its `tcp-keepalive` of 15 s.
//!
//! Before that end the command is told to end, and killed, by shares of the time that there
//! was in all:
//!
//! ```text
//! |------- lease or grace -------|--- notice: a quarter, at most 5 s ---|
//! last sign of the server        TERM                  KILL |- a fifth -| end
//!                                                        guard's KILL |/
//! ```

use std::time::Duration;

use crate::clock::Moment;

/// How long the server keeps a session whose connection is silent, at the least.
const SILENCE: Duration = Duration::from_secs(30);

/// The longest time between TERM and the end.
const LONGEST_NOTICE: Duration = Duration::from_secs(5);

/// How long a command has after TERM whose lock is another's already.
const LOST_NOTICE: Duration = Duration::from_secs(1);

/// How long what a command left running has after TERM.
const LEFTOVER_NOTICE: Duration = Duration::from_secs(5);

/// What is known of the locks that are held.
#[derive(Clone, Debug)]
pub(crate) struct Hold {
    pub(crate) lease: Duration,
    pub(crate) grace: Duration,
    /// When the last renewal that was answered was sent.
    pub(crate) renewed: Moment,
    /// When the last look at the locks that was answered on the session's connection was sent.
    pub(crate) heard: Moment,
    /// When the first lease ends, as was answered to it; none: it was not told.
    pub(crate) told_end: Option<Moment>,
    /// Whether that connection has ended.
    pub(crate) broken: bool,
}

/// When what is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dues {
    /// The command is told to end.
    pub(crate) term: Moment,
    /// It is killed.
    pub(crate) kill: Moment,
    /// The guard kills it, should `gpulock` not have done so.
    pub(crate) guard: Moment,
}

impl Hold {
    /// Of locks whose leases had not begun, or were renewed, at that moment.
    pub(crate) fn from(at: Moment, lease: Duration, grace: Duration) -> Self {
        Self { lease, grace, renewed: at, heard: at, told_end: None, broken: false }
    }

    /// Takes in that a renewal that was sent then was answered.
    pub(crate) fn renewed(&mut self, at: Moment) {
        self.renewed = self.renewed.max(at);
        // What was told before is out of date.
        self.told_end = self.told_end.filter(|_| self.heard > at);
    }

    /// Takes in that a look that was sent then was answered, with what is left of the lease.
    pub(crate) fn heard(&mut self, at: Moment, left: Option<Duration>) {
        self.heard = at;
        self.told_end = left.map(|left| at.saturating_add(left));
        self.broken = false;
    }

    /// When what is due if nothing more is heard from the server.
    pub(crate) fn dues(&self) -> Dues {
        let lease = self.renewed.saturating_add(self.lease);
        let lease = self.told_end.map_or(lease, |end| end.min(lease));
        let session = match self.broken {
            true => self.grace,
            false => self.grace.saturating_add(SILENCE),
        };
        let session_end = self.heard.saturating_add(session);
        Dues::before(lease, self.lease).sooner(Dues::before(session_end, session))
    }
}

impl Dues {
    /// Those before the end of something that lasts so long in all.
    fn before(end: Moment, lasting: Duration) -> Self {
        let notice = (lasting / 4).min(LONGEST_NOTICE);
        let before = |share: Duration| end.saturating_sub(share);
        Self {
            term: before(notice),
            kill: before(notice / 5),
            guard: before(notice / 10),
        }
    }

    /// Those of a lock that is lost already, as is known `now`.
    pub(crate) fn of_lost(now: Moment) -> Self {
        Self::with_notice(now, LOST_NOTICE)
    }

    /// Those of what a command left running when it ended `now`.
    pub(crate) fn of_leftovers(now: Moment) -> Self {
        Self::with_notice(now, LEFTOVER_NOTICE)
    }

    fn with_notice(now: Moment, notice: Duration) -> Self {
        let kill = now.saturating_add(notice);
        Self { term: now, kill, guard: kill.saturating_add(notice / 2) }
    }

    /// Each due at the sooner of two moments.
    pub(crate) fn sooner(self, other: Self) -> Self {
        Self {
            term: self.term.min(other.term),
            kill: self.kill.min(other.kill),
            guard: self.guard.min(other.guard),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn hold(lease: u64, grace: u64) -> Hold {
        Hold::from(ms(100_000), ms(lease), ms(grace))
    }

    #[test]
    fn a_silent_server_leaves_the_lease() {
        let dues = hold(30_000, 5_000).dues();
        assert_eq!(
            dues,
            Dues { term: ms(125_000), kill: ms(129_000), guard: ms(129_500) }
        );
    }

    #[test]
    fn a_broken_session_leaves_the_grace() {
        let dues = Hold { broken: true, ..hold(30_000, 4_000) }.dues();
        assert_eq!(
            dues,
            Dues { term: ms(103_000), kill: ms(103_800), guard: ms(103_900) }
        );
    }

    #[test]
    fn a_broken_session_without_grace_leaves_nothing() {
        let dues = Hold { broken: true, ..hold(30_000, 0) }.dues();
        assert_eq!(
            dues,
            Dues { term: ms(100_000), kill: ms(100_000), guard: ms(100_000) }
        );
    }

    #[test]
    fn a_silent_session_does_not_leave_a_long_lease() {
        let dues = hold(3_600_000, 5_000).dues();
        assert_eq!(
            dues,
            Dues { term: ms(130_000), kill: ms(134_000), guard: ms(134_500) }
        );
    }

    #[test]
    fn a_lease_that_the_server_cut_ends_sooner_until_it_is_renewed() {
        let mut hold = hold(30_000, 5_000);
        let as_granted = hold.dues();
        hold.heard(ms(101_000), Some(ms(10_000)));
        assert_eq!(hold.dues().term, ms(106_000));
        hold.renewed(ms(100_500));
        assert_eq!(hold.dues().term, ms(106_000));
        hold.renewed(ms(102_000));
        assert_eq!(hold.dues().term, as_granted.term + ms(2_000));
    }

    #[test]
    fn all_is_done_before_the_end_and_in_order() {
        for lasting in [1, 10, 1_000, 30_000, 86_400_000] {
            let dues = Dues::before(ms(7 + lasting), ms(lasting));
            assert!(dues.term <= dues.kill && dues.kill <= dues.guard, "{dues:?}");
            assert!(dues.guard <= ms(7 + lasting), "{dues:?}");
        }
    }
}
