//! The counters of the command reference, for the whole server and for each tracked lock. The rules
//! decide what is counted.

use crate::state::histogram::Histogram;

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $field:ident),* $(,)?) => {
        /// The counters of the server, or of one lock.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[doc = $doc])* pub $field: u64,)*
            /// The duration of waits that ended with a grant, in ms.
            pub wait_ms: Histogram,
            /// The duration of holds that ended, in ms.
            pub hold_ms: Histogram,
        }

        impl Counters {
            /// The name and the description of each plain counter, in the order of the command
            /// reference.
            pub const NAMES: &[(&'static str, &'static str)] =
                &[$((stringify!($field), concat!($($doc),*))),*];

            /// The values of the plain counters, in the order of [`Counters::NAMES`].
            pub fn values(&self) -> [u64; Self::NAMES.len()] {
                [$(self.$field),*]
            }

            /// Adds the counters of a part.
            pub(crate) fn add(&mut self, part: &Counters) {
                $(self.$field = self.$field.saturating_add(part.$field);)*
                self.wait_ms.add(&part.wait_ms);
                self.hold_ms.add(&part.hold_ms);
            }

            /// Subtracts a part of the total.
            pub fn subtract(&mut self, part: &Counters) {
                $(self.$field = self.$field.saturating_sub(part.$field);)*
                self.wait_ms.subtract(&part.wait_ms);
                self.hold_ms.subtract(&part.hold_ms);
            }
        }
    };
}

counters! {
    /// RELEASE calls that returned 0.
    ownership_violations,
    /// RELEASE calls that the module rejected with an error.
    release_script_errors,
    /// RELEASE calls that released nothing.
    normal_release_failures,
    /// FORCERELEASE calls that released a lock.
    emergency_releases,
    /// RELEASE calls that returned 0 because the lock was free.
    stale_releases,
    /// Calls of ACQUIRE and ACQUIREANY.
    acquire_requests,
    /// Locks granted.
    acquired,
    /// Locks granted after a wait.
    acquired_after_wait,
    /// Locks renewed because their UNIQUE owner already held them.
    renewed,
    /// Acquire calls that immediately returned null or MAXWAITERS.
    refused,
    /// Waits that timed out.
    wait_timeouts,
    /// Waits that ended because the client disconnected, was replaced or was unblocked.
    waits_abandoned,
    /// Waits refused because they would have closed a cycle.
    deadlocks,
    /// Holds adopted: the module did not grant them.
    adopted,
    /// Holds ended by RELEASE.
    releases,
    /// Holds whose lease expired.
    expired,
    /// Holds ended because their connection closed.
    session_releases,
    /// Holds whose key another command deleted or overwrote before the lease expired.
    removed,
    /// Holds whose key the server evicted.
    evicted,
    /// Holds that moved to another node with their cluster slot.
    moved,
    /// Grants withdrawn because the waiter disconnected before it received the reply.
    undelivered,
    /// EXTEND calls that renewed a lease.
    extends,
    /// EXTEND calls by an owner that does not hold the lock.
    extend_failures,
    /// FORCERELEASE AFTER calls that announced the end of a hold.
    revocations,
}

impl Counters {
    /// All holds that began minus those that ended: equals the number of locks held now (command
    /// reference).
    pub fn expected_held(&self) -> u64 {
        let begun = self.acquired.saturating_add(self.adopted);
        [
            self.releases,
            self.emergency_releases,
            self.expired,
            self.session_releases,
            self.removed,
            self.evicted,
            self.moved,
            self.undelivered,
        ]
        .into_iter()
        .fold(begun, u64::saturating_sub)
    }
}

/// Increments a counter.
pub(crate) fn bump(counter: &mut u64) {
    *counter = counter.saturating_add(1);
}
