//! Keys in memory, as simple as can be: each with a value and an expiry, and a clock. What a server does
//! with keys on its own (expiry) is here; locks are not.

use gpulock_core::state::lock::Bytes;
use gpulock_core::{Name, Now};

/// The keys of all worlds.
pub const KEYS: [&[u8]; 4] = [b"gpu:0", b"gpu:1", b"gpu:2", b""];

/// What stands under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A string, and when its time is over, in ms since the epoch.
    Text(Bytes, Option<u64>),
    /// Anything else.
    Other,
}

/// The keys, and the clock by which they end.
#[derive(Clone, Debug)]
pub struct MemoryKeys {
    keys: [Option<Value>; KEYS.len()],
    /// Whether the module wrote the value, or has read it: both take it out of the key.
    ours: [bool; KEYS.len()],
    micros: u64,
}

impl MemoryKeys {
    /// No keys, at this time.
    pub(crate) fn new(micros: u64) -> Self {
        Self { keys: Default::default(), ours: Default::default(), micros }
    }

    /// The time.
    pub fn now(&self) -> Now {
        Now::from_micros(self.micros)
    }

    /// Steps the clock.
    pub(crate) fn step_clock(&mut self, ms: i64) {
        self.micros = self.micros.saturating_add_signed(ms * 1000);
    }

    /// What stands under a key at this time: one lives through the millisecond in which it
    /// ends.
    pub fn get(&self, key: usize) -> Option<&Value> {
        let is_over = |value: &Value| match value {
            Value::Text(_, Some(until_ms)) => self.now().ms() > *until_ms,
            _ => false,
        };
        self.keys[key].as_ref().filter(|value| !is_over(value))
    }

    /// The string under a key.
    pub fn text(&self, key: usize) -> Option<&[u8]> {
        match self.get(key) {
            Some(Value::Text(text, _)) => Some(text),
            _ => None,
        }
    }

    /// When a key ends.
    pub fn until_ms(&self, key: usize) -> Option<u64> {
        match self.get(key) {
            Some(Value::Text(_, until_ms)) => *until_ms,
            _ => None,
        }
    }

    /// True when a key ends within this millisecond or has five left at most.
    pub(crate) fn is_over_soon(&self, key: usize) -> bool {
        self.until_ms(key).is_some_and(|until_ms| until_ms <= self.now().ms() + 5)
    }

    /// Puts a value under a key, or takes it away.
    pub(crate) fn put(&mut self, key: usize, value: Option<Value>) {
        self.keys[key] = value;
    }

    /// Puts a value under a key as the module does.
    pub(crate) fn put_ours(&mut self, key: usize, value: Value) {
        self.put(key, Some(value));
        self.ours[key] = true;
    }

    /// Puts a value under a key, or takes it away, as other clients do.
    pub(crate) fn put_external_value(&mut self, key: usize, value: Option<Value>) {
        self.put(key, value);
        self.ours[key] = false;
    }

    /// The module reads the value.
    pub(crate) fn read(&mut self, key: usize) {
        self.ours[key] = true;
    }

    /// Whether the module wrote the value, or has read it.
    pub(crate) fn is_ours(&self, key: usize) -> bool {
        self.ours[key]
    }

    /// Whether there is a value whose time is over, though nobody has deleted it yet.
    pub(crate) fn is_over(&self, key: usize) -> bool {
        self.keys[key].is_some() && self.get(key).is_none()
    }

    /// Gives a key another end. False when it is no string.
    pub(crate) fn expire(&mut self, key: usize, until_ms: Option<u64>) -> bool {
        let Some(Value::Text(text, _)) = self.get(key).cloned() else { return false };
        self.put(key, Some(Value::Text(text, until_ms)));
        true
    }

    /// Opens a key, and returns what it shows. An expired key is deleted by that.
    pub(crate) fn open(&mut self, key: usize) -> Option<Value> {
        let value = self.get(key).cloned();
        self.put(key, value.clone());
        value
    }
}

/// The name of the lock under a key.
pub(crate) fn name(key: usize) -> Name<'static> {
    Name { db: 0, key: KEYS[key] }
}
