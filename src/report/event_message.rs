//! The JSON message of an event, as documented in the command reference.

use gpulock_core::state::event::{Event, What};
use serde::Serialize;

/// The prefix of the task name in owners of the lock manager that the module replaces
/// (migrate-python.md).
const TASK_PREFIX: &[u8] = b"locked_by_";

/// The channel of an event.
pub(crate) fn channel(prefix: &[u8], event: &Event) -> Vec<u8> {
    [prefix, &event.key].concat()
}

/// The message of an event. Bytes that are not valid UTF-8 are replaced.
///
/// The members are written by hand, because neither their names nor most texts need escaping, which
/// would take half of the time of an event.
pub(crate) fn message(event: &Event) -> Vec<u8> {
    let (kind, reason): (&[u8], _) = match &event.what {
        What::Acquired => (b"{\"event_type\":\"lock_acquired\"", None),
        What::Released { reason } => (b"{\"event_type\":\"lock_released\"", Some(reason)),
        What::Revoked { reason, .. } => {
            (b"{\"event_type\":\"lock_revoked\"", Some(reason))
        }
    };
    let mut out = Vec::with_capacity(CAPACITY);
    out.extend_from_slice(kind);
    text(&mut out, b",\"lock_key\":", &event.key);
    let task_name = event.owner.strip_prefix(TASK_PREFIX).unwrap_or(&event.owner);
    text(&mut out, b",\"task_name\":", task_name);
    if let Some(reason) = reason {
        text(&mut out, b",\"release_reason\":", reason);
    }
    member(&mut out, b",\"timestamp\":", unix_seconds(event.at.ms()));
    if let What::Revoked { deadline_ms, .. } = event.what {
        member(&mut out, b",\"deadline\":", unix_seconds(deadline_ms));
    }
    text(&mut out, b",\"owner\":", &event.owner);
    member(&mut out, b",\"token\":", event.token);
    member(&mut out, b",\"db\":", event.db);
    out.push(b'}');
    out
}

/// The initial capacity, which is enough for an ordinary event.
const CAPACITY: usize = 320;

fn text(out: &mut Vec<u8>, name: &[u8], bytes: &[u8]) {
    if is_plain(bytes) {
        out.extend_from_slice(name);
        out.push(b'"');
        out.extend_from_slice(bytes);
        out.push(b'"');
    } else {
        member(out, name, String::from_utf8_lossy(bytes));
    }
}

/// Whether a text is the same in JSON: ASCII without control characters, quotes and backslashes.
fn is_plain(bytes: &[u8]) -> bool {
    // Looks at all bytes, without a branch for each: most texts are plain and short.
    let is_plain =
        |byte: &u8| (byte.wrapping_sub(b' ') < 0x60) & (*byte != b'"') & (*byte != b'\\');
    bytes.iter().map(is_plain).fold(true, |all, plain| all & plain)
}

fn member(out: &mut Vec<u8>, name: &[u8], content: impl Serialize) {
    out.extend_from_slice(name);
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
            what: What::Released { reason: Cow::Borrowed(b"normal") },
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

    #[test]
    fn a_notice_has_a_deadline_and_a_reason() {
        let event = Event {
            db: 0,
            key: b"gpu:0"[..].into(),
            owner: b"asr"[..].into(),
            token: None,
            at: Now::from_ms(1_766_500_000_123),
            what: What::Revoked {
                reason: Cow::Borrowed(b"drain"),
                deadline_ms: 1_766_500_060_123,
            },
        };
        let message = String::from_utf8(message(&event)).unwrap();
        assert_eq!(
            message,
            concat!(
                r#"{"event_type":"lock_revoked","lock_key":"gpu:0","task_name":"asr","#,
                r#""release_reason":"drain","timestamp":1766500000.123,"#,
                r#""deadline":1766500060.123,"owner":"asr","token":null,"db":0}"#
            )
        );
    }

    #[test]
    fn a_text_is_escaped_exactly_if_json_requires_it() {
        for byte in 0..=u8::MAX {
            for before in 0..40 {
                let mut owner = vec![b'x'; before];
                owner.extend([byte, b'y']);
                let event = Event {
                    db: 3,
                    key: b"gpu:0"[..].into(),
                    owner: (*owner).into(),
                    token: None,
                    at: Now::from_ms(1_000),
                    what: What::Acquired,
                };
                let message: serde_json::Value =
                    serde_json::from_slice(&message(&event)).unwrap();
                let expected = String::from_utf8_lossy(&owner);
                assert_eq!(message["owner"], *expected, "byte {byte}");
                assert_eq!(message["task_name"], *expected, "byte {byte}");
            }
        }
    }
}
