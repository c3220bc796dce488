//! A client of the faults. Its calls are recorded like those of the load, so the checker
//! applies the same rules.

use gpulock_testkit::{Client, Value};

use super::FaultContext;
use crate::clock::now;
use crate::history::{
    AcquireOptions, Call, Connection, Entry, Event, Lock, Owner, Reply, Request,
};
use crate::protocol::{command_words, parse_reply};

/// How long a fault waits for a lock.
const BLOCK_MS: u64 = 500;

pub(super) struct FaultClient {
    client: Client,
    connection: Connection,
}

impl FaultClient {
    pub(super) fn connect(context: &mut FaultContext, db: u8) -> Result<Self, String> {
        let mut client = context.server.client();
        select(&mut client, db)?;
        Ok(Self { client, connection: context.new_connection() })
    }

    /// A RESP3 connection with a subscription.
    pub(super) fn subscribed(context: &mut FaultContext, db: u8) -> Result<Self, String> {
        let mut client = context.server.client3();
        select(&mut client, db)?;
        client.send_lines(&["SUBSCRIBE some-channel"]);
        match client.read() {
            Value::Push(_) => {}
            reply => return Err(format!("SUBSCRIBE: {reply:?}")),
        }
        let connection = context.new_connection();
        context.record_event(Event::Subscribed { connection });
        Ok(Self { client, connection })
    }

    pub(super) fn call(&mut self, context: &mut FaultContext, request: Request) -> Reply {
        let sent = now();
        let reply = self.client.cmd(&command_words(&request));
        let (connection, reply) = (self.connection, parse_reply(&request, &reply));
        let call =
            Call { connection, sent, received: now(), request, reply: reply.clone() };
        context.write(Entry::Call(call));
        reply
    }

    pub(super) fn close(self, context: &mut FaultContext) {
        context.record_event(Event::Closed { connection: self.connection, at: now() });
    }
}

fn select(client: &mut Client, db: u8) -> Result<(), String> {
    match client.line(&format!("SELECT {db}")) {
        reply if reply == "OK" => Ok(()),
        reply => Err(format!("SELECT {db}: {reply:?}")),
    }
}

/// A lock held by a fault, tied to its connection.
pub(super) struct Holder {
    pub(super) client: FaultClient,
    pub(super) lock: Lock,
    pub(super) owner: Owner,
    pub(super) token: u64,
    options: AcquireOptions,
}

impl Holder {
    /// Waits for a random contended lock; none if the wait times out.
    pub(super) fn of_random_lock(
        context: &mut FaultContext,
        lease_ms: u64,
    ) -> Result<Option<Self>, String> {
        let (lock, owner) = (context.random_lock(), context.new_owner());
        let mut client = FaultClient::connect(context, lock.0)?;
        let options = AcquireOptions {
            block_ms: Some(BLOCK_MS),
            unique: true,
            grace_ms: Some(0),
            ..AcquireOptions::with_lease(lease_ms)
        };
        let reply = client.call(context, Request::Acquire { lock, owner, options });
        if let Reply::Token(token) = reply {
            return Ok(Some(Self { client, lock, owner, token, options }));
        }
        client.close(context);
        Ok(None)
    }

    /// Acquires the lock again as its owner.
    pub(super) fn renew(&mut self, context: &mut FaultContext, lease_ms: u64) {
        let (lock, owner) = (self.lock, self.owner);
        let options = AcquireOptions { lease_ms, block_ms: None, ..self.options };
        self.client.call(context, Request::Acquire { lock, owner, options });
    }

    pub(super) fn extend(&mut self, context: &mut FaultContext, lease_ms: u64) {
        let (lock, owner) = (self.lock, self.owner);
        self.client.call(context, Request::Extend { lock, owner, lease_ms, token: None });
    }

    /// Releases the lock and closes the connection.
    pub(super) fn release(mut self, context: &mut FaultContext) {
        let (lock, owner) = (self.lock, self.owner);
        self.client.call(context, Request::Release { lock, owner, token: None });
        self.client.close(context);
    }

    /// Whether INSPECT still shows this hold.
    pub(super) fn still_holds(&self, context: &mut FaultContext) -> Result<bool, String> {
        context.expect_ok(&format!("SELECT {}", self.lock.0))?;
        let inspection = context.send(&format!("GPULOCK.INSPECT {}", self.lock.key()));
        Ok(!inspection.is_null()
            && inspection.field("owner") == *self.owner.to_string()
            && inspection.field("token") == i64::try_from(self.token).unwrap_or_default())
    }
}
