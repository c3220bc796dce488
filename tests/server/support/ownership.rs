//! The holders of locks as the clients see them: one at a time, with rising tokens. It
//! learns of a grant after the client, and of the end of a hold before the server.

use std::collections::BTreeMap;
use std::sync::Mutex;

#[derive(Default)]
pub(crate) struct Ownership(Mutex<BTreeMap<String, Lock>>);

#[derive(Default)]
struct Lock {
    holder: Option<String>,
    /// The largest token so far.
    token: i64,
    grants: usize,
}

impl Ownership {
    /// A client was granted a lock.
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

    /// The holder received its token again, or a larger one from another node.
    #[track_caller]
    pub(crate) fn renewed(&self, key: &str, owner: &str, token: i64) {
        self.with(key, |lock| {
            assert_eq!(lock.holder.as_deref(), Some(owner), "{key}");
            assert!(token >= lock.token, "{key}: {token} after {}", lock.token);
            lock.token = token;
        });
    }

    /// The holder is about to end its hold.
    #[track_caller]
    pub(crate) fn ends(&self, key: &str, owner: &str) {
        let holder = self.with(key, |lock| lock.holder.take());
        assert_eq!(holder.as_deref(), Some(owner), "{key}");
    }

    /// The number of times a lock was granted.
    pub(crate) fn grants_of(&self, key: &str) -> usize {
        self.with(key, |lock| lock.grants)
    }

    fn with<T>(&self, key: &str, change: impl FnOnce(&mut Lock) -> T) -> T {
        let mut locks = self.0.lock().expect("no client panicked");
        change(locks.entry(key.to_owned()).or_default())
    }
}
