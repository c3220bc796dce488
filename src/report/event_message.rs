//! The JSON message of an event, as documented in the command reference.

use gpulock_core::state::event::Event;
use serde::Serialize;

/// The prefix of the task name in owners of the lock manager that the module replaces
/// (migrate-python.md).
const TASK_PREFIX: &str = "locked_by_";

/// The channel of an event.
pub(crate) fn channel(prefix: &[u8], event: &Event) -> Vec<u8> {
    [prefix, &event.key].concat()
}

/// The message of an event. Bytes that are not valid UTF-8 are replaced.
///
/// The members are written by hand, because their names need no escaping, which would take a third
/// of the time of an event.
pub(crate) fn message(event: &Event) -> Vec<u8> {
    let owner = String::from_utf8_lossy(&event.owner);
    let kind = if event.ended.is_some() { "lock_released" } else { "lock_acquired" };
    let mut out = Vec::with_capacity(CAPACITY);
    out.extend_from_slice(b"{\"event_type\":");
    value(&mut out, kind);
    member(&mut out, b",\"lock_key\":", String::from_utf8_lossy(&event.key));
    let task_name = owner.strip_prefix(TASK_PREFIX).unwrap_or(&owner);
    member(&mut out, b",\"task_name\":", task_name);
    if let Some(reason) = &event.ended {
        member(&mut out, b",\"release_reason\":", String::from_utf8_lossy(reason));
    }
    member(&mut out, b",\"timestamp\":", unix_seconds(event.at.ms()));
    member(&mut out, b",\"owner\":", &owner);
    member(&mut out, b",\"token\":", event.token);
    member(&mut out, b",\"db\":", event.db);
    out.push(b'}');
    out
}

/// The initial capacity, which is enough for an ordinary event.
const CAPACITY: usize = 320;

fn member(out: &mut Vec<u8>, name: &[u8], content: impl Serialize) {
    out.extend_from_slice(name);
    value(out, content);
}

fn value(out: &mut Vec<u8>, content: impl Serialize) {
    // Writing text and numbers to memory cannot fail.
    let _ = serde_json::to_writer(out, &content);
}

/// Converts milliseconds since the epoch to seconds.
#[expect(clippy::cast_precision_loss, reason = "below 2^53 until the year 287396")]
fn unix_seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use gpulock_core::Now;

    use super::*;

    #[test]
    fn a_message_has_the_documented_members() {
        let event = Event {
            db: 0,
            key: b"gpu_lock:0"[..].into(),
            owner: b"locked_by_asr"[..].into(),
            token: Some(1_766_500_000_123_456),
            at: Now::from_ms(1_766_500_000_123),
            ended: Some(Cow::Borrowed(b"normal")),
        };
        let message = String::from_utf8(message(&event)).unwrap();
        assert_eq!(
            message,
            concat!(
                r#"{"event_type":"lock_released","lock_key":"gpu_lock:0","#,
                r#""task_name":"asr","release_reason":"normal","#,
                r#""timestamp":1766500000.123,"owner":"locked_by_asr","#,
                r#""token":1766500000123456,"db":0}"#
            )
        );
        assert_eq!(channel(b"gpu_lock:", &event), b"gpu_lock:gpu_lock:0");
    }
}
