//! A client that waits in whichever call.

use gpulock_testkit::{Client, Server};

/// A connection that has asked, and waits.
#[track_caller]
pub(crate) fn waiter(server: &Server, request: &str) -> Client {
    let mut client = server.client();
    client.send_lines(&[request]);
    client
}
