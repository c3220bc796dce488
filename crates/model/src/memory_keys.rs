//! An in-memory keyspace: keys with values and expiries, and a clock. It expires keys and knows
//! nothing of locks.

use gpulock_core::state::lock::Bytes;
use gpulock_core::{Name, Now};

/// The keys of every world.
pub const KEYS: [&[u8]; 4] = [b"gpu:0", b"gpu:1", b"gpu:2", b""];

/// The value of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A string, and when it expires, in ms since the epoch; none: never.
    Text(Bytes, Option<u64>),
    /// A value of another type.
    Other,
}

/// The keys, and the clock by which they expire.
#[derive(Clone, Debug)]
pub struct MemoryKeys {
    keys: [Option<Value>; KEYS.len()],
    /// Whether the module wrote the value or has read it before: see `Keyspace::is_ours`.
    ours: [bool; KEYS.len()],
    micros: u64,
}

impl MemoryKeys {
    /// An empty keyspace at this time.
    pub(crate) fn new(micros: u64) -> Self {
        Self { keys: Default::default(), ours: Default::default(), micros }
    }

    /// The time.
    pub fn now(&self) -> Now {
        Now::from_micros(self.micros)
    }

    /// Moves the clock, forward or back.
    pub(crate) fn step_clock(&mut self, ms: i64) {
        self.micros = self.micros.saturating_add_signed(ms * 1000);
    }

    /// The value of a key now. A key is still present in the millisecond in which it expires.
    pub fn get(&self, key: usize) -> Option<&Value> {
        let is_expired = |value: &Value| match value {
            Value::Text(_, Some(until_ms)) => self.now().ms() > *until_ms,
            _ => false,
        };
        self.keys[key].as_ref().filter(|value| !is_expired(value))
    }

    /// The string at a key.
    pub fn text(&self, key: usize) -> Option<&[u8]> {
        match self.get(key) {
            Some(Value::Text(text, _)) => Some(text),
            _ => None,
        }
    }

    /// When a key expires.
    pub fn until_ms(&self, key: usize) -> Option<u64> {
        match self.get(key) {
            Some(Value::Text(_, until_ms)) => *until_ms,
            _ => None,
        }
    }

    /// Whether a key expires within 5 ms.
    pub(crate) fn expires_soon(&self, key: usize) -> bool {
        self.until_ms(key).is_some_and(|until_ms| until_ms <= self.now().ms() + 5)
    }

    /// Sets a key, or deletes it.
    pub(crate) fn put(&mut self, key: usize, value: Option<Value>) {
        self.keys[key] = value;
    }

    /// Sets a key as the module does.
    pub(crate) fn put_ours(&mut self, key: usize, value: Value) {
        self.put(key, Some(value));
        self.ours[key] = true;
    }

    /// Sets a key, or deletes it, as another client does.
    pub(crate) fn put_external_value(&mut self, key: usize, value: Option<Value>) {
        self.put(key, value);
        self.ours[key] = false;
    }

    /// Notes that the module reads the value.
    pub(crate) fn read(&mut self, key: usize) {
        self.ours[key] = true;
    }

    /// Whether the module wrote the value or has read it.
    pub(crate) fn is_ours(&self, key: usize) -> bool {
        self.ours[key]
    }

    /// Whether the key has expired and is not deleted yet.
    pub(crate) fn is_expired(&self, key: usize) -> bool {
        self.keys[key].is_some() && self.get(key).is_none()
    }

    /// Changes the expiry of a string.
    pub(crate) fn expire(&mut self, key: usize, until_ms: Option<u64>) {
        if let Some(Value::Text(text, _)) = self.get(key).cloned() {
            self.put(key, Some(Value::Text(text, until_ms)));
        }
    }

    /// Opens a key and returns its value. This deletes an expired key.
    pub(crate) fn open(&mut self, key: usize) -> Option<Value> {
        let value = self.get(key).cloned();
        self.put(key, value.clone());
        value
    }
}

/// The name of the lock at a key.
pub(crate) fn name(key: usize) -> Name<'static> {
    Name { db: 0, key: KEYS[key] }
}
