//! An event as JSON: what the clients of the contract's channel read.

use gpulock_core::state::event::Event;
use serde::Serialize;

/// What the owners of the replaced clients stand before the name of a task.
const TASK_PREFIX: &str = "locked_by_";

/// The channel of an event.
pub(crate) fn channel(prefix: &[u8], event: &Event) -> Vec<u8> {
    [prefix, &event.key].concat()
}

/// The message of an event. Bytes that are no UTF-8 are replaced.
///
/// The members are put together by hand: their names need no escaping, which would be a
/// third of what an event costs.
pub(crate) fn message(event: &Event) -> Vec<u8> {
    let owner = String::from_utf8_lossy(&event.owner);
    let kind = if event.ended.is_some() { "lock_released" } else { "lock_acquired" };
    let mut out = Vec::with_capacity(ENOUGH);
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

/// Room for an ordinary event.
const ENOUGH: usize = 320;

fn member(out: &mut Vec<u8>, name: &[u8], of: impl Serialize) {
    out.extend_from_slice(name);
    value(out, of);
}

fn value(out: &mut Vec<u8>, of: impl Serialize) {
    // Text and numbers into memory: nothing of it can fail.
    let _ = serde_json::to_writer(out, &of);
}

/// Milliseconds since the epoch as seconds: exact far beyond any date.
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
    fn an_event_is_told_as_the_contract_says() {
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
