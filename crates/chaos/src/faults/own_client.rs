//! A client of the faults themselves. Its calls go into the history like those of the load, so
//! that the checker holds the server to the same promises.

use gpulock_testkit::{Client, Value};

use super::Site;
use crate::clock::now;
use crate::history::{Answer, Ask, Call, Connection, Entry, Event, How, Lock, Owner};
use crate::speech::{meaning, words};

/// How long a fault waits for a lock.
const BLOCK_MS: u64 = 500;

pub(super) struct OwnClient {
    client: Client,
    connection: Connection,
}

impl OwnClient {
    pub(super) fn connect(site: &mut Site, db: u8) -> Result<Self, String> {
        let mut client = site.server.client();
        select(&mut client, db)?;
        Ok(Self { client, connection: site.own_connection() })
    }

    /// A RESP3 connection with a subscription.
    pub(super) fn subscribed(site: &mut Site, db: u8) -> Result<Self, String> {
        let mut client = site.server.client3();
        select(&mut client, db)?;
        client.send_lines(&["SUBSCRIBE some-channel"]);
        match client.read() {
            Value::Push(_) => {}
            answer => return Err(format!("SUBSCRIBE: {answer:?}")),
        }
        let connection = site.own_connection();
        site.excuse(Event::Subscribed { connection });
        Ok(Self { client, connection })
    }

    pub(super) fn call(&mut self, site: &mut Site, ask: Ask) -> Answer {
        let asked = now();
        let reply = self.client.cmd(&words(&ask));
        let (connection, answer) = (self.connection, meaning(&ask, &reply));
        let call = Call { connection, asked, heard: now(), ask, answer: answer.clone() };
        site.write(Entry::Call(call));
        answer
    }

    pub(super) fn close(self, site: &mut Site) {
        site.excuse(Event::Closed { connection: self.connection, at: now() });
    }
}

fn select(client: &mut Client, db: u8) -> Result<(), String> {
    match client.line(&format!("SELECT {db}")) {
        answer if answer == "OK" => Ok(()),
        answer => Err(format!("SELECT {db}: {answer:?}")),
    }
}

/// A lock that a fault holds, tied to its connection.
pub(super) struct Holder {
    pub(super) client: OwnClient,
    pub(super) lock: Lock,
    pub(super) owner: Owner,
    pub(super) token: u64,
    how: How,
}

impl Holder {
    /// Waits in line for one of the contended locks; none when the wait is over first.
    pub(super) fn of_some_lock(
        site: &mut Site,
        lease_ms: u64,
    ) -> Result<Option<Self>, String> {
        let (lock, owner) = (site.some_lock(), site.outsider());
        let mut client = OwnClient::connect(site, lock.0)?;
        let block_ms = Some(BLOCK_MS);
        let how = How { lease_ms, block_ms, unique: true, grace_ms: Some(0) };
        let answer = client.call(site, Ask::Acquire { lock, owner, how });
        if let Answer::Token(token) = answer {
            return Ok(Some(Self { client, lock, owner, token, how }));
        }
        client.close(site);
        Ok(None)
    }

    /// Asks for the lock again, as its owner.
    pub(super) fn renew(&mut self, site: &mut Site, lease_ms: u64) {
        let (lock, owner) = (self.lock, self.owner);
        let how = How { lease_ms, block_ms: None, ..self.how };
        self.client.call(site, Ask::Acquire { lock, owner, how });
    }

    pub(super) fn extend(&mut self, site: &mut Site, lease_ms: u64) {
        let (lock, owner) = (self.lock, self.owner);
        self.client.call(site, Ask::Extend { lock, owner, lease_ms, token: None });
    }

    /// Releases the lock, and closes the connection.
    pub(super) fn release(mut self, site: &mut Site) {
        let (lock, owner) = (self.lock, self.owner);
        self.client.call(site, Ask::Release { lock, owner, token: None });
        self.client.close(site);
    }

    /// Whether this hold is still the lock's, as INSPECT shows it.
    pub(super) fn still_holds(&self, site: &mut Site) -> Result<bool, String> {
        site.must(&format!("SELECT {}", self.lock.0))?;
        let shown = site.say(&format!("GPULOCK.INSPECT {}", self.lock.key()));
        Ok(!shown.is_null()
            && shown.field("owner") == *self.owner.to_string()
            && shown.field("token") == i64::try_from(self.token).unwrap_or_default())
    }
}
