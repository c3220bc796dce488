//! Subscribers to the module's events.

use gpulock_testkit::{Client, Server};
use serde_json::Value as Json;

/// A connection that subscribes to the channels that match a pattern.
#[track_caller]
pub(crate) fn subscriber(server: &Server, pattern: &str) -> Client {
    let mut subscriber = server.client();
    subscriber.send(&["PSUBSCRIBE", pattern]);
    assert_eq!(subscriber.read().list()[0], "psubscribe");
    subscriber
}

/// The channel and the bytes of the next message.
#[track_caller]
pub(crate) fn next_message(subscriber: &mut Client) -> (Vec<u8>, Vec<u8>) {
    let message = subscriber.read();
    let [_, _, channel, text] = message.list() else { panic!("{message:?}") };
    (channel.bytes().to_vec(), text.bytes().to_vec())
}

/// The next message, which must be JSON.
#[track_caller]
pub(crate) fn next_event(subscriber: &mut Client) -> Json {
    let (_, text) = next_message(subscriber);
    let text = String::from_utf8(text).expect("JSON is UTF-8");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}
