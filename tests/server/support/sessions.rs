//! Sessions: connections that close, and the lock `k`.

use gpulock_testkit::{Client, Value, call, wait_until};

use super::clock::DEADLINE;

#[track_caller]
pub(crate) fn inspect(client: &mut Client, field: &str) -> Value {
    call!(client, "GPULOCK.INSPECT", "k").field(field)
}

/// Waits until the server has closed the client.
#[track_caller]
pub(crate) fn wait_disconnected(client: &mut Client, id: i64) {
    wait_until(DEADLINE, format!("client {id} to be disconnected"), || {
        !call!(client, "CLIENT", "LIST").text().contains(&format!("id={id} "))
    });
}

/// Closes a holder's connection and waits for its grace period.
#[track_caller]
pub(crate) fn close_with_grace(holder: Client, client: &mut Client) {
    close(holder, client);
    wait_until(DEADLINE, "the grace period", || !inspect(client, "grace_ms").is_null());
}

/// Closes a connection and waits until the server has noticed.
#[track_caller]
pub(crate) fn close(mut closed: Client, client: &mut Client) {
    let id = closed.id();
    drop(closed);
    wait_disconnected(client, id);
}

/// Closes a connection, with another connection and the client id.
pub(crate) type Way = (&'static str, fn(Client, &mut Client, i64));

pub(crate) const WAYS: [Way; 5] = [
    ("FIN", |holder, _, _| drop(holder)),
    ("half closed", |mut holder, _, _| {
        holder.half_close();
        holder.wait_closed();
    }),
    ("RST", |holder, _, _| holder.reset()),
    ("CLIENT KILL", |_holder, other, id| {
        assert_eq!(call!(other, "CLIENT", "KILL", "ID", id), 1);
    }),
    ("QUIT", |mut holder, _, _| holder.send(&["QUIT"])),
];
