//! Where faults happen: one server under load, and what a fault needs to do its work and to
//! say what it excuses.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use gpulock_testkit::server::Builder;
use gpulock_testkit::{Client, Flavour, Server, Value, encode};

use super::island::Island;
use super::wall_clock::WallClock;
use super::{Fault, aof_full};
use crate::client::{Floor, HOT};
use crate::clock::now;
use crate::crew::Crew;
use crate::dice::Dice;
use crate::history::{Connection, Entry, Event, Lock, Owner, Pen};
use crate::record::{Record, Writer};

/// What survives the death of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// `appendfsync always`
    AofAlways,
    /// `appendfsync everysec`
    AofEverysec,
    /// The last snapshot.
    Rdb,
}

/// What must be there before the server is, if there is a fault that needs it.
pub(crate) struct Ground {
    /// Clients that can be cut off, or why there are none.
    pub(crate) island: Result<Island, String>,
    /// The server's wall clock, or why it is the machine's.
    pub(crate) wall_clock: Result<WallClock, String>,
    /// Whether the size of the server's files can be limited, or why not.
    pub(crate) file_limit: Result<(), String>,
}

impl Ground {
    pub(crate) fn prepare(faults: &[&'static dyn Fault], flavour: &Flavour) -> Self {
        let wanted = |name: &str| faults.iter().any(|fault| fault.name() == name);
        let unwanted = || "no fault needs it".to_owned();
        Self {
            island: if wanted("half-open") { Island::rise() } else { Err(unwanted()) },
            wall_clock: match wanted("clock") {
                true => WallClock::make(flavour),
                false => Err(unwanted()),
            },
            file_limit: match wanted("aof-full") {
                true => aof_full::can_ignore_signal(),
                false => Err(unwanted()),
            },
        }
    }

    /// A server that stands on it.
    pub(crate) fn under(&self, mut builder: Builder) -> Builder {
        if let Ok(island) = &self.island {
            let addresses = format!("{} {}", Ipv4Addr::LOCALHOST, island.address());
            builder = builder.arg("bind", addresses).arg("protected-mode", "no");
        }
        if self.file_limit.is_ok() {
            builder = builder.under(&aof_full::UNDER);
        }
        match &self.wall_clock {
            Ok(clock) => clock.given_to(builder),
            Err(_) => builder,
        }
    }
}

/// A connection of the load, as the server sees it.
pub(crate) struct Seen {
    pub(crate) id: String,
    pub(crate) connection: Connection,
    pub(crate) waits: bool,
    pub(crate) user: String,
}

/// A server under load.
pub struct Site {
    pub(crate) server: Server,
    /// Who follows it, once a fault has asked for that.
    pub(crate) replica: Option<Server>,
    pub(crate) persistence: Persistence,
    /// The module that it has loaded.
    pub(crate) module: PathBuf,
    pub(crate) ground: Ground,
    /// What the clients share.
    pub(crate) floor: Floor,
    /// Clients in processes of their own.
    pub(crate) crew: Crew,
    /// The clock was stepped ahead and back, and the tokens are ahead of it since. Only as long
    /// as the server remembers them is it promised that they rise.
    pub(crate) tokens_are_ahead: bool,
    /// Decides what a fault leaves open.
    pub(crate) dice: Dice,
    admin: Client,
    pen: Writer,
    outsiders: u32,
    connections: u32,
    is_renamed: bool,
}

/// Commands that some servers have under other names only.
const RENAMED: [&str; 8] =
    ["CONFIG", "EXISTS", "GET", "PERSIST", "PEXPIRE", "PTTL", "PUBLISH", "SCRIPT"];

/// Renames them.
pub(crate) fn renamed(builder: Builder) -> Builder {
    RENAMED.into_iter().fold(builder, |builder, name| {
        builder.arg("rename-command", format!("{name} renamed-{name}"))
    })
}

impl Site {
    pub(crate) fn new(
        (server, persistence, is_renamed): (Server, Persistence, bool),
        module: PathBuf,
        ground: Ground,
        (floor, crew): (Floor, Crew),
        dice: Dice,
        record: &Record,
    ) -> Self {
        let admin = server.client();
        let pen = record.pen();
        Self {
            server,
            replica: None,
            persistence,
            module,
            ground,
            floor,
            crew,
            tokens_are_ahead: false,
            dice,
            admin,
            pen,
            outsiders: 0,
            connections: 0,
            is_renamed,
        }
    }

    /// Says a command over the connection of the faults; an error is an answer like others.
    pub(crate) fn say(&mut self, line: &str) -> Value {
        let line = self.translated(line);
        self.admin.line(&line)
    }

