//! The keyspace on which the engine runs in the model. It checks each write against the expected
//! state of the world, and implements the flaws of a keyspace.

use gpulock_core::engine::{Keyspace, Permission};
use gpulock_core::state::key_state::{Expires, KeyMeta};
use gpulock_core::{KeyState, LockManager, Name, Now};

use crate::call::OWNERS;
use crate::flaw::Flaw;
use crate::holds::SessionTie;
use crate::law::Law;
use crate::memory_keys::{KEYS, Value};
use crate::world::{World, Writes};

/// A key that the engine has opened, with its value at that time.
pub struct OpenKey {
    pub(crate) at: usize,
    pub(crate) value: Option<Value>,
    /// Whether the current command names it.
    is_named: bool,
}

/// The command that is being executed, as far as the checks need it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Current {
    /// The owner in its arguments.
    pub(crate) owner: Option<usize>,
    /// The key whose hold it may end.
    pub(crate) may_end: Option<usize>,
    /// The end of the notice that it gives, in ms since the epoch.
    pub(crate) cuts_to_ms: Option<u64>,
    /// Its write to the key that it names.
    pub(crate) named_write: Option<Write>,
    /// The number of its writes to other keys.
    other_writes: usize,
    /// The keys whose holds a notice has ended since it began.
    pub(crate) ended_by_notice: [bool; KEYS.len()],
}

impl Current {
    /// A command with this owner.
    pub(crate) fn of(owner: usize) -> Self {
        Self { owner: Some(owner), ..Self::default() }
    }
}

/// A write to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    Set,
    Expire,
    Delete,
}

impl Keyspace for World {
    type Key = OpenKey;

    fn with_manager<T>(&mut self, decide: impl FnOnce(&mut LockManager) -> T) -> T {
        decide(&mut self.manager)
    }

    fn now(&self) -> Now {
        self.keys.now()
    }

    fn listen(&mut self, is_on: bool) {
        self.is_listening = is_on;
    }

    fn may_start(&mut self) -> bool {
        match self.writes {
            Writes::Accepted | Writes::Refused => true,
            Writes::Paused => false,
            Writes::WithinCommand => self.flaw == Flaw::WritesWithinCommands,
        }
    }

    fn isolated(&mut self, work: impl FnOnce(&mut Self)) {
        // What was granted before has left its queues.
        self.take_replies();
        work(self);
    }

    fn permission(&mut self, _: &[u8]) -> Permission {
        let (has_work, has_any) =
            (self.manager.deferred().has_work(), self.manager.deferred().has_any());
        let is_granted = match self.flaw {
            Flaw::ForgetsDeferredWork if has_work => false,
            Flaw::ForgetsTheRest if has_any && !has_work => false,
            Flaw::WritesWhenRefused if has_any => true,
            Flaw::HandsOverWhenRefused if !has_any => true,
            Flaw::WritesWithinCommands => true,
            _ => self.writes == Writes::Accepted,
        };
        if is_granted { Permission::Granted } else { Permission::Refused }
    }

    fn known_permission(&self) -> Option<Permission> {
        None
    }

    fn in_cluster(&self) -> bool {
        false
    }

    fn may_write_other_keys(&self) -> bool {
        true
    }

    /// The clock of the world does not advance within a step, so the smallest budget ends after one
    /// piece of work that can wait.
    fn is_time_up(&self, _: Now, _: u64) -> bool {
        self.small_budgets && !self.manager.deferred().has_work()
    }

    fn open(&mut self, name: Name<'_>) -> Option<OpenKey> {
        let at = self.key_named(name.key)?;
        let mut key = self.open_key(at, false);
        if let Some(value) = self.flawed_value(at) {
            key.value = Some(value);
        }
        Some(key)
    }

    fn meta(&mut self, key: &OpenKey) -> KeyMeta {
        match &key.value {
            None => KeyMeta::Absent,
            Some(Value::Text(value, expires)) => {
                KeyMeta::String { len: value.len(), expires: *expires }
            }
            Some(Value::Other) => KeyMeta::OtherType,
        }
    }

    fn expiry(&mut self, key: &OpenKey) -> Option<Expires> {
        match &key.value {
            Some(Value::Text(_, expires)) => Some((*expires).into()),
            _ => None,
        }
    }

