//! Whom the clients themselves believe to hold which lock: one at a time, with tokens that
//! rise. It hears of a grant after the client did, and of its end before the server does.

use std::collections::BTreeMap;
use std::sync::Mutex;

#[derive(Default)]
pub(crate) struct Witness(Mutex<BTreeMap<String, Lock>>);

#[derive(Default)]
struct Lock {
    holder: Option<String>,
    /// The largest token that was heard of.
    token: i64,
    grants: usize,
}

impl Witness {
    #[track_caller]
    pub(crate) fn granted(&self, key: &str, owner: &str, token: i64) {
        self.with(key, |lock| {
            let before = lock.holder.replace(owner.to_owned());
            assert_eq!(before, None, "{key} with {token} is {owner}'s as well");
            assert!(token > lock.token, "{key}: {token} after {}", lock.token);
            lock.token = token;
            lock.grants += 1;
        });
    }

    /// The holder was told its token again, or another one, on another node.
    #[track_caller]
    pub(crate) fn renewed(&self, key: &str, owner: &str, token: i64) {
        self.with(key, |lock| {
            assert_eq!(lock.holder.as_deref(), Some(owner), "{key}");
            assert!(token >= lock.token, "{key}: {token} after {}", lock.token);
            lock.token = token;
        });
    }

    #[track_caller]
    pub(crate) fn gives_up(&self, key: &str, owner: &str) {
        let holder = self.with(key, |lock| lock.holder.take());
        assert_eq!(holder.as_deref(), Some(owner), "{key}");
    }

    /// How often a lock was granted.
    pub(crate) fn grants_of(&self, key: &str) -> usize {
        self.with(key, |lock| lock.grants)
    }

    fn with<T>(&self, key: &str, look: impl FnOnce(&mut Lock) -> T) -> T {
        let mut locks = self.0.lock().expect("no client failed");
        look(locks.entry(key.to_owned()).or_default())
    }
}
