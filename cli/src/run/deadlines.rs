//! The deadlines by which a command must be terminated, so that it never runs without its
//! locks: all of the arithmetic. Nothing here reads a clock.
//!
//! The locks are certainly held until the earliest of
//! - *the lease*: one lease after the last successful renewal was sent, or earlier if the
//!   server reports so (`gpulock.max-hold` or an EXPIRE cut it);
//! - *the session* while its connection is broken: one grace period after the last successful
//!   check was sent. The server saw the connection end after that;
//! - *the session* while its connection is silent: [`SILENCE`] plus a grace period after that.
//!   A server closes a silent connection after twice its `tcp-keepalive` of 15 s.
//!
//! The command gets TERM and then KILL before that end, at fixed fractions of the period:
//!
//! ```text
//! |------- lease or grace -------|--- notice: a quarter, at most 5 s ---|
//! last contact                   TERM              KILL |-- a fifth --| end
//!                                             watchdog's KILL |/
//! ```

use std::time::Duration;

use crate::clock::Moment;

/// How long the server keeps a session with a silent connection, at least.
const SILENCE: Duration = Duration::from_secs(30);

/// A reported end is early by the time that the check took: at most its timeout.
const MAX_DELAY: Duration = Duration::from_secs(1);

/// The longest time between TERM and the end.
const MAX_NOTICE: Duration = Duration::from_secs(5);

/// The time between TERM and KILL if the lock already belongs to another owner.
const LOST_NOTICE: Duration = Duration::from_secs(1);

/// The time between TERM and KILL for processes that the command left running.
const SURVIVOR_NOTICE: Duration = Duration::from_secs(5);

/// The last successful contact with the server about the locks.
#[derive(Clone, Debug)]
pub(crate) struct LastContact {
    pub(crate) lease: Duration,
    pub(crate) grace: Duration,
    /// When the last successful renewal was sent.
    pub(crate) renewed: Moment,
    /// When the last successful check on the session's connection was sent.
    pub(crate) session_alive: Moment,
    /// When the first lease expires, as reported by that check, if it was.
    pub(crate) reported_end: Option<Moment>,
    /// Whether that is earlier than the last renewal would have it. The next renewal may not
    /// change that (`gpulock.max-hold`): only a later report does.
    pub(crate) is_cut: bool,
    /// Whether the session's connection is broken.
    pub(crate) is_broken: bool,
}

/// When to send which signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadlines {
    /// TERM to the command.
    pub(crate) term: Moment,
    /// KILL to the command.
    pub(crate) kill: Moment,
    /// KILL by the watchdog, if `gpulock` has not done it.
    pub(crate) watchdog: Moment,
}

impl LastContact {
    /// For locks whose leases had not begun, or were renewed, at this moment.
    pub(crate) fn new(at: Moment, lease: Duration, grace: Duration) -> Self {
        Self {
            lease,
            grace,
            renewed: at,
            session_alive: at,
            reported_end: None,
            is_cut: false,
            is_broken: false,
        }
    }

    /// Records a successful renewal that was sent at this moment.
    pub(crate) fn renewed(&mut self, at: Moment) {
        self.renewed = self.renewed.max(at);
        // An earlier report is out of date, unless the server may limit this renewal, too.
        let is_valid = self.is_cut || self.session_alive > at;
        self.reported_end = self.reported_end.filter(|_| is_valid);
    }

    /// Records a successful check that was sent at this moment, with the remaining lease.
    pub(crate) fn session_alive(&mut self, at: Moment, lease_left: Option<Duration>) {
        self.session_alive = at;
        self.reported_end = lease_left.map(|left| at.saturating_add(left));
        let is_early = |end: Moment| {
            end.saturating_add(MAX_DELAY) < self.renewed.saturating_add(self.lease)
        };
        // A check that was sent before the renewal says nothing about it.
        self.is_cut = at >= self.renewed && self.reported_end.is_some_and(is_early);
        self.is_broken = false;
    }

    /// Whether the deadlines follow from a lease that the server has reported as shorter than it was
    /// renewed.
    pub(crate) fn is_limited(&self) -> bool {
        let term = |end| Deadlines::before(end, self.lease).term;
        self.is_cut
            && self.reported_end.is_some_and(|end| term(end) <= self.deadlines().term)
    }

    /// The deadlines if there is no further contact.
    pub(crate) fn deadlines(&self) -> Deadlines {
        let lease = self.renewed.saturating_add(self.lease);
        let lease = self.reported_end.map_or(lease, |end| end.min(lease));
        let session = match self.is_broken {
            true => self.grace,
            false => self.grace.saturating_add(SILENCE),
        };
        let session_end = self.session_alive.saturating_add(session);
        Deadlines::before(lease, self.lease)
            .earliest(Deadlines::before(session_end, session))
    }
}