    /// What this server calls a command.
    pub(crate) fn command(&self, name: &str) -> String {
        match self.is_renamed && RENAMED.contains(&name) {
            true => format!("renamed-{name}"),
            false => name.to_owned(),
        }
    }

    fn translated(&self, line: &str) -> String {
        let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
        format!("{} {rest}", self.command(name))
    }

    /// Says commands that nobody else's can come between.
    pub(crate) fn say_at_once(&mut self, lines: &[&[&str]]) -> Vec<Value> {
        let bytes: Vec<Vec<u8>> = lines.iter().map(|words| encode(words)).collect();
        self.admin.send_raw(&bytes.concat());
        lines.iter().map(|_| self.admin.read()).collect()
    }

    /// As [`Site::say`], for arguments that are bytes.
    pub(crate) fn say_bytes(&mut self, words: &[&[u8]]) -> Value {
        self.admin.cmd(words)
    }

    /// As [`Site::say`], where anything but OK is a failure.
    pub(crate) fn must(&mut self, line: &str) -> Result<(), String> {
        match self.say(line) {
            answer if answer == "OK" => Ok(()),
            answer => Err(format!("{line}: {answer:?}")),
        }
    }

    /// Connects anew, after the server was started again.
    pub(crate) fn reconnect(&mut self) {
        self.admin = self.server.client();
    }

    /// Writes down what a fault excuses.
    pub(crate) fn excuse(&mut self, event: Event) {
        self.write(Entry::Event(event));
    }

    pub(crate) fn write(&mut self, entry: Entry) {
        self.pen.write(entry);
    }

    /// Does something to the keys of some locks, or of all, and writes it down.
    pub(crate) fn touch<T>(
        &mut self,
        by: &str,
        locks: Option<Vec<Lock>>,
        work: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let from = now();
        let done = work(self);
        self.excuse(Event::Touched { by: by.to_owned(), locks, from, to: now() });
        done
    }

    /// Does something under which calls may be refused, and writes it down.
    pub(crate) fn refuse<T>(
        &mut self,
        code: &str,
        work: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let from = now();
        let done = work(self);
        self.excuse(Event::Refuses { codes: vec![code.to_owned()], from, to: now() });
        done
    }

    /// Lets a fault last for some milliseconds.
    pub(crate) fn last(&mut self, from_ms: u64, to_ms: u64) {
        thread::sleep(Duration::from_millis(self.dice.between(from_ms, to_ms)));
    }

    /// One of the locks that are fought for.
    pub(crate) fn some_lock(&mut self) -> Lock {
        let db = u8::from(self.dice.percent(25));
        Lock(db, self.dice.below(HOT))
    }

    /// A new name for somebody who uses plain commands.
    pub(crate) fn outsider(&mut self) -> Owner {
        self.outsiders += 1;
        Owner(0, self.outsiders)
    }

    /// A new connection of the faults themselves.
    pub(crate) fn own_connection(&mut self) -> Connection {
        self.connections += 1;
        Connection(0, self.connections)
    }

    /// The connections of the load.
    pub(crate) fn connections(&mut self) -> Vec<Seen> {
        let list = self.say("CLIENT LIST").text();
        list.lines().filter_map(seen).collect()
    }

    /// Kills all clients that have processes of their own; answers how many of the crew.
    pub(crate) fn kill_processes(&mut self) -> usize {
        if let Ok(island) = &mut self.ground.island {
            island.kill_all();
        }
        self.crew.kill_all()
    }

    /// Starts clients in processes of their own: so many of the crew, and those cut off.
    pub(crate) fn start_processes(&mut self, of_crew: usize) -> Result<(), String> {
        if let Ok(island) = &mut self.ground.island {
            island.settle()?;
        }
        self.crew.start(of_crew)
    }

    /// Lets all of them come to their end.
    pub(crate) fn finish_processes(&mut self) {
        if let Ok(island) = &mut self.ground.island {
            island.finish();
        }
        self.crew.finish();
    }

    /// Closes the connection of everybody who waits, as an operator would.
    pub(crate) fn send_waiters_away(&mut self) {
        for waiting in self.connections().into_iter().filter(|seen| seen.waits) {
            self.excuse(Event::Closed { connection: waiting.connection, at: now() });
            self.say(&format!("CLIENT KILL ID {}", waiting.id));
        }
    }
}

/// A line of CLIENT LIST.
fn seen(line: &str) -> Option<Seen> {
    let field = |name: &str| {
        line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    };
    Some(Seen {
        id: field("id")?.to_owned(),
        connection: field("name")?.parse().ok()?,
        waits: field("flags")?.contains('b'),
        user: field("user")?.to_owned(),
    })
}
