//! A server in memory for the engine's unit tests: keys, a clock that the test sets, and what the
//! server permits. It records what the engine writes.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::engine::commands::{self, Outcome};
use crate::engine::keyspace::{Keyspace, Permission};
use crate::error::CommandError;
use crate::manager::LockManager;
use crate::request::{Acquire, AcquireAny, Groups, Release};
use crate::rules::acquire_any::KeyGrants;
use crate::rules::test_support::{NOW, client, id, manager, name, replies};
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::key_state::{Expires, KeyMeta, KeyState};
use crate::state::lock::Name;
use crate::state::wait_queue::Ticket;

/// The value of a key.
#[derive(Clone, Debug)]
struct Value {
    text: String,
    until_ms: u64,
    /// The module wrote it.
    is_ours: bool,
}

/// An open key, and what it shows.
pub(crate) struct TestKey {
    name: String,
    value: Option<Value>,
    /// Counts the open keys.
    _open: Rc<()>,
}

/// The server.
pub(crate) struct TestKeyspace {
    pub(crate) manager: LockManager,
    keys: BTreeMap<String, Value>,
    open: Rc<()>,
    pub(crate) now: Now,
    pub(crate) permission: Permission,
    /// The number of writes after which the server refuses further ones.
    pub(crate) writes_left: usize,
    /// The time that a write takes.
    pub(crate) us_per_write: u64,
    pub(crate) may_start: bool,
    /// Whether the server calls the manager before each command.
    pub(crate) is_listening: bool,
    pub(crate) in_cluster: bool,
    pub(crate) may_write_other_keys: bool,
    /// What the engine has written: `SET gpu:0 me`, `PEXPIREAT gpu:0`, `DEL gpu:0`.
    written: Vec<String>,
    /// The keys that ACQUIREANY has opened.
    opened: Vec<String>,
    /// The number of values that the engine has read.
    pub(crate) values_read: usize,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl TestKeyspace {
    /// A server without keys that permits everything.
    pub(crate) fn new() -> Self {
        Self {
            manager: manager(),
            keys: BTreeMap::new(),
            open: Rc::new(()),
            now: NOW,
            permission: Permission::Granted,
            writes_left: usize::MAX,
            us_per_write: 0,
            may_start: true,
            is_listening: false,
            in_cluster: false,
            may_write_other_keys: true,
            written: Vec::new(),
            opened: Vec::new(),
            values_read: 0,
        }
    }

    /// The owner that a key shows.
    pub(crate) fn owner(&self, key: &str) -> Option<&str> {
        self.keys.get(key).map(|value| value.text.as_str())
    }

    /// What the engine has written since the last call.
    pub(crate) fn written(&mut self) -> Vec<String> {
        std::mem::take(&mut self.written)
    }

    /// The keys that ACQUIREANY has opened since the last call.
    pub(crate) fn opened(&mut self) -> Vec<String> {
        std::mem::take(&mut self.opened)
    }

    /// The id of a known lock.
    pub(crate) fn id(&self, key: &str) -> Id {
        id(&self.manager, key)
    }

    /// The replies to waiting clients since the last call.
    pub(crate) fn replies(&mut self) -> Vec<(Ticket, String)> {
        replies(&mut self.manager)
    }

    /// Another client deletes a key.
    pub(crate) fn delete_by_other(&mut self, key: &str) {
        self.keys.remove(key);
    }

    /// Another client sets a key.
    pub(crate) fn set_by_other(&mut self, key: &str, owner: &str, until_ms: u64) {
        let value = Value { text: owner.to_owned(), until_ms, is_ours: false };
        self.keys.insert(key.to_owned(), value);
    }

    /// Another client extends the lease.
    pub(crate) fn expire_by_other(&mut self, key: &str, until_ms: u64) {
        self.keys.get_mut(key).unwrap().until_ms = until_ms;
    }

    /// ACQUIRE
    pub(crate) fn acquire(
        &mut self,
        key: &str,
        request: &Acquire<'_>,
        by: u64,
    ) -> Result<Outcome<u64>, CommandError> {
        let open = self.open(name(key)).unwrap();
        commands::acquire(self, open, name(key), request, client(by))
    }

    /// ACQUIRE with BLOCK 0 of a lock that is not free.
    pub(crate) fn wait(&mut self, key: &str, request: &Acquire<'_>, by: u64) -> Ticket {
        let block_ms = request.block_ms.or(Some(0));
        match self.acquire(key, &Acquire { block_ms, ..*request }, by) {
            Ok(Outcome::Waits(ticket)) => ticket,
            other => panic!("{other:?}"),
        }
    }

    /// ACQUIREANY
    pub(crate) fn acquire_any(
        &mut self,
        keys: &[&str],
        count: usize,
        how: Acquire<'_>,
        by: u64,
    ) -> Result<Outcome<KeyGrants>, CommandError> {
        self.acquire_groups(keys, count, None, how, by)
    }

    /// ACQUIREANY with GROUPS: `groups` are the number of groups wanted and the sizes.
    pub(crate) fn acquire_groups(
        &mut self,
        keys: &[&str],
        count: usize,
        groups: Option<(usize, &[u16])>,
        how: Acquire<'_>,
        by: u64,
    ) -> Result<Outcome<KeyGrants>, CommandError> {
        let names = keys.iter().map(|key| key.as_bytes()).collect();
        let groups = groups.map(|(wanted, sizes)| Groups { wanted, sizes: sizes.into() });
        let request = AcquireAny { keys: names, count, groups, near: None, how };
        let open = |server: &mut Self, index: usize| {
            server.opened.push(keys[index].to_owned());
            Ok(server.open(name(keys[index])).unwrap())
        };
        commands::acquire_any(self, 0, &request, client(by), open)
    }

    /// ACQUIREANY with BLOCK 0 of a lock set that is not free.
    pub(crate) fn wait_for_set(
        &mut self,
        keys: &[&str],
        count: usize,
        how: Acquire<'_>,
        by: u64,
    ) -> Ticket {
        match self.acquire_any(keys, count, Acquire { block_ms: Some(0), ..how }, by) {
            Ok(Outcome::Waits(ticket)) => ticket,
            other => panic!("{other:?}"),
        }
    }

    /// ACQUIREANY with GROUPS and BLOCK 0 of locks that are not free.
    pub(crate) fn wait_for_groups(
        &mut self,
        keys: &[&str],
        count: usize,
        groups: (usize, &[u16]),
        how: Acquire<'_>,
        by: u64,
    ) -> Ticket {
        let how = Acquire { block_ms: Some(0), ..how };
        match self.acquire_groups(keys, count, Some(groups), how, by) {
            Ok(Outcome::Waits(ticket)) => ticket,
            other => panic!("{other:?}"),
        }
    }

    /// RELEASE
    pub(crate) fn release(
        &mut self,
        key: &str,
        owner: &str,
    ) -> Result<bool, CommandError> {
        let open = self.open(name(key)).unwrap();
        let reason = b"normal"[..].into();
        let request = Release { owner: owner.as_bytes(), token: None, reason };
        commands::release(self, open, name(key), request, None)
    }

    fn write(&mut self, written: String) {
        self.written.push(written);
        self.writes_left = self.writes_left.saturating_sub(1);
        self.now = Now::from_micros(self.now.micros() + self.us_per_write);
    }
}

impl Keyspace for TestKeyspace {
    type Key = TestKey;