    fn state<'k>(&mut self, key: &'k OpenKey) -> KeyState<'k> {
        self.keys.read(key.at);
        let ends_early =
            self.flaw == Flaw::ExpiresEarly && self.keys.expires_soon(key.at);
        match &key.value {
            Some(Value::Text(value, expires)) if !ends_early => {
                KeyState::String { value, expires: (*expires).into() }
            }
            Some(Value::Other) => KeyState::OtherType,
            _ => {
                // The lock manager must hand off what a probe finds free.
                if !key.is_named && self.writes == Writes::Accepted {
                    self.known_free[key.at] |= self.keys.get(key.at).is_none();
                }
                KeyState::Absent
            }
        }
    }

    fn string_state<'k>(&mut self, key: &'k OpenKey, _: Expires) -> KeyState<'k> {
        self.state(key)
    }

    fn state_for_owner<'k>(&mut self, key: &'k OpenKey, owner: &[u8]) -> KeyState<'k> {
        match self.state(key) {
            KeyState::String { value, .. } if value == owner => {
                KeyState::String { value, expires: Expires::Unread }
            }
            KeyState::String { .. } if self.flaw == Flaw::ReleasesForAnyone => {
                let owner = OWNERS.iter().find(|known| **known == owner);
                let value = owner.copied().unwrap_or_default();
                KeyState::String { value, expires: Expires::Unread }
            }
            state => state,
        }
    }

    fn is_ours(&mut self, key: &OpenKey) -> bool {
        self.keys.is_ours(key.at)
    }

    fn set(&mut self, key: &mut OpenKey, owner: &[u8], until_ms: u64) {
        let is_callers =
            self.current.owner.is_some_and(|current| OWNERS[current] == owner);
        if self.flaw == Flaw::DropsTheHandOff && !is_callers {
            self.end_hold(key.at);
            return;
        }
        let other_writes = self.count_write(key, Write::Set);
        if self.flaw == Flaw::WritesHalfASet && other_writes > 1 {
            return;
        }
        let may_set = self.keys.get(key.at).is_none()
            || self.current.may_end == Some(key.at)
            || self.is_ended_by_module(key.at);
        self.require(
            Law::MutualExclusion,
            may_set,
            "a key is set only when absent or released",
        );
        self.begin_hold(key.at, owner, until_ms);
    }

    fn expire(&mut self, key: &mut OpenKey, until_ms: u64) {
        self.count_write(key, Write::Expire);
        self.check_write();
        let Some(owner) = self.keys.text(key.at).map(<[u8]>::to_vec) else {
            self.require(Law::MutualExclusion, false, "only a held lock is renewed");
            return;
        };
        let is_callers =
            self.current.owner.is_some_and(|current| OWNERS[current] == owner);
        let notice = self.notices[key.at].as_ref();
        let notice = notice.filter(|notice| *notice.owner == *owner);
        let end_ms = notice.map(|notice| notice.until_ms);
        let latest_ms = notice.map(|notice| notice.latest_end(self.now()));
        let is_certain = notice.is_some_and(|notice| !notice.is_uncertain);
        let is_uncertain = notice.is_some_and(|notice| notice.is_uncertain);
        self.require(
            Law::Notice,
            !is_certain || latest_ms.is_none_or(|latest_ms| until_ms <= latest_ms),
            "no lease is set beyond a notice",
        );
        let is_longer = self.keys.until_ms(key.at).is_none_or(|ms| ms > until_ms);
        let ends = [end_ms, self.current.cuts_to_ms];
        let is_cut = is_longer && (is_uncertain || ends.contains(&Some(until_ms)));
        let is_allowed = is_callers
            || is_cut
            || self.is_grace(key.at, until_ms)
            || self.is_waiting_for_set(&owner);
        self.require(
            Law::Sessions,
            is_allowed,
            "a lease is renewed, or cut to its grace period or to a notice",
        );
        self.keys.expire(key.at, Some(until_ms));
    }

    fn delete(&mut self, key: &mut OpenKey) {
        self.count_write(key, Write::Delete);
        self.end_hold(key.at);
    }
}

impl World {
    /// Opens a key that the current command names.
    pub(crate) fn open_named(&mut self, at: usize) -> OpenKey {
        self.open_key(at, true)
    }

    fn open_key(&mut self, at: usize, is_named: bool) -> OpenKey {
        self.mark_ended_leases();
        let value = self.keys.open(at);
        OpenKey { at, value, is_named }
    }

    /// The wrong value that a flawed keyspace shows for a key that the current command does not
    /// name.
    fn flawed_value(&self, at: usize) -> Option<Value> {
        let id = self.manager.table().find(crate::memory_keys::name(at))?;
        let lock = self.manager.table().get(id)?;
        let is_stale = match self.flaw {
            Flaw::ShowsStaleKeys => true,
            Flaw::SkipsDeadlockProbes => self.current.owner.is_some(),
            Flaw::ForgetsSets if lock.reserved => {
                return Some(Value::Text(b"stranger"[..].into(), None));
            }
            _ => false,
        };
        let hold = lock.hold.as_ref().filter(|_| is_stale)?;
        Some(Value::Text(hold.owner.clone(), Some(hold.until_ms)))
    }

    /// Counts a write. Returns the number of writes to keys that the command does not name.
    fn count_write(&mut self, key: &OpenKey, write: Write) -> usize {
        if key.is_named {
            self.current.named_write = Some(write);
        } else {
            self.current.other_writes += 1;
        }
        self.current.other_writes
    }

    /// Whether the module itself may end a hold now: its grant was not delivered, or its session is
    /// over.
    pub(crate) fn is_ended_by_module(&self, key: usize) -> bool {
        if self.is_notice_over(key) {
            return true;
        }
        let Some(held) = &self.holds[key] else { return false };
        if self.keys.text(key) != Some(&*held.owner) {
            return false;
        }
        let is_lost = held.lost && !held.renewed;
        let is_over = matches!(held.session, SessionTie::Closed { closed_ms, until_ms }
            if until_ms <= self.now().ms() || until_ms == closed_ms);
        is_lost || is_over
    }

    /// Whether a new expiry cuts a lease to the grace period of its closed session.
    fn is_grace(&self, key: usize, until_ms: u64) -> bool {
        let session = self.holds[key].as_ref().map(|held| held.session);
        let is_grace = match session {
            Some(SessionTie::Closed { until_ms: end_ms, .. }) => end_ms == until_ms,
            _ => false,
        };
        is_grace && self.keys.until_ms(key).is_none_or(|until| until > until_ms)
    }

    /// Whether a UNIQUE owner waits for a lock set. That renews the locks that it holds.
    fn is_waiting_for_set(&self, owner: &[u8]) -> bool {
        let mut waiters = self.queue.connected();
        waiters.any(|it| it.unique && it.of_set && OWNERS[it.owner] == owner)
    }

    /// The index of a key.
    pub(crate) fn key_named(&self, key: &[u8]) -> Option<usize> {
        KEYS.iter().position(|other| *other == key)
    }
}
