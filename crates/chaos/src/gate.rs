//! Lets clients ask while nobody needs the server alone, and somebody have it alone while no
//! client asks.

use std::sync::{
    Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError,
};

/// A gate with a door in front of it: who wants to be alone closes the door first, so that
/// those inside become fewer.
#[derive(Clone, Default)]
pub struct Gate(Arc<(RwLock<()>, RwLock<()>)>);

/// As long as it lives, nobody else is inside.
pub(crate) struct Alone<'g> {
    _door: RwLockWriteGuard<'g, ()>,
    _inside: RwLockWriteGuard<'g, ()>,
}

impl Gate {
    /// Goes inside, among others.
    pub(crate) fn enter(&self) -> RwLockReadGuard<'_, ()> {
        let (door, inside) = &*self.0;
        drop(door.read().unwrap_or_else(PoisonError::into_inner));
        inside.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes inside alone, and does something again and again until all others have left.
    pub(crate) fn enter_alone(&self, mut meanwhile: impl FnMut()) -> Alone<'_> {
        let (door, inside) = &*self.0;
        let door = door.write().unwrap_or_else(PoisonError::into_inner);
        loop {
            match inside.try_write() {
                Ok(inside) => return Alone { _door: door, _inside: inside },
                Err(TryLockError::Poisoned(inside)) => {
                    return Alone { _door: door, _inside: inside.into_inner() };
                }
                Err(TryLockError::WouldBlock) => meanwhile(),
            }
        }
    }
}