    fn with_manager<T>(&mut self, decide: impl FnOnce(&mut LockManager) -> T) -> T {
        decide(&mut self.manager)
    }

    fn now(&self) -> Now {
        self.now
    }

    fn listen(&mut self, is_on: bool) {
        self.is_listening = is_on;
    }

    fn may_start(&mut self) -> bool {
        self.may_start
    }

    fn permission(&mut self, _: &[u8]) -> Permission {
        if self.writes_left == 0 { Permission::Refused } else { self.permission }
    }

    fn known_permission(&self) -> Option<Permission> {
        None
    }

    fn in_cluster(&self) -> bool {
        self.in_cluster
    }

    fn may_write_other_keys(&self) -> bool {
        self.may_write_other_keys
    }

    fn open(&mut self, name: Name<'_>) -> Option<TestKey> {
        let name = text(name.key);
        let value = self.keys.get(&name).cloned();
        // A key lives through the millisecond in which it expires.
        let value = value.filter(|value| value.until_ms >= self.now.ms());
        assert_eq!(Rc::strong_count(&self.open), 1, "one key is open at a time");
        Some(TestKey { name, value, _open: Rc::clone(&self.open) })
    }

    fn meta(&mut self, key: &TestKey) -> KeyMeta {
        match &key.value {
            None => KeyMeta::Absent,
            Some(value) => {
                KeyMeta::String { len: value.text.len(), expires: Some(value.until_ms) }
            }
        }
    }

    fn expiry(&mut self, key: &TestKey) -> Option<Expires> {
        key.value.as_ref().map(|value| Expires::At(value.until_ms))
    }

    fn state<'k>(&mut self, key: &'k TestKey) -> KeyState<'k> {
        match &key.value {
            None => KeyState::Absent,
            Some(value) => {
                self.values_read += 1;
                let expires = Expires::At(value.until_ms);
                KeyState::String { value: value.text.as_bytes(), expires }
            }
        }
    }

    fn string_state<'k>(&mut self, key: &'k TestKey, _: Expires) -> KeyState<'k> {
        self.state(key)
    }

    fn state_for_owner<'k>(&mut self, key: &'k TestKey, owner: &[u8]) -> KeyState<'k> {
        match self.state(key) {
            KeyState::String { value, .. } if value == owner => {
                KeyState::String { value, expires: Expires::Unread }
            }
            state => state,
        }
    }

    fn is_ours(&mut self, key: &TestKey) -> bool {
        key.value.as_ref().is_some_and(|value| value.is_ours)
    }

    fn set(&mut self, key: &mut TestKey, owner: &[u8], until_ms: u64) {
        let value = Value { text: text(owner), until_ms, is_ours: true };
        self.write(format!("SET {} {}", key.name, value.text));
        self.keys.insert(key.name.clone(), value.clone());
        key.value = Some(value);
    }

    fn expire(&mut self, key: &mut TestKey, until_ms: u64) {
        self.write(format!("PEXPIREAT {}", key.name));
        for value in self.keys.get_mut(&key.name).into_iter().chain(&mut key.value) {
            value.until_ms = until_ms;
        }
    }

    fn delete(&mut self, key: &mut TestKey) {
        self.write(format!("DEL {}", key.name));
        self.keys.remove(&key.name);
        key.value = None;
    }
}