impl Deadlines {
    /// For the end of a period of this length.
    fn before(end: Moment, period: Duration) -> Self {
        let notice = (period / 4).min(MAX_NOTICE);
        let before = |time: Duration| end.saturating_sub(time);
        Self {
            term: before(notice),
            kill: before(notice / 5),
            watchdog: before(notice / 10),
        }
    }

    /// For locks that are known to be lost.
    pub(crate) fn of_lost(now: Moment) -> Self {
        Self::with_notice(now, LOST_NOTICE)
    }

    /// For locks that end at this moment after a notice: TERM at once, so that the command can
    /// use the time that is left.
    pub(crate) fn of_notice(now: Moment, end: Moment) -> Self {
        Self { term: now, ..Self::before(end, end.saturating_sub(now)) }
    }

    /// For processes that the command left running.
    pub(crate) fn of_survivors(now: Moment) -> Self {
        Self::with_notice(now, SURVIVOR_NOTICE)
    }

    fn with_notice(now: Moment, notice: Duration) -> Self {
        let kill = now.saturating_add(notice);
        Self { term: now, kill, watchdog: kill.saturating_add(notice / 2) }
    }

    /// The earlier of each pair of deadlines.
    pub(crate) fn earliest(self, other: Self) -> Self {
        Self {
            term: self.term.min(other.term),
            kill: self.kill.min(other.kill),
            watchdog: self.watchdog.min(other.watchdog),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn contact(lease: u64, grace: u64) -> LastContact {
        LastContact::new(ms(100_000), ms(lease), ms(grace))
    }

    #[test]
    fn a_silent_server_is_bounded_by_the_lease() {
        let deadlines = contact(30_000, 5_000).deadlines();
        assert_eq!(
            deadlines,
            Deadlines { term: ms(125_000), kill: ms(129_000), watchdog: ms(129_500) }
        );
    }

    #[test]
    fn a_broken_session_is_bounded_by_the_grace_period() {
        let deadlines =
            LastContact { is_broken: true, ..contact(30_000, 4_000) }.deadlines();
        assert_eq!(
            deadlines,
            Deadlines { term: ms(103_000), kill: ms(103_800), watchdog: ms(103_900) }
        );
    }

    #[test]
    fn a_broken_session_without_grace_period_ends_at_once() {
        let deadlines = LastContact { is_broken: true, ..contact(30_000, 0) }.deadlines();
        assert_eq!(
            deadlines,
            Deadlines { term: ms(100_000), kill: ms(100_000), watchdog: ms(100_000) }
        );
    }

    #[test]
    fn a_silent_session_is_bounded_even_with_a_long_lease() {
        let deadlines = contact(3_600_000, 5_000).deadlines();
        assert_eq!(
            deadlines,
            Deadlines { term: ms(130_000), kill: ms(134_000), watchdog: ms(134_500) }
        );
    }

    #[test]
    fn a_cut_lease_ends_earlier_until_a_check_reports_otherwise() {
        let mut contact = contact(30_000, 5_000);
        let as_granted = contact.deadlines();
        contact.session_alive(ms(101_000), Some(ms(10_000)));
        assert_eq!(contact.deadlines().term, ms(106_000));
        // The renewal may have been limited.
        contact.renewed(ms(102_000));
        assert_eq!(contact.deadlines().term, ms(106_000));
        contact.session_alive(ms(102_500), Some(ms(29_500)));
        assert_eq!(contact.deadlines().term, as_granted.term + ms(2_000));
    }

    /// Checks may be slower than renewals.
    #[test]
    fn an_old_report_of_a_whole_lease_does_not_limit_a_renewal() {
        let mut contact = contact(30_000, 60_000);
        let as_granted = contact.deadlines();
        contact.session_alive(ms(109_000), Some(ms(20_500)));
        contact.renewed(ms(110_000));
        assert_eq!(contact.deadlines().term, as_granted.term + ms(10_000));
        // Sent before the renewal, and executed before it, but reported after it.
        contact.session_alive(ms(109_900), Some(ms(20_000)));
        contact.renewed(ms(120_000));
        assert_eq!(contact.deadlines().term, as_granted.term + ms(20_000));
    }

    #[test]
    fn notice_leaves_the_command_nearly_all_of_its_time() {
        let deadlines = Deadlines::of_notice(ms(100_000), ms(160_000));
        assert_eq!(
            deadlines,
            Deadlines { term: ms(100_000), kill: ms(159_000), watchdog: ms(159_500) }
        );
    }

    #[test]
    fn deadlines_are_in_order_and_before_the_end() {
        for period in [1, 10, 1_000, 30_000, 86_400_000] {
            let deadlines = Deadlines::before(ms(7 + period), ms(period));
            assert!(
                deadlines.term <= deadlines.kill && deadlines.kill <= deadlines.watchdog,
                "{deadlines:?}"
            );
            assert!(deadlines.watchdog <= ms(7 + period), "{deadlines:?}");
        }
    }
}
