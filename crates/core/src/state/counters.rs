//! The counters of the contract: kept for the whole server, and the same again for each
//! tracked lock. What counts as what is decided by the rules, not here.

use crate::state::histogram::Histogram;

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $field:ident),* $(,)?) => {
        /// Everything that is counted, for the server or for one lock.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[doc = $doc])* pub $field: u64,)*
            /// Waits that ended in a grant, in ms.
            pub wait_ms: Histogram,
            /// All holds that ended, in ms.
            pub hold_ms: Histogram,
        }

        impl Counters {
            /// The name of each plain counter and what it counts, in the order of the
            /// contract.
            pub const NAMES: &[(&'static str, &'static str)] =
                &[$((stringify!($field), concat!($($doc),*))),*];

            /// The values of the plain counters, in the order of [`Counters::NAMES`].
            pub fn values(&self) -> [u64; Self::NAMES.len()] {
                [$(self.$field),*]
            }

            /// Takes a part out of a total.
            pub fn subtract(&mut self, write: &Counters) {
                $(self.$field = self.$field.saturating_sub(write.$field);)*
                self.wait_ms.subtract(&write.wait_ms);
                self.hold_ms.subtract(&write.hold_ms);
            }
        }
    };
}

counters! {
    /// RELEASE calls that answered 0.
    ownership_violations,
    /// RELEASE calls that the module answered with an error.
    release_script_errors,
    /// RELEASE calls that freed nothing.
    normal_release_failures,
    /// FORCERELEASE calls that took a lock.
    emergency_releases,
    /// RELEASE calls that answered 0 because nobody held the lock.
    stale_releases,
    /// Calls of ACQUIRE and ACQUIREANY.
    acquire_requests,
    /// Locks granted.
    acquired,
    /// Locks granted to a client that waited.
    acquired_after_wait,
    /// Locks that UNIQUE answered from what the owner held.
    renewed,
    /// Acquire calls answered null at once, or refused because too many wait.
    refused,
    /// Waits that ended without a grant because their time was over.
    wait_timeouts,
    /// Waits that ended because the client left, was taken over or was unblocked.
    waits_abandoned,
    /// Waits refused because they would have closed a circle.
    deadlocks,
    /// Locks adopted: held, but not granted by the module.
    adopted,
    /// Locks given back by RELEASE.
    releases,
    /// Locks gone at or after the end of their lease.
    expired,
    /// Locks given back because their connection closed.
    session_releases,
    /// Locks that another command deleted or overwrote before their lease was over.
    removed,
    /// Locks that the server evicted.
    evicted,
    /// Locks that left with their cluster slot.
    moved,
    /// Locks taken back because the waiter was gone before it heard of the grant.
    undelivered,
    /// EXTEND calls that renewed a lease.
    extends,
    /// EXTEND calls by somebody who does not hold the lock.
    extend_failures,
}

impl Counters {
    /// What was taken minus what ended: by the contract's law, the locks held now.
    pub fn held_by_law(&self) -> u64 {
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

/// Adds one to a counter.
pub(crate) fn bump(counter: &mut u64) {
    *counter = counter.saturating_add(1);
}
