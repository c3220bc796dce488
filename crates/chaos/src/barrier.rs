//! A barrier that lets clients run concurrently, or one fault alone.

use std::sync::{
    Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError,
};

/// A shared section behind an entry. An exclusive user closes the entry first, so that no
/// new client enters while it waits for those inside to leave.
#[derive(Clone, Default)]
pub struct Barrier(Arc<(RwLock<()>, RwLock<()>)>);

/// While this exists, nothing else is inside.
pub(crate) struct Exclusive<'g> {
    _door: RwLockWriteGuard<'g, ()>,
    _inside: RwLockWriteGuard<'g, ()>,
}

impl Barrier {
    /// Enters the shared section.
    pub(crate) fn enter(&self) -> RwLockReadGuard<'_, ()> {
        let (door, inside) = &*self.0;
        drop(door.read().unwrap_or_else(PoisonError::into_inner));
        inside.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters alone. Calls `meanwhile` repeatedly until all others have left.
    pub(crate) fn enter_exclusive(&self, mut meanwhile: impl FnMut()) -> Exclusive<'_> {
        let (door, inside) = &*self.0;
        let door = door.write().unwrap_or_else(PoisonError::into_inner);
        loop {
            match inside.try_write() {
                Ok(inside) => return Exclusive { _door: door, _inside: inside },
                Err(TryLockError::Poisoned(inside)) => {
                    return Exclusive { _door: door, _inside: inside.into_inner() };
                }
                Err(TryLockError::WouldBlock) => meanwhile(),
            }
        }
    }
}
