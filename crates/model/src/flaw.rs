//! Deliberate flaws in the code around the lock manager. Each is a mistake that a module could
//! make; the tests show that the checks detect it.

/// What the keyspace or the event loop does wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Flaw {
    /// Nothing.
    #[default]
    None,
    /// RELEASE passes the holder's name instead of the caller's to the lock manager.
    ReleasesForAnyone,
    /// A hand-off grants the lock, but its waiter never gets a reply.
    DropsTheWaiter,
    /// A hand-off grants the lock, but its key is never written.
    DropsTheHandOff,
    /// Deferred work is never done.
    ForgetsDeferredWork,
    /// Work that exceeds the first budget is never done.
    ForgetsTheRest,
    /// Keys of locks with waiters are not read.
    ShowsStaleKeys,
    /// The locks reserved for a lock set are not granted when the set is complete.
    ForgetsSets,
    /// Only the first key of a lock set is written.
    WritesHalfASet,
    /// The first waiter calls again at each tick, and loses its position.
    CallsAgainAtEachTick,
    /// A key whose lease ends soon counts as absent.
    ExpiresEarly,
    /// The lock manager is not notified of closed connections.
    IgnoresDisconnects,
    /// A suspected cycle is reported without probing its keys.
    SkipsDeadlockProbes,
    /// Deferred work is done although writes are refused.
    WritesWhenRefused,
    /// Free locks are handed off although writes are refused.
    HandsOverWhenRefused,
    /// Deferred work is done in the middle of another client's command.
    WritesWithinCommands,
    /// The server does not call the lock manager before commands, although it listens.
    HearsNoCommand,
    /// The lock manager does not get the PRIORITY of calls.
    IgnoresPriorities,
    /// The lock manager has a longer `round` than is configured.
    LengthensRounds,
    /// The lock manager gets sizes of groups in which the first key belongs to no group of two.
    ShiftsGroups,
    /// A call that has to wait waits for all its groups.
    WaitsForAllGroups,
    /// The lock manager gets a longer AFTER.
    LengthensNotices,
    /// The lock manager has a `max-waiters` that is one less than configured.
    RefusesEarly,
    /// RESETSTATS starts with a new lock manager when no client waits.
    ResetsByStartingOver,
}
