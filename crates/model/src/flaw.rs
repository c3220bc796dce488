//! Broken shells, made on purpose: a checker that never failed proves nothing. Each does one
//! thing that a module around the same rules could do wrong.

/// What the shell does wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Flaw {
    /// Nothing.
    #[default]
    None,
    /// RELEASE tells the rules the holder's name instead of the caller's.
    ReleasesForAnyone,
    /// A hand-off grants the lock, and its waiter is never told.
    DropsTheWaiter,
    /// A hand-off grants the lock, and its key is never written.
    DropsTheHandOff,
    /// What is owed is never made good.
    ForgetsDeferredWork,
    /// What does not fit into the first portion is never done.
    ForgetsTheRest,
    /// Keys of locks that are waited for are not looked at.
    ShowsStaleKeys,
    /// A set that seems complete is not given its share.
    ForgetsSets,
    /// Of a share only the first key is written.
    WritesHalfASet,
    /// The first waiter asks anew at each tick, and loses its turn.
    CallsAgainAtEachTick,
    /// A key is taken for absent when its lease is over soon.
    ExpiresEarly,
    /// Connections close, and the keeper is not told.
    IgnoresDisconnects,
    /// What seems a circle is taken for one, and its keys are not looked at.
    BelievesInCycles,
    /// Deferred work is carried out although writes are refused.
    WritesWhenRefused,
    /// Free locks are handed over although writes are refused.
    HandsOverWhenRefused,
    /// Deferred work is carried out in the middle of somebody else's command.
    WritesWithinCommands,
    /// RESETSTATS begins with a new keeper, when nobody waits.
    ResetsByStartingOver,
}
